"""Fine-tuning on the retain set."""

import jax
import jax.numpy as jnp
import optax
import pytest
from small_models import setting
from trees import assert_close, assert_identical

import mu_jax as mu
from mu_jax.loops.gradients import sam

KEY = jax.random.key(0)
SGD = optax.sgd(0.1, momentum=0.9)


def mean_loss(chosen, variables, data):
    return float(jax.jit(chosen.model.losses)(variables, data).mean())


@pytest.mark.quick("raw")
@pytest.mark.parametrize("name", ["raw", "linen", "nnx"])
def test_the_retain_loss_falls(name):
    chosen = setting(name)
    forget, retain = chosen.sets()
    unlearn = mu.finetune(chosen.model, SGD, epochs=5)
    after, info = unlearn(KEY, chosen.variables, forget, retain)
    before = mean_loss(chosen, chosen.variables, retain)
    assert mean_loss(chosen, after, retain) < 0.8 * before
    assert info.details.loss.shape == (20,)
    assert (info.steps, info.example_passes) == (20, 80)


def test_it_is_a_fit_on_the_retain_set():
    chosen = setting("linen")
    forget, retain = chosen.sets()
    unlearn = mu.finetune(chosen.model, SGD, epochs=2, training_mode=True, gradients=sam(0.05))
    junk = forget.replace(inputs=forget.inputs * jnp.nan)
    after, info = unlearn(KEY, chosen.variables, junk, retain)
    objective = mu.supervised(chosen.model, training_mode=True)
    state, expected = mu.fit(
        chosen.model,
        objective,
        SGD,
        chosen.variables,
        retain,
        key=KEY,
        epochs=2,
        gradients=sam(0.05),
    )
    assert_identical(after, state.variables)
    assert_identical(info.details, expected)


def test_one_step_by_hand():
    chosen = setting("raw")
    forget, retain = chosen.sets(batch_size=100)
    unlearn = mu.finetune(chosen.model, optax.sgd(0.1))
    after, _ = unlearn(KEY, chosen.variables, forget, retain)

    def loss(params):
        return chosen.model.losses(chosen.variables._replace(params=params), retain).mean()

    @jax.jit
    def descended(params):
        return optax.apply_updates(params, optax.tree.scale(-0.1, jax.grad(loss)(params)))

    assert_close(after.params, descended(chosen.variables.params))


def test_a_fit_that_diverges_says_so():
    chosen = setting("raw")
    data = chosen.sets()
    unlearn = mu.finetune(chosen.model, optax.sgd(3e38), epochs=3)
    with pytest.warns(mu.UnlearningWarning) as caught:
        _, info = unlearn(KEY, chosen.variables, *data)
    said = [str(warning.message) for warning in caught]
    assert any("at step 1" in message for message in said)
    assert any("not finite" in message for message in said)
    assert not info.edit.finite
