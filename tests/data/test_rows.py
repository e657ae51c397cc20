"""Random orders of rows that one program draws for many numbers of rows."""

import jax
import numpy as np
import pytest

from mu_jax.data.rows import permutation


@pytest.mark.parametrize("n", [1, 2, 7, 512, 513, 3000])
def test_a_permutation_is_that_of_jax(n):
    key = jax.random.key(n)
    expected = jax.random.permutation(key, n)
    np.testing.assert_array_equal(permutation(key, n), expected)
    traced = jax.jit(permutation, static_argnums=1)(key, n)
    np.testing.assert_array_equal(traced, expected)
