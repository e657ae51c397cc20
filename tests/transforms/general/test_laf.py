"""LAF: what it reads, what it moves, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import setting
from trees import assert_close, assert_identical, is_one_sentence, stack

import mu_jax as mu
from mu_jax.objectives.laf import aligned

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KEY, ADAM = jax.random.key(0), optax.adam(1e-2)
OPTIONS = {"epochs": 1, "vae_epochs": 2, "latent": 2, "widths": (8, 4)}


def hidden(params, state, inputs):
    return jnp.tanh(inputs @ params["hidden"] + params["bias"]) - state


def observe(params, state, inputs):
    entering = hidden(params, state, inputs)
    return entering @ params["head"], {"hidden": entering}


RAW = setting("raw")
NAMED = mu.from_function(lambda *a: observe(*a)[0], RAW.model.loss, observe=observe)


def unlearned(model=RAW.model, sets=None, **options):
    unlearn = mu.watched(mu.laf(model, ADAM, **{**OPTIONS, **options}), False)
    return unlearn(KEY, RAW.variables, *(RAW.sets() if sets is None else sets))


@pytest.mark.slow
def test_no_label_is_read_and_what_lies_behind_the_embedding_stays():
    expected, _ = unlearned()
    others = [part.replace(targets=jnp.full_like(part.targets, 2)) for part in RAW.sets()]
    assert_identical(unlearned(sets=others)[0], expected)
    before = RAW.variables.params
    assert_identical(expected.params["head"], before["head"])
    assert (expected.params["hidden"] != before["hidden"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("embed", ["hidden", lambda v, x: hidden(*v, x)], ids=["name", "function"])
def test_the_embedding_is_by_default_the_input_of_the_last_layer(embed):
    assert_close(unlearned(NAMED, embed=embed), unlearned(), rtol=1e-4)


@pytest.mark.slow
def test_the_first_autoencoder_may_see_the_forget_set():
    alone, both = (unlearned(retain_vae_excludes_forget=x)[1].details for x in (True, False))
    assert alone.retain_vae.examples.sum() == 2 * 16
    assert both.retain_vae.examples.sum() == 2 * 22
    assert_identical(alone.forget_vae, both.forget_vae)


def test_every_term_pulls_its_way():
    """Retained rows keep their direction, forgotten ones turn, more with more passes."""

    def cosines(variables, data):
        now, then = (hidden(*v, jnp.asarray(data.inputs)) for v in (variables, RAW.variables))
        return (now * then).sum(1) / jnp.linalg.norm(now, axis=1) / jnp.linalg.norm(then, axis=1)

    after, info = unlearned(epochs=40, temperature=0.5)
    forget, retain = (cosines(after, data).mean() for data in RAW.sets())
    assert forget < retain - 0.05
    steps = 40 * 2
    assert info.steps == 2 * steps
    assert info.example_passes == 2 * 22 + 2 * 2 * 40 * 6


def test_rows_of_weight_0_are_in_no_sum():
    weight, c = jnp.array([1.0, 0.0, 1.0]), jnp.array([0.2, jnp.nan, 0.4])
    found = aligned((c, weight), (c, weight), 2.0)
    expected = 0.6 - 2 * np.log(np.exp(0.1) + np.exp(0.2))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.slow
def test_a_grid_of_numbers_is_one_program():
    def unlearn(scale):
        return unlearned(temperature=scale, kl_weight=0.1 * scale)[0]

    scales = jnp.array([0.5, 2.0])
    found = jax.vmap(unlearn)(scales)
    assert_close(found, stack([unlearn(float(x)) for x in scales]), rtol=1e-4)
    assert (found.params["hidden"][0] != found.params["hidden"][1]).any()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"decoder": "softmax"}, "'linear' or 'sigmoid', found 'softmax'"),
        ({"temperature": 0.0}, "temperature >= 1e-06, found 0"),
        ({"latent": 0}, "latent as a whole number >= 1"),
        ({"widths": (8, 0)}, r"widths\[1\] as a whole number >= 1"),
    ],
)
def test_wrong_arguments_are_refused_at_once(options, says):
    with pytest.raises(ValueError, match=says) as error:
        mu.laf(RAW.model, ADAM, **options)
    assert is_one_sentence(str(error.value))


def test_an_activation_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="among hidden, found 'logits'") as error:
        unlearned(NAMED, embed="logits")
    assert is_one_sentence(str(error.value))


def test_a_model_without_a_last_layer_needs_an_embedding():
    model = mu.from_function(lambda *a: jax.nn.softmax(observe(*a)[0]), RAW.model.loss)
    with pytest.raises(ValueError, match="linear in 'params/head'") as error:
        unlearned(model)
    assert is_one_sentence(str(error.value))
