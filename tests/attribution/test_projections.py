from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from classifiers import matrix_of

from mu_jax.statistics.projections import Projection, ravel, unravel

KEY = jax.random.key(3)


@pytest.mark.parametrize(("dim", "block"), [(7, 4096), (40, 16), (64, 10)])
def test_lift_is_the_transpose_of_project(dim, block):
    with jax.enable_x64(True):
        projection = Projection(KEY, dim, block)
        matrix = matrix_of(projection, 50)
        assert set(np.unique(np.sign(matrix))) == {-1, 1}
        np.testing.assert_allclose(np.abs(matrix), 1 / np.sqrt(dim), rtol=1e-12)
        features = np.random.default_rng(0).normal(size=dim)
        lifted = projection.lift(jnp.asarray(features), 50)
        np.testing.assert_allclose(lifted, matrix @ features, atol=1e-12)


def test_entries_look_independent_and_keep_inner_products():
    matrix = matrix_of(Projection(KEY, 200, 64), 500) * np.sqrt(200)
    assert abs(matrix.mean()) < 4 / np.sqrt(matrix.size)
    for product in (matrix.T @ matrix / 500, matrix @ matrix.T / 200):
        off = product - np.eye(len(product))
        np.testing.assert_allclose(np.diagonal(off), 0, atol=1e-5)
        assert 0.8 < off.std() / np.sqrt(1 / 500 if len(product) == 200 else 1 / 200) < 1.2


def test_a_tile_depends_on_its_number_and_key_alone():
    longer = matrix_of(Projection(KEY, 9, 16), 40)
    np.testing.assert_array_equal(matrix_of(Projection(KEY, 9, 16), 25), longer[:25])
    assert not np.array_equal(longer[:16], longer[16:32])
    other = Projection(jax.random.fold_in(KEY, 1), 9, 16)
    assert not np.array_equal(matrix_of(other, 40), longer)


def test_no_dim_is_the_identity():
    vector = jnp.arange(5.0)
    projection = dataclasses.replace(Projection(KEY, 4), dim=None)
    np.testing.assert_array_equal(projection.project(vector), vector)
    np.testing.assert_array_equal(projection.lift(vector, 5), vector)


def test_ravel_round_trip_keeps_dtypes():
    tree = {"a": jnp.ones((2, 3), jnp.bfloat16), "b": [jnp.arange(4.0)], "c": None}
    vector = ravel(tree)
    assert vector.shape == (10,) and vector.dtype == jnp.float32
    back = unravel(vector, tree)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    for found, expected in zip(jax.tree.leaves(back), jax.tree.leaves(tree), strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
