"""Gradient ascent on the forget set."""

import jax
import jax.numpy as jnp
import optax
import pytest
from small_models import setting
from trees import assert_close

import mu_jax as mu

KEY = jax.random.key(0)


@pytest.mark.parametrize("name", ["raw", "linen", "nnx"])
def test_the_forget_loss_rises_with_every_step(name):
    chosen = setting(name)
    forget, retain = chosen.sets(batch_size=100)
    unlearn = mu.gradient_ascent(chosen.model, optax.sgd(0.02), steps=6)
    after, info = unlearn(KEY, chosen.variables, forget, retain)
    # The objective is the negative loss.
    assert jnp.all(jnp.diff(-info.details.loss) > 0)
    before = chosen.model.losses(chosen.variables, forget).mean()
    assert chosen.model.losses(after, forget).mean() > before
    assert_close(-info.details.loss[0], before)
    assert (info.steps, info.example_passes) == (6, 36)


def test_one_step_by_hand_without_the_retain_set():
    chosen = setting("raw")
    forget, retain = chosen.sets(batch_size=100)
    unlearn = mu.gradient_ascent(chosen.model, optax.sgd(0.1))
    junk = retain.replace(inputs=retain.inputs * jnp.nan)
    after, _ = unlearn(KEY, chosen.variables, forget, junk)

    def loss(params):
        return chosen.model.losses(chosen.variables._replace(params=params), forget).mean()

    step = optax.tree.scale(0.1, jax.grad(loss)(chosen.variables.params))
    assert_close(after.params, optax.apply_updates(chosen.variables.params, step))


def test_it_is_iau_without_its_correction():
    chosen = setting("raw")
    sets = chosen.sets(batch_size=100)
    ascent = mu.gradient_ascent(chosen.model, optax.sgd(0.1))
    iau = mu.iau(chosen.model, optax.sgd(0.1), retain_weight=0.0)
    found, expected = (t(KEY, chosen.variables, *sets)[0] for t in (ascent, iau))
    assert_close(found, expected)
