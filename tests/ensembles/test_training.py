"""Ensembles: one program equals one model after another, in either layout and on a mesh."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

import mu_jax as mu
from mu_jax import ensembles, models
from mu_jax.ensembles import training

RNG = np.random.RandomState(0)
DATA = mu.batches(RNG.normal(size=(24, 6)).astype(np.float32), RNG.randint(0, 3, 24), batch_size=8)
MODULE = models.MLP((5,), 3)
MODEL = mu.from_linen(MODULE, mu.losses.cross_entropy)
KEYS = jax.random.split(jax.random.key(0), 8)
WEIGHTS = jnp.asarray(RNG.randint(0, 2, (8, 24)), jnp.float32)


def init(key):
    return MODULE.init(key, DATA.inputs[:1])


def train(keys, weights, **options):
    return ensembles.train(
        MODEL, optax.sgd(0.1), DATA, keys, weights, init=init, epochs=2, **options
    )


def one(key, weight):
    state, _ = mu.fit(
        MODEL,
        mu.supervised(MODEL, training_mode=True),
        optax.sgd(0.1),
        init(jax.random.fold_in(key, 0)),
        DATA.replace(weight=weight),
        key=jax.random.fold_in(key, 1),
        epochs=2,
    )
    return state.variables


@pytest.mark.quick("together", "one_by_one")
@pytest.mark.parametrize("layout", ["together", "one_by_one", None])
def test_an_ensemble_equals_its_models_one_by_one(layout):
    found = jax.jit(lambda k, w: train(k, w, layout=layout))(KEYS, WEIGHTS)
    for i in (0, 5):
        alone = one(KEYS[i], WEIGHTS[i])
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=i: x[i], found), alone, atol=1e-6)


@pytest.mark.slow
@pytest.mark.quick("*Explicit")
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_an_ensemble_on_a_mesh_equals_one_device(kind):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,), devices=jax.devices()[:4])
    expected = train(KEYS, WEIGHTS)
    found = jax.jit(lambda k, w: train(k, w, mesh=mesh))(KEYS, WEIGHTS)
    chex.assert_trees_all_close(found, expected, atol=1e-6)
    with pytest.raises(ValueError, match="expected a number of models that divides over 4"):
        train(KEYS[:6], WEIGHTS[:6], mesh=mesh)


def test_a_row_of_weight_zero_was_never_seen():
    weights = jnp.ones((2, 24)).at[:, 3].set(0)
    expected = train(KEYS[:2], weights)
    other = DATA.replace(inputs=DATA.inputs.at[3].set(1e3))
    found = ensembles.train(MODEL, optax.sgd(0.1), other, KEYS[:2], weights, init=init, epochs=2)
    chex.assert_trees_all_equal(found, expected)


def test_outputs_of_every_model_in_the_order_of_the_examples():
    ensemble = jax.vmap(init)(KEYS)
    found = ensembles.ensemble_outputs(MODEL, ensemble, DATA.replace(batch_size=7))
    expected = jax.vmap(lambda v: MODEL.apply(v, DATA.inputs))(ensemble)
    assert found.shape == (8, 24, 3)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_outputs_on_a_mesh_and_of_rows_without_weight():
    variables = init(jax.random.key(1))
    expected = MODEL.apply(variables, DATA.inputs)
    data = DATA.replace(batch_size=10, weight=DATA.weight.at[4].set(0))
    np.testing.assert_allclose(mu.outputs(MODEL, variables, data), expected, atol=1e-6)
    sharded = mu.shard(data, mu.data_mesh(jax.devices()[:4]))
    np.testing.assert_allclose(mu.outputs(MODEL, variables, sharded), expected, atol=1e-6)


def test_convolutions_on_a_cpu_go_one_by_one():
    module = models.CNN(features=(4,), num_outputs=3)
    kernels = jax.eval_shape(jax.vmap(lambda key: module.init(key, jnp.zeros((1, 8, 8, 1)))), KEYS)
    dense = jax.eval_shape(jax.vmap(init), KEYS)
    assert training.choose_layout(kernels) == "one_by_one"
    assert training.choose_layout(dense) == "together"
