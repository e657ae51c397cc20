"""Attribution of models with inputs in a dictionary against the same model on one array."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mu_jax as mu
from mu_jax import attribution

N, KEY, LOSS = 8, jax.random.key(0), mu.losses.cross_entropy
X = np.random.default_rng(0).normal(size=(N, 6)).astype(np.float32)
W, Y = jnp.asarray(X[:6, :2]), np.arange(N) % 2
FLAT = mu.from_function(lambda w, state, x: x @ w, LOSS)
PARTS = mu.from_function(lambda p, state, x: x["a"] @ p["a"] + x["b"] @ p["b"], LOSS)
SIDES = {
    "flat": (FLAT, mu.Variables(W), X),
    "dictionary": (
        PARTS,
        mu.Variables({"a": W[:3], "b": W[3:]}),
        {"a": X[:, :3], "b": X[:, 3:]},
    ),
}


def grand(model, variables, data):
    return attribution.grand(model, [variables], data)


def trak(model, variables, data):
    store = attribution.trak(model, [variables], data, key=KEY, dim=None, weight_decay=0.1)
    return store.effect(*mu.split(data, [1, 2]))


def gauss_newton(model, variables, data):
    forget, _ = mu.split(data, [1, 2])
    found = attribution.gauss_newton_direction(model, variables, data, forget, weight_decay=0.1)
    return jnp.concatenate([x.reshape(-1, 2) for x in jax.tree.leaves(found)])


@pytest.mark.parametrize("attribute", [grand, trak, gauss_newton])
def test_a_dictionary_gives_what_one_array_gives(attribute):
    found = []
    for model, variables, inputs in SIDES.values():
        found.append(attribute(model, variables, mu.batches(inputs, Y, batch_size=4)))
    assert np.abs(found[0]).max() > 1e-3
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-5)
