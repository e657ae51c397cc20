"""One row for every example: in order, whatever its id, its weight, the batch size and the mesh."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

import mu_jax as mu

IDS = [10, -7, 12, 13, -1, 15]
MODEL = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
VARIABLES = mu.Variables(jnp.arange(6.0))


def arrays(**options):
    return mu.batches(np.eye(6), np.zeros(6), batch_size=4, index=IDS, **options)


def stream(**options):
    pairs = [(row, np.float32(0)) for row in np.eye(6, dtype=np.float32)]
    return mu.stream(pairs, batch_size=4, index=IDS, **options)


def on_a_mesh(make):
    mesh = mu.data_mesh(jax.devices()[:4])
    return mu.shard(arrays(), mesh) if make is arrays else stream(mesh=mesh)


@pytest.mark.parametrize("mesh", [False, True], ids=["one device", "mesh"])
@pytest.mark.parametrize("make", [arrays, stream])
def test_every_example_has_a_row_whatever_its_id(make, mesh):
    data = on_a_mesh(make) if mesh else make()
    np.testing.assert_array_equal(mu.outputs(MODEL, VARIABLES, data), np.arange(6.0))


@pytest.mark.parametrize("batch_size", [1, 4, 5, 9])
def test_the_batch_size_does_not_matter(batch_size):
    data = arrays().replace(batch_size=batch_size)
    np.testing.assert_array_equal(mu.outputs(MODEL, VARIABLES, data), np.arange(6.0))


def test_examples_of_weight_zero_have_rows_of_their_own():
    data = arrays(weight=[1, 0, 1, 0, 0, 1])
    np.testing.assert_array_equal(mu.outputs(MODEL, VARIABLES, data), np.arange(6.0))
    norms = mu.attribution.grand(MODEL, [VARIABLES], data)
    np.testing.assert_allclose(norms, 2 * np.arange(6.0))


def test_a_method_gives_the_same_for_ids_below_zero():
    """The stream is read into memory beside arrays, and no example of it is lost."""
    recipe = mu.gaussian_amnesiac(MODEL, optax.sgd(0.1), epochs=3)
    found = []
    for ids in (np.arange(6), np.array(IDS)):
        pairs = [(row, np.float32(n)) for n, row in enumerate(np.eye(6, dtype=np.float32))]
        data = mu.stream(pairs, batch_size=2, index=ids)
        forget, retain = mu.split(data, ids[[1, 3]])
        unlearned, _ = recipe(jax.random.key(0), VARIABLES, list(forget), list(retain))
        found.append(unlearned.params)
    np.testing.assert_array_equal(*found)
    assert not np.array_equal(found[0], VARIABLES.params)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_a_set_smaller_than_its_batch_on_a_mesh(kind):
    model = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
    data = mu.batches(jnp.arange(12.0).reshape(3, 4), jnp.zeros(3), batch_size=100)
    mesh = jax.make_mesh((2,), ("data",), (kind,), devices=jax.devices()[:2])
    found = mu.outputs(model, mu.Variables(jnp.ones(4)), mu.shard(data, mesh))
    np.testing.assert_array_equal(found, [6.0, 22.0, 38.0])
