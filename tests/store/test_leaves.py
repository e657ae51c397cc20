from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from mu_jax.store.versions import Store


class Pair(NamedTuple):
    params: Any
    state: Any = ()


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=False)(nn.Dense(4)(x))
        return nn.Dense(3, param_dtype=jnp.bfloat16)(x)


class NnxNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dropout(self.norm(self.linear(x)))


def linen() -> Any:
    return LinenNet().init(jax.random.key(0), jnp.ones((2, 3)))


def optimizer_state() -> Any:
    params = Pair({"dense": {"kernel": jnp.ones((3, 4)), "bias": jnp.zeros(4)}})
    optimizer = optax.chain(optax.clip(1.0), optax.masked(optax.adam(1e-3), Pair(True)))
    updates, state = optimizer.update(params, optimizer.init(params), params)
    return optax.apply_updates(params, updates), state


def mixture() -> Any:
    return {
        "half": jnp.full((2, 2), 1.5, jnp.bfloat16),
        "key": jax.random.key(3),
        "keys": jax.random.split(jax.random.key(4, impl="rbg"), 4),
        "index": jnp.arange(5),
        "mask": jnp.array([True, False]),
        "weak": jnp.asarray(0.1),
        "host": np.linspace(0, 1, 3),
        "host_scalar": np.float32(0.1),
        "numbers": (3, 0.1, True),
        "nothing": [None, {}, ()],
        "empty": jnp.zeros((0, 3)),
        "nested": {3: jnp.ones(()), 1: jnp.zeros(2)},
        "on_another_device": jax.device_put(jnp.arange(2.0), jax.devices()[-1]),
    }


TREES = {
    "linen": linen,
    "nnx": lambda: nnx.state(NnxNet(nnx.Rngs(0))),
    "named_tuple": lambda: Pair({"kernel": jnp.ones((3, 4))}),
    "optax": optimizer_state,
    "mixture": mixture,
    "single_array": lambda: jnp.arange(3.0),
}


def is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def bits(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)


def blank(leaf: Any) -> Any:
    """A leaf of the same kind with other values."""
    if not isinstance(leaf, jax.Array):
        return leaf
    if is_key(leaf):
        return jax.random.wrap_key_data(
            jax.random.key_data(leaf) * 0, impl=jax.random.key_impl(leaf)
        )
    return leaf & False if leaf.dtype == bool else leaf * 0


def assert_same(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert type(one) is type(other)
        assert getattr(one, "dtype", None) == getattr(other, "dtype", None)
        np.testing.assert_array_equal(bits(one), bits(other))
        for attribute in ("weak_type", "committed", "sharding"):
            assert getattr(one, attribute, None) == getattr(other, attribute, None), attribute


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.mark.quick("nnx", "linen", "mixture")
@pytest.mark.parametrize("name", TREES)
def test_round_trip(store, name):
    tree = TREES[name]()
    version = store.publish(tree, method="train")
    like = jax.tree.map(blank, tree)
    assert_same(store.restore(version, like=like), tree)


@pytest.mark.parametrize("name", ["linen", "nnx", "named_tuple", "optax"])
def test_round_trip_onto_abstract_values(store, name):
    tree = TREES[name]()
    version = store.publish(tree, method="train")
    assert_same(store.restore(version, like=jax.eval_shape(lambda: tree)), tree)


def test_an_abstract_key_comes_back_with_its_implementation(store):
    keys = jax.random.split(jax.random.key(4, impl="rbg"), 4)
    version = store.publish({"keys": keys}, method="train")
    restored = store.restore(version, like={"keys": jax.ShapeDtypeStruct((4,), keys.dtype)})
    assert jax.random.key_impl(restored["keys"]) == "rbg"
    assert_same(restored, {"keys": keys})


def test_nnx_model_computes_the_same(store):
    graph, state = nnx.split(NnxNet(nnx.Rngs(0)))
    version = store.publish(state, method="train")
    _, other = nnx.split(NnxNet(nnx.Rngs(1)))
    restored = nnx.merge(graph, store.restore(version, like=other))
    x = jnp.ones((5, 3))
    np.testing.assert_array_equal(restored(x), nnx.merge(graph, state)(x))


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
def test_restores_onto_another_mesh(store):
    line = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    grid = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    kernel = jnp.arange(128.0).reshape(16, 8)
    keys = jax.random.split(jax.random.key(0), 8)
    saved = {
        "kernel": jax.device_put(kernel, NamedSharding(line, P("data"))),
        "keys": jax.device_put(keys, NamedSharding(line, P("data"))),
    }
    version = store.publish(saved, method="train")
    wanted = {"kernel": NamedSharding(grid, P("y", "x")), "keys": NamedSharding(grid, P("x"))}
    like = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        saved,
        wanted,
    )
    restored = store.restore(version, like=like)
    assert jax.tree.map(lambda leaf: leaf.sharding, restored) == wanted
    np.testing.assert_array_equal(restored["kernel"], kernel)
    np.testing.assert_array_equal(bits(restored["keys"]), bits(keys))
    assert_same(store.restore(version, like=saved), saved)


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
def test_uncommitted_arrays_still_mix_with_a_sharded_batch(store):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    batch = jax.device_put(jnp.ones((8, 3)), NamedSharding(mesh, P("data")))
    version = store.publish({"kernel": jnp.ones((3, 2))}, method="train")
    restored = store.restore(version, like={"kernel": jnp.zeros((3, 2))})
    np.testing.assert_array_equal(jax.jit(jnp.matmul)(batch, restored["kernel"]), 3.0)


def test_floats_are_cast_and_integers_are_not(store):
    version = store.publish({"kernel": jnp.full(3, 0.1), "step": jnp.int32(4)}, method="train")
    half = store.restore(version, like={"kernel": jnp.zeros(3, jnp.bfloat16), "step": jnp.int32(0)})
    np.testing.assert_array_equal(half["kernel"], jnp.full(3, 0.1, jnp.bfloat16))
    with pytest.raises(ValueError, match=r"expected float32\[\] at 'step', found int32\[\]"):
        store.restore(version, like={"kernel": jnp.zeros(3), "step": jnp.float32(0)})
