"""Which leaf is taken for the bias of which kernel, and which are not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from per_example_cases import case_of, raw_case
from per_example_models import normal

from mu_jax.model import path_name
from mu_jax.statistics._engine.biases import find_biases
from mu_jax.statistics._engine.chunks import prepare


def found_in(case):
    program, leaves, _ = prepare(case.losses, case.params, case.rows)
    names = [path_name(path) for path, _ in jax.tree.leaves_with_path(case.params)]
    found = find_biases(program, [leaf.shape for leaf in leaves])
    return {names[kernel]: names[bias] for kernel, bias in found.items()}


BLOCK = [f"MultiHeadDotProductAttention_0/{name}" for name in ("query", "key", "value", "out")]
LAYERS = {
    "mlp": ["Dense_0", "Dense_1"],
    "conv": ["Conv_1", "Dense_0"],
    "conv im2col": ["Conv_1", "Dense_0"],
    "block": [*BLOCK, "Dense_0", "Dense_1", "Dense_2"],
    "scanned remat": ["Dense_0", "ScanCheckpointLayer_0/Dense_0"],
    "nnx": ["first", "last"],
}


@pytest.mark.parametrize("name", LAYERS)
def test_biases_of_layers(name):
    layers = LAYERS[name]
    assert found_in(case_of(name)) == {f"{x}/kernel": f"{x}/bias" for x in layers}


WEIGHTS = {"w": normal(1, 5, 4), "b": normal(2, 4), "u": normal(3, 4, 4)}


def shared(p, x):
    return jnp.tanh(jnp.tanh(x @ p["u2"] + p["b2"]) @ p["u2"] + p["b2"])


def twice(y, b):
    return jnp.tanh(y + b) * y


ALIKE = {
    "a reshaped output": lambda p, x: (x @ p["w"]).reshape(-1, 2, 2) + p["b"].reshape(2, 2),
    "a transposed output": lambda p, x: (x @ p["w"]).T + p["b"][:, None],
    "inside a call": lambda p, x: jax.jit(lambda w, x: x @ w)(p["w"], x) + p["b"],
    "cast": lambda p, x: (x @ p["w"]).astype(float) + p["b"].astype(float),
}
OTHERS = {
    "scaled before": lambda p, x: 2 * (x @ p["w"]) + p["b"],
    "whose output is read without it": lambda p, x: twice(x @ p["w"], p["b"]),
    "of one use of two": lambda p, x: jnp.tanh(x @ p["w"] + p["b"]) * (x @ p["w"]).sum(),
    "subtracted": lambda p, x: x @ p["w"] - p["b"],
    "used twice": lambda p, x: (x @ p["w"] + p["b"]) * p["b"],
    "of two kernels": lambda p, x: jnp.tanh(x @ p["w"] + p["b"]) @ p["u"] + p["b"],
    "in another order": lambda p, x: x @ p["w"] + p["b"][::-1],
    "of another axis": lambda p, x: x[:, :4, None] * (x @ p["w"])[:, None] + p["b"][:, None],
}


@pytest.mark.parametrize("name", ALIKE)
def test_what_is_a_bias(name):
    assert found_in(raw_case(ALIKE[name], WEIGHTS)) == {"w": "b"}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_none(name):
    assert found_in(raw_case(OTHERS[name], WEIGHTS)) == {}


def test_one_bias_behind_both_uses_of_a_kernel():
    params = {"u2": normal(3, 5, 5), "b2": normal(2, 5)}
    assert found_in(raw_case(shared, params)) == {"u2": "b2"}
