"""Methods that fit rows of tokens beside drawn retained rows."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import setting
from trees import assert_close, assert_identical, is_one_sentence

import mu_jax as mu
from mu_jax.data.partners import partners, whole
from mu_jax.data.tokens import Tokens, TokenTargets
from mu_jax.loops.gradients import micro_batches, total
from mu_jax.loops.recording import record
from mu_jax.objectives.pairing import dealt, joined, pairing
from mu_jax.transforms._shared.pairing import with_reference

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KEY, SGD = jax.random.key(3), optax.sgd(0.1)
TWO = mu.PairingRecipe(epochs=2)
METHODS = sorted(mu.transforms.LANGUAGE)


def chosen_for(name):
    return setting("preferences" if name == "dpo" else "tokens")


def run(name, sets=None, recipe=TWO, **options):
    chosen = chosen_for(name)
    factory = getattr(mu, name)
    unlearn = factory(chosen.model, SGD, recipe=recipe, **options)
    return unlearn(KEY, chosen.variables, *(sets or chosen.sets()))


# --- the reference ---


@pytest.mark.quick("npo")
@pytest.mark.parametrize("name", ["npo", "dpo"])
def test_a_cached_reference_gives_the_bits_of_one_computed_at_the_start(name):
    chosen = chosen_for(name)
    forget, retain = chosen.sets()
    cached = with_reference(chosen.model, chosen.variables, forget, 1)
    scores = [np.asarray(y.reference) for y in _parts(cached.targets)]
    assert all(score.shape == (forget.num_examples,) and score.any() for score in scores)
    assert_identical(run(name, (cached, retain))[0], run(name)[0])
    moved = jax.tree.map(lambda x: 1.1 * x, chosen.variables)
    other = with_reference(chosen.model, moved, forget, 1)
    found, expected = run(name, (other, retain))[0], run(name)[0]
    assert not np.allclose(found.params["head"], expected.params["head"], atol=1e-5)


def _parts(targets):
    return list(targets) if isinstance(targets, mu.data.Preference) else [targets]


def test_a_cached_reference_is_a_live_one():
    """Every step of NPO against a second model that runs beside the first."""
    chosen = setting("tokens")
    forget, retain = (x.replace(batch_size=100) for x in chosen.sets())
    recipe = mu.PairingRecipe("none", epochs=3)
    found, _ = mu.npo(chosen.model, SGD, beta=0.3, recipe=recipe)(
        KEY, chosen.variables, forget, retain
    )
    params = chosen.variables.params

    def live(params, first):
        logits = [
            chosen.model.apply(chosen.variables._replace(params=p), forget.inputs)
            for p in (params, first)
        ]
        sums = [mu.token_losses.sequence_nll(z, forget.targets)[0] for z in logits]
        return (-2 / 0.3 * jax.nn.log_sigmoid(0.3 * (sums[0] - sums[1]))).mean()

    step = descent(live)
    for _ in range(3):
        params = step(params, chosen.variables.params)
    assert_close(found.params, params)


def descent(loss):
    """A step of `SGD` by hand, one program."""

    @jax.jit
    def step(params, *others):
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params, *others))

    return step


def test_the_first_loss_of_npo_is_that_of_its_reference():
    _, info = run("npo", beta=0.5, recipe=mu.PairingRecipe("none", epochs=1))
    np.testing.assert_allclose(info.details.loss[0], 4 * np.log(2), rtol=1e-6)


@pytest.mark.parametrize("term", ["kl", "kl_all"])
def test_the_divergence_of_the_first_step_is_0(term):
    recipe = mu.PairingRecipe(term, gamma=0.0, epochs=1)
    after, info = run("npo", recipe=recipe)
    np.testing.assert_allclose(info.details.loss, 0, atol=1e-6)
    assert_close(after, setting("tokens").variables)


@pytest.mark.parametrize(
    ("name", "term", "models"), [("npo", "nll", 1), ("dpo", "nll", 1), ("npo", "kl", 2)]
)
def test_a_step_holds_a_second_model_for_divergences_alone(name, term, models):
    chosen = chosen_for(name)
    unlearn = getattr(mu, name)(chosen.model, SGD, recipe=mu.PairingRecipe(term))
    with record() as programs:
        jax.eval_shape(unlearn, KEY, chosen.variables, *chosen.sets())
    held = [x.shape for x in jax.tree.leaves(programs[-1].arguments)]
    assert held.count(chosen.variables.params["head"].shape) == models


# --- one step by hand ---


def test_a_step_is_that_of_both_terms_on_the_drawn_rows():
    chosen = setting("tokens")
    forget, retain = chosen.sets()
    rows = forget.replace(batch_size=forget.num_examples)
    recipe = mu.PairingRecipe(gamma=0.5, alpha=2.0, retain_rows=3, steps=1, batch_size=100)
    found, _ = run("grad_diff", recipe=recipe)
    key = jax.random.fold_in(jax.random.fold_in(KEY, 0), 1)
    drawn = partners(key, rows.at(0), whole(retain), 3)

    def mean(params, inputs, targets):
        logits = chosen.model.apply(chosen.variables._replace(params=params), inputs)
        nll, mask = mu.token_losses.scored_nll(logits, targets)
        return (nll * mask).sum() / mask.sum()

    def value(params):
        kept = mean(params, drawn.inputs, drawn.targets)
        return 2 * kept - 0.5 * mean(params, forget.inputs, forget.targets)

    assert_close(found.params, descent(value)(chosen.variables.params))


def test_joined_rows_are_dealt_again():
    parts = [{"x": jnp.arange(6.0).reshape(3, 2) + 10 * n} for n in range(4)]
    assert joined(parts)["x"].shape == (12, 2)
    assert_identical(dealt(joined(parts), 4), parts)


# --- what must not matter ---


@pytest.mark.slow
@pytest.mark.quick("npo")
@pytest.mark.parametrize("name", ["npo", "dpo", "undial"])
def test_parts_of_a_batch_give_the_same(name):
    recipe = mu.PairingRecipe("kl", retain_rows=2, epochs=2, batch_size=6)
    in_parts = recipe._replace(gradients=micro_batches(3))
    assert_close(run(name, recipe=in_parts)[0], run(name, recipe=recipe)[0])


@pytest.mark.slow
def test_devices_do_not_matter():
    chosen = setting("tokens")
    recipe = mu.PairingRecipe("kl", retain_rows=2, epochs=2)
    expected = run("npo", recipe=recipe)[0]
    mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4])
    sets = tuple(mu.shard(x, mesh) for x in chosen.sets())
    assert_close(run("npo", sets, recipe=recipe)[0], expected)


def padded(examples):
    def pad(x):
        return jnp.pad(x, ((0, 0), (0, 3)))

    y = examples.targets
    return examples.replace(
        inputs=pad(examples.inputs), targets=TokenTargets(*map(pad, (y.tokens, y.mask, y.secret)))
    )


@pytest.mark.slow
@pytest.mark.quick("npo")
@pytest.mark.parametrize("name", ["npo", "ce_u", "undial"])
def test_longer_padding_changes_nothing(name):
    sets = tuple(padded(x) for x in chosen_for(name).sets())
    assert_close(run(name, sets)[0], run(name)[0])


def table_model():
    """A table of bigrams: documents of a row do not see one another."""
    loss = mu.token_losses.TokenCrossEntropy()
    return mu.from_function(lambda w, state, x: w[x.tokens], loss)


def document_sets(packed):
    """Four documents to forget, in four rows or packed in two, and one row to retain."""
    rng = np.random.default_rng(0)
    tokens, mask = rng.integers(6, size=(5, 4)), np.tile([0.0, 1, 1, 1], (5, 1))
    segment = np.ones_like(tokens)
    if packed:
        tokens, mask, segment = (
            np.concatenate([x[:4].reshape(2, 8), np.pad(x[4:], ((0, 0), (0, 4)))])
            for x in (tokens, mask, np.array([[1] * 4, [2] * 4, [1] * 4, [2] * 4, [1] * 4]))
        )
    inputs = Tokens(tokens, np.zeros_like(tokens), segment)
    targets = TokenTargets(tokens, mask.astype(np.float32))
    rows = len(tokens)
    data = mu.batches(inputs, targets, batch_size=4)
    return mu.split(data, range(rows - 1))


@pytest.mark.slow
@pytest.mark.quick("npo")
@pytest.mark.parametrize("name", ["npo", "simnpo"])
def test_packed_documents_are_forgotten_as_rows_are(name):
    start = mu.Variables(jnp.asarray(np.random.default_rng(1).normal(size=(6, 6)), jnp.float32))

    def unlearned(packed):
        factory = getattr(mu, name)
        unlearn = factory(table_model(), SGD, recipe=TWO, documents=2 if packed else 1)
        return unlearn(KEY, start, *document_sets(packed))[0]

    assert_close(unlearned(True), unlearned(False))


# --- numbers and their refusal ---


@pytest.mark.slow
def test_weights_of_the_recipe_may_be_traced():
    def unlearned(gamma, alpha):
        return run("npo", recipe=TWO._replace(gamma=gamma, alpha=alpha))[0].params["head"]

    gammas, alphas = (0.5, 2.0, 0.5), (1.0, 1.0, 3.0)
    many = jax.vmap(unlearned)(jnp.array(gammas), jnp.array(alphas))
    for gamma, alpha, found in zip(gammas, alphas, many):
        np.testing.assert_allclose(found, unlearned(gamma, alpha), rtol=1e-4, atol=1e-6)
    assert not np.allclose(many[0], many[1]) and not np.allclose(many[0], many[2])


REFUSED = {
    "expected a retain term among": {"retain_term": "mse"},
    "expected alpha >= 0": {"alpha": -1.0},
    "expected retain_rows as a whole number >= 1": {"retain_rows": 0},
}


@pytest.mark.parametrize("says", REFUSED)
def test_a_recipe_that_cannot_be_is_refused_in_one_sentence(says):
    with pytest.raises(ValueError, match=says) as error:
        mu.npo(setting("tokens").model, SGD, recipe=mu.PairingRecipe(**REFUSED[says]))
    assert is_one_sentence(str(error.value))


def test_rows_of_two_lengths_are_refused_in_one_sentence():
    forget, retain = setting("tokens").sets()
    with pytest.raises(ValueError, match="rows of one length") as error:
        run("npo", (forget, padded(retain)))
    assert is_one_sentence(str(error.value))


@pytest.mark.parametrize("name", ["npo", "wga", "undial"])
def test_labels_of_classes_are_refused_in_one_sentence(name):
    chosen = setting("raw")
    unlearn = getattr(mu, name)(chosen.model, SGD)
    with pytest.raises(TypeError, match="TokenTargets") as error:
        unlearn(KEY, chosen.variables, *chosen.sets())
    assert is_one_sentence(str(error.value))


def test_language_methods_are_public():
    assert all(inspect.isfunction(getattr(mu, name)) for name in METHODS)
    assert set(METHODS) <= set(mu.transforms.__all__)


def test_objectives_compare_by_value():
    model = setting("tokens").model
    assert pairing(model, total) == pairing(model, total)
    assert pairing(model, total) != pairing(model, total, retain="kl")


# --- the end of a fit ---


def after_three(known, variables):
    return known + 1, known + 1 >= 3


@pytest.mark.quick("npo")
@pytest.mark.parametrize("name", ["npo", "undial"])
def test_a_rule_ends_the_fit(name):
    """Behind three of ten steps, as a fit of three; also inside a program."""
    until = mu.loops.Until(jnp.zeros((), jnp.int32), after_three)
    ten, three = (TWO._replace(steps=n, until=until) for n in (10, 3))
    never = until._replace(after=lambda known, variables: (known, False))
    found, info = run(name, recipe=ten)
    assert_identical(found, run(name, recipe=three._replace(until=never))[0])
    assert not np.array_equal(found.params["head"], run(name, recipe=TWO)[0].params["head"])
    assert int(info.steps) == 3 and int(info.details.known) == 3
    assert float(info.example_passes) == float(info.details.fits[0].examples[:3].sum())
    chosen = chosen_for(name)
    unlearn = getattr(mu, name)(chosen.model, SGD, recipe=ten)
    again, told = jax.jit(unlearn)(KEY, chosen.variables, *chosen.sets())
    assert_close(again, found)
    assert int(told.steps) == 3


def test_epochs_bound_a_fit_with_a_rule():
    never = mu.loops.Until((), lambda known, variables: (known, False))
    info = run("npo", recipe=TWO._replace(until=never))[1]
    assert int(info.steps) == 2 * chosen_for("npo").sets()[0].num_batches


@pytest.mark.parametrize("name", ["pdu", "rmu"])
def test_methods_that_take_all_steps_refuse_a_rule(name):
    until = mu.loops.Until((), lambda known, variables: (known, True))
    options = {"pdu": {"tolerance": 1.0}, "rmu": {"layer": "logits"}}[name]
    with pytest.raises(ValueError, match=r"expected None, .* as until of the recipe, found Until"):
        run(name, recipe=TWO._replace(until=until), **options)
    with pytest.raises(ValueError, match=r"expected a mu.loops.Until as until .*, found function"):
        run("npo", recipe=TWO._replace(until=lambda known: known))
