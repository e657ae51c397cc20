"""The networks of the golden files, in the layout of PyTorch, and their arrays in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import mu_jax as mu
from mu_jax.losses import cross_entropy


def predict(params, state, x):
    """Dense layers `fc1`, `fc2`, ... with ReLU between them."""
    del state
    layers = sorted({name.split(".")[0] for name in params})
    for layer in layers:
        x = x @ params[f"{layer}.weight"].T + params[f"{layer}.bias"]
        x = x if layer == layers[-1] else jax.nn.relu(x)
    return x


MODEL = mu.from_function(predict, cross_entropy)


def params(golden, prefix):
    """The tree stored under `prefix/<name>`."""
    return {str(name): jnp.asarray(golden[f"{prefix}/{name}"]) for name in golden["param_names"]}


def assert_relative(found, expected, tolerance):
    """Every leaf to `tolerance`, relative to each entry or to 1e-6 of the largest of its leaf."""
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        assert found[name].dtype == leaf.dtype == jnp.float64
        floor = tolerance * 1e-6 * float(jnp.abs(leaf).max())
        np.testing.assert_allclose(found[name], leaf, rtol=tolerance, atol=floor, err_msg=name)
