"""The same answer on 1, 2, 4 and 8 devices, and the traps that make it a different one."""

from __future__ import annotations

import collections
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import mu_jax as mu
from mu_jax.losses import cross_entropy
from mu_jax.mesh.shards import mesh_of, place
from mu_jax.statistics import importance, mean_gradient

N, KINDS = 13, {"auto": AxisType.Auto, "explicit": AxisType.Explicit}


def predict(params, state, x):
    """A convolution, the layer whose per-example gradients go wrong, and a dense one."""
    del state
    names = ("NHWC", "HWIO", "NHWC")
    h = jax.lax.conv_general_dilated(x, params["conv"], (1, 1), "SAME", dimension_numbers=names)
    return jnp.tanh(h + params["bias"]).mean((1, 2)) @ params["head"]


MODEL = mu.from_function(predict, cross_entropy)
STATISTICS = {
    "mean gradient": mean_gradient(MODEL),
    "per example": importance(MODEL),
    "grouped": importance(MODEL, "grouped", 3),
    "loss free": importance(MODEL, "loss_free", 2),
    "fisher": importance(MODEL, "fisher"),
}


def variables():
    rng = np.random.default_rng(0)
    params = {
        "conv": rng.normal(size=(3, 3, 2, 4)) / 2,
        "bias": rng.normal(size=4),
        "head": rng.normal(size=(4, 3)),
    }
    return mu.Variables(jax.device_put(jax.tree.map(np.float32, params)))


def data(batch_size=6):
    inputs = np.random.default_rng(1).normal(size=(N, 4, 4, 2)).astype(np.float32)
    weight = np.linspace(0.5, 1.5, N, dtype=np.float32)
    return mu.batches(inputs, np.arange(N) % 3, batch_size=batch_size, weight=weight)


def mesh_over(devices, kind, axis="data"):
    return jax.make_mesh(
        (devices,), (axis,), axis_types=(KINDS[kind],), devices=jax.devices()[:devices]
    )


def assert_close(first, second, tolerance=2e-6):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert np.abs(a - b).max() <= tolerance * np.abs(a).max()


QUICK = ((2, "auto"), (8, "explicit"))
MESHES = [
    pytest.param(devices, kind, marks=[] if (devices, kind) in QUICK else pytest.mark.slow)
    for devices in (1, 2, 4, 8)
    for kind in KINDS
]


@pytest.mark.quick("*-8-explicit", "per example-2-auto")
@pytest.mark.parametrize(("devices", "kind"), MESHES)
@pytest.mark.parametrize("name", STATISTICS)
def test_every_statistic_is_the_same_on_every_mesh(name, devices, kind):
    one = mu.collect(STATISTICS[name], variables(), data())
    mesh = mesh_over(devices, kind)
    acc = mu.collect(STATISTICS[name], variables(), mu.shard(data(), mesh))
    assert_close(one.value, acc.value)
    np.testing.assert_allclose(acc.weight, one.weight, rtol=1e-6)
    np.testing.assert_array_equal(acc.fingerprint, one.fingerprint)
    acc.merge(jax.device_put(one, NamedSharding(mesh, PartitionSpec())))


@pytest.mark.quick("per example")
@pytest.mark.parametrize("name", STATISTICS)
def test_more_devices_than_examples(name):
    few = data().take(np.arange(3))
    one = mu.collect(STATISTICS[name], variables(), few)
    assert_close(
        one.value, mu.collect(STATISTICS[name], variables(), mu.shard(few, mu.data_mesh())).value
    )


@pytest.mark.quick("explicit")
@pytest.mark.parametrize("kind", KINDS)
def test_under_jit_it_is_the_same(kind):
    batches = mu.shard(data(), mesh_over(4, kind))
    one = mu.collect(importance(MODEL), variables(), data())
    collect = jax.jit(lambda v, b: mu.collect(importance(MODEL), v, b))
    assert_close(one.value, collect(place(variables(), batches.mesh), batches).value)


@pytest.mark.quick("explicit")
@pytest.mark.parametrize("kind", KINDS)
def test_a_list_of_sharded_batches(kind):
    batches = list(mu.shard(data(), mesh_over(4, kind)))
    assert mesh_of(batches[0])[1] == "data"
    for name in ("mean gradient", "per example"):
        one = mu.collect(STATISTICS[name], variables(), data())
        acc = mu.collect(STATISTICS[name], place(variables(), mesh_of(batches[0])[0]), batches)
        assert_close(one.value, acc.value)


@pytest.mark.quick("explicit")
@pytest.mark.parametrize("kind", KINDS)
def test_a_mesh_with_a_second_axis(kind):
    types = (KINDS[kind], AxisType.Auto)
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=types)
    one = mu.collect(importance(MODEL), variables(), data())
    acc = mu.collect(importance(MODEL), variables(), mu.shard(data(), mesh))
    assert_close(one.value, acc.value)


def test_the_data_axis_may_have_any_name():
    mesh = mesh_over(4, "auto", axis="rows")
    one = mu.collect(importance(MODEL), variables(), data())
    acc = mu.collect(importance(MODEL), variables(), mu.shard(data(), mesh, axis="rows"))
    assert_close(one.value, acc.value)


@pytest.mark.quick("2-auto")
@pytest.mark.parametrize(("devices", "kind"), MESHES)
def test_a_fit_is_the_same_on_every_mesh(devices, kind):
    def run(batches):
        objective, optimizer = mu.supervised(MODEL), optax.adam(0.01)
        return mu.fit(
            MODEL, objective, optimizer, variables(), batches, key=jax.random.key(0), epochs=2
        )

    (one, one_info), (many, many_info) = (
        run(data()),
        run(mu.shard(data(), mesh_over(devices, kind))),
    )
    # Adam divides by the root of squares: entries with tiny gradients amplify rounding.
    assert_close(one.variables, many.variables, 1e-4)
    assert_close(one_info, many_info, 1e-5)


def squares_by_hand(batch):
    """Sum of squares of per-example gradients, one example after the other."""
    rows = zip(np.asarray(batch.inputs), np.asarray(batch.targets))
    grads = [example_gradient(variables().params, x, y) for x, y in rows]
    return jax.tree.map(lambda *g: sum(np.square(x) for x in g), *grads)


def example_loss(params, x, y):
    return cross_entropy(predict(params, (), x[None]), y[None])[0]


example_gradient = jax.jit(jax.grad(example_loss))


def squares(params, batch):
    grads = jax.vmap(jax.grad(example_loss), (None, 0, 0))(params, batch.inputs, batch.targets)
    return jax.tree.map(lambda g: jnp.sum(g * g, axis=0), grads)


def error(found, expected):
    found, expected = np.asarray(found), np.asarray(expected)
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.fixture
def sharded():
    """Eight examples over eight devices, automatically partitioned."""
    mesh = mesh_over(8, "auto")
    batch = data(8).replace(weight=np.ones(N, np.float32)).at(0)
    expected = squares_by_hand(batch)
    return mesh, jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data"))), expected


def test_trap_jit_of_vmap_of_grad_of_a_convolution_is_wrong(sharded):
    """If this fails, JAX computes it right now: see `over_mesh` and simplify."""
    _, batch, expected = sharded
    found = jax.jit(squares)(variables().params, batch)
    assert 0.5 < error(found["conv"], expected["conv"]) <= 1.0
    assert error(found["head"], expected["head"]) < 1e-5


def test_trap_shard_map_without_cast_is_wrong(sharded):
    """If this fails, gradients of replicated arguments are no longer summed by themselves."""
    mesh, batch, expected = sharded

    def body(params, batch):
        return jax.lax.psum(squares(params, batch), "data")

    specs = (PartitionSpec(), PartitionSpec("data"))
    mapped = jax.shard_map(body, mesh=mesh, in_specs=specs, out_specs=PartitionSpec())
    found = jax.jit(mapped)(variables().params, batch)
    assert error(found["conv"], expected["conv"]) > 0.5
    assert error(found["head"], expected["head"]) > 0.5


def summed(statistic, batch):
    acc = statistic.init(variables())
    return statistic.total(jax.jit(statistic.update)(acc, variables(), batch))


def test_over_mesh_is_right_where_these_are_wrong(sharded):
    mesh, batch, expected = sharded
    found = summed(mu.over_mesh(importance(MODEL), mesh), batch)
    assert found.weight == 8
    assert_close(found.sum, expected)


def test_over_mesh_is_right_for_plain_vmap_of_grad_as_well(sharded):
    mesh, batch, expected = sharded

    def terms(variables, batch):
        return squares(variables.params, batch), batch.weight.sum()

    statistic = mu.over_mesh(importance(MODEL).replace(terms=terms), mesh)
    assert_close(summed(statistic, batch).sum, expected)


def communications(text):
    """Collectives of a compiled program, by name."""
    names = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    return collections.Counter(re.findall(rf" ({names})(?:-start)?\(", text))


@pytest.mark.quick("mean gradient-explicit", "grouped-explicit", "per example-*")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", STATISTICS)
def test_a_statistic_communicates_once_however_many_batches(name, kind):
    mesh, statistic = mesh_over(4, kind), STATISTICS[name]
    batches = mu.shard(data(4), mesh)
    collect = jax.jit(functools.partial(mu.collect, statistic))
    text = collect.lower(place(variables(), mesh), batches).compile().as_text()
    assert communications(text) == {"all-reduce": 1}


def test_over_mesh_is_one_object_so_that_it_compiles_once():
    mesh, statistic = mesh_over(4, "auto"), importance(MODEL)
    assert mu.over_mesh(statistic, mesh) is mu.over_mesh(statistic, mesh_over(4, "auto"))
    placed = place(variables(), mesh)
    first = mu.over_mesh(statistic, mesh, variables=placed)
    assert first is mu.over_mesh(statistic, mesh, variables=placed)


@pytest.mark.parametrize("function", ["shard", "over_mesh"])
def test_a_mesh_without_the_axis_is_refused(function):
    mesh = mesh_over(2, "auto", axis="rows")
    arguments = {"shard": data(), "over_mesh": importance(MODEL)}[function]
    with pytest.raises(ValueError, match=r"an axis named 'data', found axes \('rows',\): give"):
        getattr(mu, function)(arguments, mesh)


def test_data_mesh_is_automatic_over_the_devices_given():
    mesh = mu.data_mesh()
    assert mesh.shape == {"data": jax.device_count()} and mesh.axis_types == (AxisType.Auto,)
    mesh = mu.data_mesh(jax.devices()[2:4], axis="rows")
    assert mesh.shape == {"rows": 2} and list(mesh.devices.flat) == jax.devices()[2:4]


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_padded_to_the_devices_and_sharded(kind):
    mesh = mesh_over(4, kind)
    batches = list(mu.shard(data(6), mesh))
    assert [batch.weight.shape[0] for batch in batches] == [8, 8, 8]
    for batch in batches:
        assert batch.inputs.sharding.spec[0] == "data"
        assert len(batch.inputs.sharding.device_set) == 4
    ids = np.concatenate([batch.index for batch in batches])
    assert ids[ids >= 0].tolist() == list(range(N))
    total = sum(float(batch.weight.sum()) for batch in batches)
    np.testing.assert_allclose(total, data().weight.sum(), rtol=1e-6)


def test_place_moves_only_what_lies_elsewhere():
    mesh = mu.data_mesh()
    placed = place({"a": jnp.ones(3), "b": np.ones(2)}, mesh)
    assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(placed))
    split = jax.device_put(jnp.ones(8), NamedSharding(mesh, PartitionSpec("data")))
    key = jax.random.key(3)
    assert len(place(key, mesh).sharding.device_set) == 8
    assert jax.random.key_data(place(key, mesh)).tolist() == jax.random.key_data(key).tolist()
    assert place(split, mesh) is split and place(placed, mesh)["a"] is placed["a"]


def test_mesh_of_a_batch():
    batch = data(8).at(0)
    assert mesh_of(batch) is None
    mesh = mu.data_mesh()
    assert mesh_of(jax.device_put(batch, NamedSharding(mesh, PartitionSpec()))) is None
    found = mesh_of(jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data"))))
    assert found == (mesh, "data")
    assert mesh_of(jax.tree.map(np.asarray, batch)) is None
