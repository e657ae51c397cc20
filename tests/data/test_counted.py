"""Batches with room for more rows: the rows and orders are those of the batches without it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mu_jax as mu
from mu_jax.data.counted import counted
from mu_jax.data.rows import random_order, random_order_of

KEY = jax.random.key(3)
ORDER_OF = jax.jit(random_order_of, static_argnums=2)


def data(n, batch_size=8):
    weight = np.arange(n) % 4 / 2 + (n == 1)
    return mu.batches(
        np.arange(3.0 * n).reshape(n, 3), np.arange(n), batch_size=batch_size, weight=weight
    )


@pytest.mark.parametrize("n", [1, 2, 3, 64, 65, 127, 128])
def test_the_order_is_that_of_the_rows_alone(n):
    found = ORDER_OF(KEY, jnp.asarray(n, jnp.int32), 128)
    np.testing.assert_array_equal(found[:n], random_order(KEY, n))


def test_a_full_house_of_bits_is_not_taken_for_an_idle_row(monkeypatch):
    full = jnp.full(8, 2**32 - 1, jnp.uint32)
    monkeypatch.setattr(jax.random, "bits", lambda key, shape, dtype: full[: shape[0]])
    found = random_order_of(KEY, jnp.asarray(4, jnp.int32), 8)
    assert found[:4].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("n", [8, 9, 30, 256])
def test_the_batches_are_those_of_the_rows_alone(n, shuffled):
    alone = data(n)
    room = counted(alone, KEY)
    assert room.weight.shape == (256,)

    @jax.jit
    def read(batches, step):
        return batches.at(step, batches.order(KEY) if shuffled else None)

    assert jax.jit(lambda b: b.num_batches)(room) == alone.num_batches
    for step in range(alone.num_batches):
        found, expected = read(room, step), read(alone, step)
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_what_would_be_other_rows_stays_as_it_is():
    small, other = data(7), jax.random.key(0, impl="rbg")
    assert counted(small, KEY) is small
    meshed = mu.shard(data(16), mu.data_mesh())
    assert counted(meshed, KEY) is meshed
    assert counted(few := data(16), other) is few
