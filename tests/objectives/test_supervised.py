"""The supervised objective: its value, its sign, its two modes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import setting
from trees import assert_identical

import mu_jax as mu

KEY = jax.random.key(0)


def batch_of(chosen):
    return chosen.data(batch_size=8).at(0)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_value_against_the_weighted_mean(sign):
    chosen = setting("raw")
    batch = batch_of(chosen)._replace(weight=jnp.arange(8.0))
    found, variables = mu.supervised(chosen.model, sign=sign)(chosen.variables, batch, {}, KEY)
    losses = chosen.model.losses(chosen.variables, batch)
    expected = sign * np.average(losses, weights=np.arange(8.0))
    np.testing.assert_allclose(mu.loops.total(found), expected, rtol=1e-6)
    assert_identical(variables, chosen.variables)


def test_rows_of_weight_0_may_be_anything():
    chosen = setting("raw")
    batch = batch_of(chosen)
    weight = batch.weight.at[3].set(0)
    junk = batch._replace(inputs=batch.inputs.at[3].set(jnp.nan), weight=weight)
    objective = mu.supervised(chosen.model)
    found, _ = objective(chosen.variables, junk, {}, KEY)
    expected, _ = objective(chosen.variables, batch._replace(weight=weight), {}, KEY)
    assert_identical(found, expected)


@pytest.mark.parametrize("name", ["linen", "nnx"])
def test_inference_mode_ignores_the_key_and_moves_nothing(name):
    chosen = setting(name)
    objective = mu.supervised(chosen.model)
    results = [
        objective(chosen.variables, batch_of(chosen), {}, jax.random.key(seed)) for seed in (0, 1)
    ]
    assert_identical(results[0], results[1])
    assert_identical(results[0][1], chosen.variables)


@pytest.mark.parametrize("name", ["linen", "nnx"])
def test_training_mode_drops_out_and_moves_statistics_only(name):
    chosen = setting(name)
    objective = mu.supervised(chosen.model, training_mode=True)
    (one, moved), (other, _) = (
        objective(chosen.variables, batch_of(chosen), {}, jax.random.key(seed)) for seed in (0, 1)
    )
    assert one["loss"].sum != other["loss"].sum
    params, state = chosen.model.split(moved)
    assert_identical(params, chosen.model.params(chosen.variables))
    before = chosen.model.split(chosen.variables)[1]
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(before), strict=True)
    floats = [(a, b) for a, b in pairs if jnp.issubdtype(a.dtype, jnp.floating)]
    assert len(floats) == 2
    assert all(bool(jnp.all(a != b)) for a, b in floats)
