"""Forget and retain examples in one run: the same rows from arrays, streams and iterables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mu_jax as mu
from mu_jax.data.batches import random_order
from mu_jax.data.forget_retain import marked_mix, mix, readable, with_targets
from mu_jax.loops.predict import all_targets

N, FORGET = 11, [2, 3, 7]


def arrays(**arguments):
    inputs = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
    return mu.batches(inputs, inputs.sum(1), batch_size=4, index=np.arange(N) * 5, **arguments)


def streams():
    data = arrays()
    pairs = list(zip(np.asarray(data.inputs), np.asarray(data.targets), strict=True))
    return mu.stream(pairs, batch_size=4, index=np.asarray(data.index))


def split(data):
    return mu.split(data, [5 * row for row in FORGET])


def assert_same(first, second):
    jax.tree.map(np.testing.assert_array_equal, tuple(first), tuple(second))


def test_a_mark_says_of_every_row_where_it_comes_from():
    forget, retain = split(arrays(weight=np.arange(N) % 3))
    mixed = marked_mix(forget, retain)
    flagged = np.isin(np.asarray(mixed.index), [10, 15, 35])
    np.testing.assert_array_equal(mixed.targets.forget, flagged)
    np.testing.assert_array_equal(mixed.targets.targets, mixed.inputs.sum(1))
    np.testing.assert_array_equal(mixed.weight, mixed.index // 5 % 3)
    assert sorted(mixed.index.tolist()) == arrays().index.tolist()


@pytest.mark.parametrize("key", [None, jax.random.key(3)])
def test_streams_are_the_same_batches_as_arrays(key):
    found, expected = (marked_mix(*split(data)) for data in (streams(), arrays()))
    assert isinstance(found, mu.Stream)
    assert (found.num_examples, found.num_batches) == (N, 3)
    order = None if key is None else random_order(key, N)
    batches = list(found.iterate(key=key))
    assert len(batches) == 3
    for step, batch in enumerate(batches):
        assert_same(batch, expected.at(step, order))


@pytest.mark.parametrize("batches", ["both", "forget", "retain"])
def test_iterables_are_read_into_memory(batches):
    forget, retain = split(arrays())
    given = {
        "both": (list(forget), list(retain)),
        "forget": (list(forget), retain),
        "retain": (forget, list(retain)),
    }[batches]
    found, expected = marked_mix(*given), marked_mix(forget, retain)
    for name in ("inputs", "targets", "weight", "index"):
        jax.tree.map(np.testing.assert_array_equal, getattr(found, name), getattr(expected, name))
    # The batches of an iterable are of any size: one of the mix holds one of each.
    of_each = next(iter(forget)).weight.size if batches == "both" else forget.batch_size
    assert found.batch_size == (4 if batches == "forget" else 4 + of_each)


def test_a_stream_beside_arrays_is_read_into_memory():
    mixed = marked_mix(split(arrays())[0], split(streams())[1])
    assert_same(mixed.at(1), marked_mix(*split(arrays())).at(1))


@pytest.mark.parametrize("make", [arrays, streams])
def test_other_targets_take_the_place_of_the_given_ones(make):
    forget, retain = readable(*split(make()))
    np.testing.assert_array_equal(all_targets(forget), arrays().targets[np.array(FORGET)])
    changed = mix(with_targets(forget, jnp.array([70.0, 80.0, 90.0])), retain)
    batches = list(changed)
    targets = np.concatenate([b.targets[b.weight > 0] for b in batches])
    index = np.concatenate([b.index[b.weight > 0] for b in batches])
    assert targets[np.isin(index, [10, 15, 35])].tolist() == [70.0, 80.0, 90.0]
    kept = np.array([row for row in range(N) if row not in FORGET])
    np.testing.assert_array_equal(targets[:8], arrays().targets[kept])
