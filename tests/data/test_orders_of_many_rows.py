"""Orders of more rows than a packed word can number, of which some are used."""

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax.data.rows import random_order_of


def test_the_rows_in_use_come_first_each_once_in_random_order():
    size, used = 2**16 + 8, 2**16 + 3
    found = np.asarray(random_order_of(jax.random.key(0), jnp.int32(used), size))
    assert sorted(found[:used].tolist()) == list(range(used))
    assert sorted(found.tolist()) == list(range(size))
    other = np.asarray(random_order_of(jax.random.key(1), jnp.int32(used), size))
    assert (found[:used] == other[:used]).mean() < 1e-3
    assert abs(np.corrcoef(found[:used], np.arange(used))[0, 1]) < 0.02
