"""What people give language methods by mistake: each is refused by one sentence."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import setting
from trees import is_one_sentence

import mu_jax as mu
from mu_jax.data.tokens import Preference, Tokens, TokenTargets
from mu_jax.models import decoder as decoders
from mu_jax.objectives import keep_reference, reference_nll

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KEY, SGD = jax.random.key(0), optax.sgd(0.1)
METHODS = sorted(mu.transforms.LANGUAGE)
OPTIONS = {"pdu": {"tolerance": 1.0}, "rmu": {"layer": "logits"}}


def chosen_for(name):
    return setting("preferences" if name == "dpo" else "tokens")


def factory(name, model, retain_term="nll"):
    options = dict(OPTIONS.get(name, {}))
    if name == "code_eraser":
        options["epochs"] = 1
    else:
        options["recipe"] = mu.PairingRecipe(retain_term, epochs=1)
    return getattr(mu, name)(model, SGD, **options)


def changed(examples, change):
    """The examples with changed targets, of winner and loser."""
    y = examples.targets
    if isinstance(y, Preference):
        return examples.replace(targets=Preference(*(p._replace(**change(p)) for p in y)))
    return examples.replace(targets=y._replace(**change(y)))


def unscored(y):
    return {"mask": jnp.zeros_like(y.mask)}


def first_column_alone(y):
    return {"mask": jnp.zeros_like(y.mask).at[:, 0].set(1)}


def foreign(y):
    return {"tokens": y.tokens + 100}


def refused(unlearn, variables, sets, says):
    with pytest.raises(ValueError, match=says) as error:
        unlearn(KEY, variables, *sets)
    assert is_one_sentence(str(error.value))


@pytest.mark.parametrize("part", ["forget", "retain"])
@pytest.mark.parametrize("name", METHODS)
def test_empty_targets(name, part):
    chosen = chosen_for(name)
    for change in (unscored, first_column_alone):
        sets = dict(zip(("forget", "retain"), chosen.sets()))
        sets[part] = changed(sets[part], change)
        says = f"expected scored tokens in the {part} set, found none"
        refused(factory(name, chosen.model), chosen.variables, sets.values(), says)


@pytest.mark.parametrize("method", ["finetune", "gradient_ascent", "ssd"])
def test_empty_targets_of_other_methods(method):
    chosen = setting("tokens")
    forget, retain = (changed(x, unscored) for x in chosen.sets())
    options = {"alpha": 1.0} if method == "ssd" else {"optimizer": SGD}
    unlearn = getattr(mu, method)(chosen.model, **options)
    refused(unlearn, chosen.variables, (forget, retain), "expected scored tokens in the")


@pytest.mark.slow
def test_a_retain_set_that_is_not_read_may_be_empty():
    chosen = setting("tokens")
    forget, retain = chosen.sets()
    for term in ("none", "kl_all"):
        unlearn = factory("npo", chosen.model, term)
        after, _ = unlearn(KEY, chosen.variables, forget, changed(retain, unscored))
        assert not np.array_equal(after.params["head"], chosen.variables.params["head"])


def test_secrets_outside_of_what_is_scored():
    chosen = setting("tokens")
    forget, retain = chosen.sets()

    def nowhere(y):
        return {"secret": jnp.where(y.mask > 0, 0.0, 1.0)}

    says = "expected secrets among the scored tokens, found none in 6 rows"
    unlearn = factory("code_eraser", chosen.model)
    refused(unlearn, chosen.variables, (changed(forget, nowhere), retain), says)


@pytest.mark.parametrize("part", ["forget", "retain"])
@pytest.mark.parametrize("name", METHODS)
def test_targets_by_a_tokenizer_of_another_model(name, part):
    chosen = chosen_for(name)
    sets = dict(zip(("forget", "retain"), chosen.sets()))
    sets[part] = changed(sets[part], foreign)
    says = rf"expected tokens from 0 to 7, .* found 10\d in row .* of the {part} set: encode"
    refused(factory(name, chosen.model), chosen.variables, sets.values(), says)


def test_labels_of_padding_are_no_tokens():
    """-100 where nothing is scored, and in rows of weight 0, is no token of another model."""
    chosen = setting("tokens")
    sets = [
        changed(x, lambda y: {"tokens": jnp.where(y.mask > 0, y.tokens, -100)})
        for x in chosen.sets()
    ]
    weight = jnp.ones(sets[0].num_examples).at[0].set(0)
    one_out = changed(sets[0], lambda y: {"tokens": y.tokens.at[0].set(999)})
    factory("npo", chosen.model)(KEY, chosen.variables, one_out.replace(weight=weight), sets[1])


def language_model(max_positions=8):
    config = decoders.DecoderConfig(
        "llama", vocab_size=16, width=8, depth=1, num_heads=2, num_kv_heads=1, head_dim=4,
        mlp_width=16, max_positions=max_positions,
    )  # fmt: skip
    decoder = decoders.Decoder(config)
    return decoder.model(mu.token_losses.TokenCrossEntropy()), decoder.init(KEY)


def rows(length=6, prompt=0):
    """Four rows, of which the first token, never scored, is the prompt."""
    ids = np.arange(4 * length).reshape(4, length) % 16
    ids[:, 0] = prompt
    segment = np.ones_like(ids)
    inputs = Tokens(ids, np.tile(np.arange(length), (4, 1)), segment)
    mask = segment.astype(np.float32)
    mask[:, 0] = 0
    return mu.split(mu.batches(inputs, TokenTargets(ids, mask), batch_size=2), [0])


@pytest.mark.parametrize("name", ["npo", "grad_diff", "undial", "pdu"])
def test_rows_longer_than_the_model(name):
    model, variables = language_model(max_positions=4)
    says = "expected rows of at most 4 tokens, found 6: cut them"
    refused(factory(name, model), variables, rows(), says)


@pytest.mark.quick("pdu")
@pytest.mark.parametrize("name", ["npo", "pdu"])
def test_prompts_by_a_tokenizer_of_another_model(name):
    model, variables = language_model()
    says = "expected tokens from 0 to 15, .* found 77 in row 0, column 0 of the forget set"
    refused(factory(name, model), variables, rows(prompt=77), says)
    factory(name, model)(KEY, variables, *rows())


def test_a_reference_of_other_variables_and_of_other_rows():
    model, variables = language_model()
    forget, retain = rows()
    kept = keep_reference(reference_nll(model, variables, forget), forget, variables)
    unlearn = factory("npo", model)
    expected = unlearn(KEY, variables, forget, retain)[0]
    found = unlearn(KEY, variables, kept.attach(forget, variables), retain)[0]
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
    other = jax.tree.map(lambda x: 1.1 * x, variables)
    for data, given, says in (
        (forget, other, "expected scores of these variables"),
        (retain, variables, "expected a score of every row"),
        (changed(forget, lambda y: {"tokens": y.tokens[:, ::-1]}), variables, "scores of these"),
    ):
        with pytest.raises(ValueError, match=says) as error:
            kept.attach(data, given)
        assert is_one_sentence(str(error.value))


@pytest.mark.slow
def test_inside_a_program_tokens_of_another_model_are_told():
    model, variables = language_model()
    forget, retain = rows()
    forget = changed(forget, foreign)
    _, info = jax.jit(factory("npo", model))(KEY, variables, forget, retain)
    assert "The loss was nan at step 0" in " ".join(info.messages())
