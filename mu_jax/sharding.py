"""Meshes: where arrays lie, and the one wrapper for per-example work on them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mu_jax.data import Batch, Batches, is_explicit

PyTree = Any
Statistic = TypeVar("Statistic")


def data_mesh(devices: Sequence[jax.Device] | None = None, *, axis: str = "data") -> Mesh:
    """A mesh of one axis over `devices` (default: all), for data parallelism.

    Its axis is of the automatic kind, which takes every model as it is; meshes with explicit axes
    work too.
    """
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (axis,), axis_types=(AxisType.Auto,), devices=devices)


def shard(batches: Batches, mesh: Mesh, *, axis: str = "data") -> Batches:
    """Let every batch be sharded over `axis` of `mesh`; the arrays are copied to each device.

    Example:
      >>> import numpy as np, mu_jax as mu
      >>> data = mu.batches(np.ones((4, 2)), np.arange(4), batch_size=2)
      >>> mu.shard(data, mu.data_mesh()).mesh.shape["data"] == jax.device_count()
      True
    """
    check_axis(mesh, axis)
    return place(batches, mesh).replace(mesh=mesh, axis=axis)


def check_axis(mesh: Mesh, axis: str) -> None:
    """Refuse a mesh that has no axis of that name."""
    if axis not in mesh.shape:
        raise ValueError(
            f"expected a mesh with an axis named {axis!r}, found axes {tuple(mesh.shape)}: "
            "give the name of the data axis"
        )


def place(tree: PyTree, mesh: Mesh) -> PyTree:
    """Copy to every device of the mesh what does not lie on all of them yet."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    devices = set(mesh.devices.flat)

    def move(leaf):
        if not isinstance(leaf, jax.Array):
            return jax.device_put(leaf, everywhere)
        named = isinstance(leaf.sharding, NamedSharding)  # one device alone names no mesh
        if named and leaf.sharding.device_set == devices:
            return leaf
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            # Typed keys cannot be put on devices of other processes, their words can.
            words = jax.device_put(jax.random.key_data(leaf), everywhere)
            return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
        return jax.device_put(leaf, everywhere)

    return jax.tree.map(move, tree)


def enter(tree: PyTree, mesh: Mesh) -> PyTree:
    """Inside `jit`, let arrays that belong to no mesh be replicated over this one.

    With explicit axes the type of an array says where it lies, and a gradient with respect to one
    that lies nowhere could not be summed over devices. Automatic axes need nothing.
    """
    if not is_explicit(mesh):
        return tree
    everywhere = NamedSharding(mesh, PartitionSpec())

    def move(leaf):
        return (
            jax.sharding.reshard(leaf, everywhere) if jax.typeof(leaf).sharding.mesh.empty else leaf
        )

    return jax.tree.map(move, tree)


def over_mesh(statistic: Statistic, mesh: Mesh, *, axis: str = "data") -> Statistic:
    """A statistic whose every update runs shard by shard and is summed once.

    Per-example gradients of a convolution kernel under plain `jit` on a batch that is sharded
    automatically come out wrong; so do they inside `shard_map` with replicated parameters, whose
    gradient is summed over the devices before it is squared. Here the parameters are first made
    varying over the axis, each device works on its own rows, and the sums are added by one
    all-reduce per update.

    Args:
      statistic: a `Statistic`.
      mesh: the mesh; other axes than `axis` stay automatic.
      axis: the data axis. The batch size must be a multiple of its size times the statistic's
        group size.
    """
    check_axis(mesh, axis)
    return _over_mesh(statistic, mesh, axis)


@functools.lru_cache(maxsize=128)
def _over_mesh(statistic: Any, mesh: Mesh, axis: str) -> Any:
    return statistic.replace(terms=sum_over_mesh(statistic.terms, mesh, axis))


def sum_over_mesh(
    terms: Callable[[PyTree, Batch], PyTree], mesh: Mesh, axis: str
) -> Callable[[PyTree, Batch], PyTree]:
    """`terms(variables, batch)`, a tree of sums, computed shard by shard and added up."""

    def local(variables, batch):
        varying = jax.tree.map(lambda x: jax.lax.pcast(x, axis, to="varying"), variables)
        return jax.lax.psum(terms(varying, batch), axis)

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(axis)),
        out_specs=PartitionSpec(),
        axis_names={axis},
    )


def mesh_of(batch: Batch) -> tuple[Mesh, str] | None:
    """The mesh and data axis over which a batch of arrays is sharded; None if it is not."""
    sharding = getattr(batch.weight, "sharding", None)
    if not isinstance(sharding, NamedSharding) or not sharding.spec or sharding.spec[0] is None:
        return None
    first = sharding.spec[0]
    mesh: Any = sharding.mesh
    return mesh, first if isinstance(first, str) else first[0]
