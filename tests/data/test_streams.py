"""Streams visit the examples that `Batches` would, in the same order, from anywhere."""

from __future__ import annotations

import threading

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mu_jax as mu
from mu_jax.data.batches import random_order

N = 11
MODEL = mu.from_function(lambda w, state, x: jnp.tanh(x @ w), optax.squared_error)


def arrays(n=N, batch_size=4, **arguments):
    inputs = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    return mu.batches(inputs, np.sin(inputs.sum(1)), batch_size=batch_size, **arguments)


def source(data):
    return list(zip(np.asarray(data.inputs), np.asarray(data.targets), strict=True))


def streamed(data, **arguments):
    return mu.stream(
        source(data), batch_size=data.batch_size, index=np.asarray(data.index), **arguments
    )


def assert_same_batches(first, second):
    first, second = list(first), list(second)
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        for name in mu.Batch._fields:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@pytest.mark.parametrize("batch_size", [1, 4, 11, 30])
def test_batches_are_those_of_arrays_padding_included(batch_size):
    data = arrays(batch_size=batch_size, index=np.arange(N) * 7)
    stream = streamed(data)
    assert (stream.num_examples, stream.num_batches) == (N, data.num_batches)
    assert_same_batches(stream, data)
    assert_same_batches(stream, data)


def in_order(data, key):
    order = random_order(key, N)
    return [data.at(step, order) for step in range(data.num_batches)]


def test_the_same_key_draws_the_same_order():
    data, key = arrays(), jax.random.key(3)
    assert_same_batches(streamed(data).iterate(key=key), in_order(data, key))
    first = next(streamed(data).iterate(key=key)).index.tolist()
    assert first != [0, 1, 2, 3]
    assert first != next(streamed(data).iterate(key=jax.random.key(4))).index.tolist()


@pytest.mark.parametrize("start", [0, 1, 2])
@pytest.mark.parametrize("key", [None, jax.random.key(3)], ids=["given order", "shuffled"])
def test_it_starts_anywhere_without_reading_what_it_skips(start, key):
    data, read = arrays(), []

    class Counting:
        def __len__(self):
            return N

        def __getitem__(self, position):
            read.append(position)
            return source(data)[position]

    stream = mu.stream(Counting(), batch_size=4, threads=0)
    whole = list(stream.iterate(key=key))
    read.clear()
    assert_same_batches(stream.iterate(key=key, start=start), whole[start:])
    expected = np.concatenate([b.index[b.index >= 0] for b in whole[start:]])
    assert set(expected.tolist()) <= set(read)
    assert len(read) == sum(len(b.weight) for b in whole[start:])  # and nothing that it skips


def test_nothing_is_read_before_it_is_asked_for():
    class Untouchable:
        def __len__(self):
            return N

        def __getitem__(self, position):
            raise AssertionError(position)

    stream = mu.stream(Untouchable(), batch_size=4)
    forget, retain = mu.split(stream, [3])
    assert (forget.num_examples, retain.num_batches) == (1, 3)


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_reader_threads_keep_the_order(threads):
    data, readers = arrays(), set()

    class Noting:
        def __len__(self):
            return N

        def __getitem__(self, position):
            readers.add(threading.get_ident())
            return source(data)[position]

    assert_same_batches(mu.stream(Noting(), batch_size=4, threads=threads), data)
    assert (threading.get_ident() in readers) is (threads == 0)


def test_split_goes_by_id_and_reads_nothing_twice():
    data = arrays(index=np.arange(100, 100 + N))
    sets, expected = mu.split(streamed(data), [109, 101]), mu.split(data, [109, 101])
    for found, wanted in zip(sets, expected, strict=True):
        assert isinstance(found, mu.Stream)
        assert_same_batches(found, wanted)
    again, _ = mu.split(sets[1], [105])
    assert again.index.tolist() == [105]
    np.testing.assert_array_equal(next(iter(again)).inputs[0], data.inputs[5])


def test_more_than_an_input_and_a_target_is_not_used():
    triples = [(x, y, "caption") for x, y in source(arrays())]
    assert_same_batches(mu.stream(triples, batch_size=4), arrays())


def test_inputs_may_be_trees():
    data = arrays()
    pairs = [({"x": x, "twice": 2 * x}, y) for x, y in source(data)]
    batch = next(iter(mu.stream(pairs, batch_size=4)))
    np.testing.assert_array_equal(batch.inputs["twice"], 2 * data.inputs[:4])


@pytest.mark.parametrize("definition", ["per_example", "grouped"])
@pytest.mark.parametrize("batch_size", [4, 30])
def test_statistics_are_those_of_arrays(definition, batch_size):
    data, variables = arrays(batch_size=batch_size), mu.Variables(jnp.ones(3))
    size = 3 if definition == "grouped" else None
    statistic = mu.statistics.importance(MODEL, definition, size)
    first = mu.collect(statistic, variables, data)
    second = mu.collect(statistic, variables, streamed(data))
    np.testing.assert_allclose(first.value, second.value, rtol=1e-6)
    assert first.weight == second.weight


@pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")  # one of three parameters changes
def test_transforms_take_streams():
    data, variables = arrays(), mu.Variables(jnp.ones(3))
    for unlearn in (
        mu.ssd(MODEL, alpha=1.1),
        mu.finetune(MODEL, optax.sgd(0.1), epochs=2),
        mu.chain(mu.ssd(MODEL, alpha=1.1), mu.finetune(MODEL, optax.sgd(0.1))),
    ):
        key = jax.random.key(0)
        first, _ = unlearn(key, variables, *mu.split(data, [2, 5]))
        second, _ = unlearn(key, variables, *mu.split(streamed(data), [2, 5]))
        np.testing.assert_allclose(first.params, second.params, rtol=1e-5)


class Normalized(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        return nn.Dense(1)(nn.BatchNorm(use_running_average=not train, momentum=0.5)(x))[:, 0]


@pytest.mark.parametrize("devices", [None, 2])
def test_in_training_mode_padding_moves_statistics_as_that_of_arrays_does(devices):
    mesh = None if devices is None else mu.data_mesh(jax.devices()[:devices])
    model = mu.from_linen(Normalized(), optax.squared_error)
    variables = Normalized().init(jax.random.key(0), jnp.ones((1, 3)))
    first, second = (
        mu.fit(
            model,
            mu.supervised(model, training_mode=True),
            optax.sgd(0.1),
            variables,
            batches,
            key=jax.random.key(1),
        )[0].variables
        for batches in (arrays(), streamed(arrays(), mesh=mesh))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), first, second)


@pytest.mark.parametrize("kind", list(jax.sharding.AxisType)[:2])
def test_on_a_mesh_batches_are_those_of_sharded_arrays(kind):
    data = arrays(batch_size=6)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,), devices=jax.devices()[:4])
    stream = streamed(data, mesh=mesh)
    batches = list(stream)
    assert_same_batches(batches, mu.shard(data, mesh))
    assert all(batch.inputs.sharding.spec[0] == "data" for batch in batches)
    variables = mu.mesh.place(mu.Variables(jnp.ones(3)), mesh)
    for statistic in (mu.statistics.importance(MODEL), mu.statistics.mean_gradient(MODEL)):
        one = mu.collect(statistic, variables, data)
        many = mu.collect(statistic, variables, stream)
        np.testing.assert_allclose(one.value, many.value, rtol=1e-5, atol=1e-7)


def test_variables_of_one_device_meet_a_stream_on_a_mesh():
    data, variables = arrays(), mu.Variables(jnp.ones(3))
    statistic = mu.statistics.importance(MODEL)
    one = mu.collect(statistic, variables, data)
    many = mu.collect(statistic, variables, streamed(data, mesh=mu.data_mesh()))
    np.testing.assert_allclose(one.value, many.value, rtol=1e-5)
    key, objective = jax.random.key(0), mu.supervised(MODEL)
    states = [
        mu.fit(MODEL, objective, optax.adam(0.1), variables, batches, key=key, epochs=2)[0]
        for batches in (data, streamed(data, mesh=mu.data_mesh()))
    ]
    np.testing.assert_allclose(states[0].variables.params, states[1].variables.params, rtol=1e-4)


@pytest.mark.parametrize(
    ("pairs", "index"),
    [
        ([], None),
        ([(0, 0)] * 3, [0, 1]),
        ([(0, 0)] * 3, [0.0, 1.0, 2.0]),
        ([(0, 0)] * 3, [[0], [1], [2]]),
    ],
    ids=["empty", "too few ids", "float ids", "wrong shape"],
)
def test_sources_that_are_refused(pairs, index):
    with pytest.raises(ValueError, match=r"expected (one integer id for each|integer ids)"):
        mu.stream(pairs, batch_size=2, index=index)


@pytest.mark.parametrize("batch_size", [0, -2])
def test_batch_size_must_be_positive(batch_size):
    with pytest.raises(ValueError, match=f"expected batch_size >= 1, found {batch_size}"):
        mu.stream([(0, 0)], batch_size=batch_size)


def test_ids_above_31_bits_are_refused():
    with pytest.raises(ValueError, match=r"2\*\*31 - 1, found 2147483648"):
        mu.stream([(0, 0)] * 2, batch_size=1, index=np.array([0, 2**31]))


def test_a_mesh_without_the_axis_is_refused():
    mesh = mu.data_mesh(axis="rows")
    with pytest.raises(ValueError, match=r"axis named 'data', found axes \('rows',\)"):
        mu.stream([(0, 0)] * 2, batch_size=1, mesh=mesh)


def test_an_error_of_the_source_reaches_the_caller():
    class Broken:
        def __len__(self):
            return N

        def __getitem__(self, position):
            raise OSError(f"cannot read example {position}")

    with pytest.raises(OSError, match="cannot read example"):
        mu.collect(
            mu.statistics.mean_gradient(MODEL),
            mu.Variables(jnp.ones(3)),
            mu.stream(Broken(), batch_size=4),
        )
