"""Sums over per-example gradients of tables, whatever the rows that are looked up."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from per_example_cases import raw_case
from per_example_loop import assert_close, gradient_loop, norms, squares, weighted
from per_example_models import SIZE, integers, normal

from mu_jax.statistics._engine import per_example

MODES = {
    "take, fill": functools.partial(jnp.take, axis=0, mode="fill", fill_value=0),
    "take, clip": functools.partial(jnp.take, axis=0, mode="clip"),
    "take, wrap": functools.partial(jnp.take, axis=0, mode="wrap"),
    "at, fill": lambda table, i: table.at[i].get(mode="fill", fill_value=0.5),
    "at, drop": lambda table, i: table.at[i].get(mode="drop", fill_value=0),
    "at, clip": lambda table, i: table.at[i].get(mode="clip"),
    "at, in bounds": lambda table, i: table.at[i].get(mode="promise_in_bounds"),
    "not wrapped": lambda table, i: table.at[i].get(
        mode="fill", fill_value=0, wrap_negative_indices=False
    ),
}


def assert_lookups(rows, dtype, mode, indices):
    """Lookups in a table, with rows beyond it several times over, against a loop."""

    def look_up(p, i):
        return MODES[mode](p["w"], i) + 0.5

    numbers = np.resize(np.array(indices).astype(dtype), (SIZE, 3))
    case = raw_case(look_up, {"w": normal(2, rows, 2)}, numbers)
    # The plain gradient itself is wrong for narrow integers once it is optimized.
    wide = raw_case(look_up, {"w": normal(2, rows, 2)}, numbers.astype(np.int64).astype(np.int32))
    gradients, weight = gradient_loop(wide), np.linspace(0.5, 2.0, SIZE, dtype=np.float32)
    assert per_example.routes(case.losses, case.params, case.rows) == {"w": "lookup"}
    found = squares(case.losses, case.params, case.rows, weight)
    assert_close(found, weighted(np.square, gradients, weight), 1e-5)
    expected = np.square(gradients["w"]).sum((1, 2))
    assert_close(norms(case.losses, case.params, case.rows), expected, 1e-5)


@pytest.mark.quick("take, fill", "take, wrap", "at, fill", "at, clip")
@pytest.mark.parametrize("mode", MODES)
def test_rows_beyond_a_table_count_as_in_a_plain_gradient(mode):
    assert_lookups(50, np.int32, mode, [1, 50, 50, -1, -1, 3, -51, -51, 120, 49, 0, 49, -50])


@pytest.mark.quick("uint8-*", "int8-take, fill", "uint16-take, fill", "uint32-take, clip")
@pytest.mark.parametrize("mode", ["take, fill", "take, clip"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32])
def test_rows_may_be_numbered_in_any_integer_type(dtype, mode):
    largest = min(np.iinfo(dtype).max, 310)
    assert_lookups(300, dtype, mode, [0, 100, largest, largest, 127, 5, 0])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_an_embedding_takes_narrow_words(dtype):
    words = integers(1, 0, 128, SIZE, 5)
    params = {"embedding": normal(2, 128, 3)}
    module = nn.Embed(128, 3)
    case = raw_case(lambda p, i: module.apply({"params": p}, i), params, words.astype(dtype))
    assert per_example.routes(case.losses, params, case.rows) == {"embedding": "lookup"}
    weight = np.ones(SIZE, np.float32)
    found = squares(case.losses, case.params, case.rows, weight)
    assert_close(found, weighted(np.square, gradient_loop(case), weight), 1e-5)
