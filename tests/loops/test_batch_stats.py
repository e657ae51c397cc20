"""Refreshed batch statistics: those of the new weights on the examples given."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import LOSS, setting
from trees import assert_close, assert_identical

import mu_jax as mu
from mu_jax.data.batches import random_order

KEY = jax.random.key(0)


@pytest.mark.quick("linen", "nnx")
@pytest.mark.parametrize("name", ["linen", "nnx", "cnn"])
def test_statistics_move_as_in_training_and_parameters_stay(name):
    chosen = setting(name)
    _, retain = chosen.sets(batch_size=8)
    found = mu.refresh_statistics(chosen.model, chosen.variables, retain, key=KEY)
    params, state = chosen.model.split(found)
    before, expected = chosen.model.split(chosen.variables)
    for step in range(2):
        batch = retain.at(step, random_order(jax.random.fold_in(KEY, 0), 16))
        key = jax.random.fold_in(KEY, step)
        _, expected = chosen.model.predict_train(before, expected, batch.inputs, key)
    assert_identical(params, before)
    assert_close(state, expected)
    old = chosen.model.split(chosen.variables)[1]
    assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(old)))


def test_many_passes_arrive_at_the_statistics_of_the_data():
    module = nn.BatchNorm(use_running_average=None, momentum=0.9)

    class Normalized(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool = False):
            return module.copy(name="norm")(x, use_running_average=not train)

    x = 3 + 2 * jax.random.normal(KEY, (64, 5))
    model = mu.from_linen(Normalized(), mu.losses.squared_error)
    data = mu.batches(x, x, batch_size=64)
    start = Normalized().init(KEY, x)
    found = mu.refresh_statistics(model, start, data, key=KEY, epochs=200)["batch_stats"]["norm"]
    np.testing.assert_allclose(found["mean"], x.mean(0), rtol=1e-4)
    np.testing.assert_allclose(found["var"], x.var(0), rtol=1e-3)


def test_a_restricted_model_keeps_what_is_frozen():
    chosen = setting("linen")
    part = mu.restrict(chosen.model, lambda name: name.startswith("Dense_1"))
    _, retain = chosen.sets()
    found = mu.refresh_statistics(part, chosen.variables, retain, key=KEY)
    expected = mu.refresh_statistics(chosen.model, chosen.variables, retain, key=KEY)
    assert_identical(found, expected)


def test_a_model_without_statistics_comes_back():
    chosen = setting("raw")
    found = mu.refresh_statistics(chosen.model, chosen.variables, chosen.data(), key=KEY)
    assert_identical(found, chosen.variables)


def test_under_jit_and_from_a_list():
    chosen = setting("linen")
    _, retain = chosen.sets(batch_size=100)
    expected = mu.refresh_statistics(chosen.model, chosen.variables, retain, key=KEY)
    jitted = jax.jit(lambda v, x: mu.refresh_statistics(chosen.model, v, x, key=KEY))
    assert_close(jitted(chosen.variables, retain), expected)
    found = mu.refresh_statistics(chosen.model, chosen.variables, list(retain), key=KEY)
    assert_close(found, expected, rtol=1e-4)
    assert jnp.all(jnp.isfinite(jnp.concatenate([x.ravel() for x in jax.tree.leaves(found)])))


def test_every_step_draws_its_own_noise():
    def noisy(params, state, x, key):
        return x, state + jax.random.normal(key)

    model = mu.from_function(lambda *args: args[2], LOSS, predict_train=noisy)
    start = mu.Variables((), jnp.zeros(()))
    found = mu.refresh_statistics(model, start, setting("raw").data(), key=KEY, epochs=2)
    noise = jax.vmap(lambda step: jax.random.normal(jax.random.fold_in(KEY, step)))
    np.testing.assert_allclose(found.state, noise(jnp.arange(12)).sum(), rtol=1e-5)
