"""Partners are drawn by the key and the id of a row, whatever the batch, its parts and padding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mu_jax as mu
from mu_jax.data.partners import partners, whole

KEY = jax.random.key(5)


def others(size=30):
    weight = jnp.where(jnp.arange(size) % 3 == 0, 0.0, 1.0)
    return whole(mu.batches(jnp.arange(size), (), batch_size=4, weight=weight))


def batch(index, weight=None):
    index = jnp.asarray(index)
    return mu.Batch((), (), jnp.ones(index.shape) if weight is None else weight, index)


def test_what_is_drawn_follows_the_id_of_the_row_alone():
    drawn = partners(KEY, batch([4, 9, 2]), others(), 3)
    for place, index in enumerate([4, 9, 2]):
        alone = partners(KEY, batch([index]), others(), 3)
        np.testing.assert_array_equal(drawn.inputs[3 * place : 3 * place + 3], alone.inputs)
    filled = partners(KEY, batch([4, 9, 2, -1, -1], jnp.array([1.0, 1, 1, 0, 0])), others(), 3)
    np.testing.assert_array_equal(filled.inputs[:9], drawn.inputs)
    np.testing.assert_array_equal(filled.weight, [1.0] * 9 + [0.0] * 6)


def test_every_access_draws_anew():
    first, second = (
        partners(jax.random.fold_in(KEY, step), batch(range(50)), others()).inputs
        for step in range(2)
    )
    assert np.mean(np.asarray(first) == np.asarray(second)) < 0.3


@pytest.mark.slow
def test_rows_are_drawn_uniformly_and_never_those_of_weight_0():
    found = np.asarray(partners(KEY, batch(range(4000)), others(12)).inputs)
    counts = np.bincount(found, minlength=12)
    assert not counts[::3].any()
    assert (np.abs(counts[np.arange(12) % 3 != 0] - 500) < 100).all()
