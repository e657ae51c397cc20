"""Blocks of batches: the rows of `Batches.at`, in the order of `random_order`, for any size."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import mu_jax as mu
from mu_jax.data.blocks import alike, blocks
from mu_jax.data.rows import EpochOrders, random_order


def data(n, batch_size, weight=None, multiple=1):
    inputs = {"x": np.arange(3.0 * n, dtype=np.float32).reshape(n, 3)}
    index = np.arange(n) * 7 - 3
    made = mu.batches(inputs, np.arange(n), batch_size=batch_size, index=index, weight=weight)
    return made.replace(multiple=multiple)


def weights(n):
    weight = np.ones(n, np.float32)
    weight[: n // 2] = 0  # whole batches without a real row among them
    weight[n // 2] = 2.5
    return weight


@pytest.mark.parametrize("key", [None, jax.random.key(3)], ids=["given order", "shuffled"])
@pytest.mark.parametrize("weight", [None, weights], ids=["ones", "zeros"])
@pytest.mark.parametrize(
    ("n", "batch_size", "multiple"), [(11, 4, 1), (12, 4, 1), (5, 8, 8), (300, 2, 1), (9, 4, 3)]
)
def test_blocks_hold_the_batches(n, batch_size, multiple, weight, key):
    batches = data(n, batch_size, weight and weight(n), multiple)
    start, stop, per_epoch = 1, 2 * batches.num_batches + 1, batches.num_batches
    position, lengths = start, set()
    for block in blocks(batches, key, start, stop):
        lengths.add(block.batches.weight.shape)
        for number in range(block.used):
            epoch, step = divmod(position, per_epoch)
            order = key if key is None else random_order(jax.random.fold_in(key, epoch), n)
            found = jax.tree.map(lambda x, k=number: x[k], block.batches)
            jax.tree.map(np.testing.assert_array_equal, found, batches.at(step, order))
            position += 1
    assert position == stop and len(lengths) == 1


def test_blocks_of_sets_of_all_sizes_have_one_shape():
    shapes = {
        next(blocks(alike(data(n, 8)), None, 0, 1)).batches.weight.shape for n in (3, 8, 50, 1000)
    }
    assert len(shapes) == 1


def test_a_small_set_is_not_filled_up_to_a_huge_batch():
    assert alike(data(3, 10**6)).at(0).weight.shape == (256,)
    assert alike(data(700, 10**6)).at(0).weight.shape == (1024,)
    assert alike(data(7, 10)).at(0).weight.tolist() == [1] * 7 + [0] * 3


@pytest.mark.parametrize("n", [1, 2, 500, 4096, 4097, 65_536, 65_537])
def test_the_order_on_the_host_is_the_order_in_a_program(n):
    key = jax.random.key(5)
    expected = random_order(jax.random.fold_in(key, 2), n)
    np.testing.assert_array_equal(EpochOrders(key, n)(2, 3), expected[None])
    assert np.array_equal(np.sort(expected), np.arange(n))


def test_the_orders_of_many_epochs():
    key = jax.random.key(5)
    orders = EpochOrders(key, 500)
    for epoch in (0, 1, 127, 128, 300, 2):
        expected = random_order(jax.random.fold_in(key, epoch), 500)
        np.testing.assert_array_equal(orders(epoch, epoch + 1), expected[None])
    together = np.concatenate([orders(epoch, epoch + 1) for epoch in range(100, 300)])
    np.testing.assert_array_equal(orders(100, 300), together)


@pytest.mark.parametrize(
    "make", [lambda: jax.random.key(1, impl="rbg"), lambda: jax.random.PRNGKey(1)]
)
def test_the_order_is_the_same_for_other_keys(make):
    expected = random_order(jax.random.fold_in(make(), 1), 33)
    np.testing.assert_array_equal(EpochOrders(make(), 33)(1, 2), expected[None])


def test_the_order_is_the_same_without_stable_bits():
    with jax.threefry_partitionable(False):
        expected = random_order(jax.random.fold_in(jax.random.key(2), 1), 33)
        np.testing.assert_array_equal(EpochOrders(jax.random.key(2), 33)(1, 2), expected[None])


@pytest.mark.parametrize("where", ["host", "device"])
def test_blocks_of_a_mesh_hold_its_batches_divided(where, monkeypatch):
    mesh = mu.data_mesh(jax.devices()[:4])
    batches, key = mu.shard(data(11, 4, weights(11), 3), mesh), jax.random.key(0)
    order = random_order(jax.random.fold_in(key, 0), 11)
    monkeypatch.setattr("mu_jax._at_once.on_host", lambda tree: where == "host")
    block = next(blocks(batches, key, 0, 3))
    for leaf in jax.tree.leaves(block.batches):
        assert leaf.sharding.spec == PartitionSpec(None, "data")
    for step in range(3):
        found = jax.tree.map(lambda x, k=step: x[k], block.batches)
        jax.tree.map(np.testing.assert_array_equal, found, batches.at(step, order))


def test_blocks_are_gathered_on_a_device_as_on_the_host(monkeypatch):
    batches = data(11, 4, weights(11))
    expected = list(blocks(batches, jax.random.key(0), 0, 6))
    monkeypatch.setattr("mu_jax._at_once.on_host", lambda tree: False)
    found = list(blocks(batches, jax.random.key(0), 0, 6))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert isinstance(found[0].batches.weight, jnp.ndarray)
