"""Meshes: where data lie, and the one wrapper for per-example work on shards of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mu_jax import _at_once as at_once
from mu_jax._callables import hashable
from mu_jax._tracing import cached
from mu_jax.data.axes import Axis, as_seen_here, axis_names, check_axis, is_explicit
from mu_jax.data.batches import Batch, Batches, checked_batch

PyTree = Any


def data_mesh(devices: Sequence[jax.Device] | None = None, *, axis: str = "data") -> Mesh:
    """A mesh of one axis over `devices` (default: all), for data parallelizm.

    Its axis is of the automatic kind, which takes every model as it is; meshes with explicit axes
    work too.
    """
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (axis,), axis_types=(AxisType.Auto,), devices=devices)


def shard(batches: Batches, mesh: Mesh, *, axis: Axis = "data") -> Batches:
    """Let every batch be sharded over `axis` of `mesh`; the arrays are copied to each device.

    Args:
      batches: the examples.
      mesh: of automatic or explicit axes.
      axis: one axis, or several over whose product the rows are divided: `("data", "fsdp")` where
        `mu.shard_params` divides the parameters over `fsdp`.

    Example:
      >>> import numpy as np, mu_jax as mu
      >>> data = mu.batches(np.ones((4, 2)), np.arange(4), batch_size=2)
      >>> mu.shard(data, mu.data_mesh()).mesh.shape["data"] == jax.device_count()
      True
    """
    check_axis(mesh, axis)
    return place(batches, mesh).replace(mesh=mesh, axis=axis)


def place(tree: PyTree, mesh: Mesh) -> PyTree:
    """Copy to every device of the mesh what does not lie on all of them yet."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    devices = set(mesh.devices.flat)

    def move(leaf):
        if isinstance(leaf, bool | int | float | complex):  # several processes put arrays alone
            leaf = jnp.asarray(leaf)
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
    mesh = as_seen_here(mesh)
    if not is_explicit(mesh):
        return tree
    everywhere = NamedSharding(mesh, PartitionSpec())

    def move(leaf):
        return (
            jax.sharding.reshard(leaf, everywhere) if jax.typeof(leaf).sharding.mesh.empty else leaf
        )

    return jax.tree.map(move, tree)


def on_automatic_axes(function: Callable[..., PyTree], *args: PyTree, like: PyTree) -> PyTree:
    """`function(*args)` with the partitioning left to the compiler, also on explicit axes.

    There a product over a divided dimension, a sort along one or a dropout mask would be refused,
    so their types are taken off on the way in and put on again on the way out. Nothing is done on
    automatic axes.

    Args:
      function: of arrays.
      *args: its arguments.
      like: a tree shaped like the result; leaves of it lie where those of the result shall.
    """
    mesh = explicit_mesh(like)
    if mesh is None:
        return function(*args)
    leaves = jax.tree.leaves(args)
    if at_once.is_known(args) and any(jax.typeof(x).sharding.mesh.empty for x in leaves):
        # Outside `jit` an array of one device cannot enter a mesh.
        return jax.jit(lambda args, like: on_automatic_axes(function, *args, like=like))(args, like)
    where = jax.tree.map(lambda leaf: jax.typeof(leaf).sharding, like)
    return jax.sharding.auto_axes(function, out_sharding=where)(*enter(args, mesh))


def explicit_mesh(tree: PyTree) -> Any:
    """The mesh of explicit axes on which arrays of a tree lie; None if none lie on such a one."""
    meshes = (jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(tree))
    return next((mesh for mesh in meshes if not mesh.empty and is_explicit(mesh)), None)


def summary(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Compile a function of trees whose small result is whole on every device of any mesh.

    For sums, norms, percentiles and the like: see `on_automatic_axes`.
    """

    @jax.jit
    @functools.wraps(function)
    def anywhere(*args):
        mesh = explicit_mesh(args)
        if mesh is None:
            return function(*args)
        everywhere = NamedSharding(mesh, PartitionSpec())
        run = jax.sharding.auto_axes(function, out_sharding=everywhere)
        return run(*enter(args, mesh))

    return anywhere


def by_rows(function: Callable[..., PyTree], *args: PyTree, rows: jax.Array) -> PyTree:
    """`function(*args)` with the partitioning left to the compiler, also on explicit axes.

    What it returns has the leading axes of `rows` in front, and lies as they do. For models that
    multiply by parameters that are divided: see `on_automatic_axes`.

    Args:
      function: of arrays.
      *args: its arguments.
      rows: an array of the rows, all of whose axes the results share.
    """
    mesh = explicit_mesh(args)
    if mesh is None:
        return function(*args)
    spec = getattr(jax.typeof(rows).sharding, "spec", PartitionSpec())
    run = jax.sharding.auto_axes(function, out_sharding=NamedSharding(mesh, spec))
    return run(*enter(args, mesh))


def reduction(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Let `function(xp, *trees)`, of small results, run at once: see `mu_jax._at_once`.

    For sums, norms and the like. The result is whole on every device of any mesh.
    """
    compiled = summary(functools.wraps(function)(functools.partial(function, jnp)))

    @functools.wraps(function)
    def run(*args):
        if not at_once.on_host(args):
            return compiled(*args)
        return at_once.to_devices(at_once.in_numpy(function, *args))

    return at_once.without_module(run, function)


def bare(tree: PyTree) -> PyTree:
    """Shapes and types of arrays without where they lie, for `jax.eval_shape`."""

    def shape(leaf):
        kind = jax.typeof(leaf)
        return jax.ShapeDtypeStruct(kind.shape, kind.dtype)

    return jax.tree.map(shape, tree)


def created_like(variables: PyTree, init: Callable[[jax.Array], PyTree], key: jax.Array) -> PyTree:
    """`init(key)` with every array where that of `variables` lies, and whole nowhere else.

    Inside `jit` on automatic axes the compiler places them.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((variables, key))):
        return on_automatic_axes(init, key, like=variables)
    places = [getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(variables)]
    if not all(isinstance(place, NamedSharding) for place in places):
        return init(key)
    return _jitted_init(hashable(init), jax.tree.structure(variables), tuple(places))(key)


@cached(maxsize=64)
def _jitted_init(init, structure, places):
    return jax.jit(init, out_shardings=jax.tree.unflatten(structure, places))


def specs_of(tree: PyTree, mesh: Mesh) -> PyTree:
    """How each leaf is divided over the mesh, where that can be seen; `PartitionSpec()` elsewhere.

    It can be seen of arrays outside `jit`, and of explicit axes anywhere. Inside `jit`, automatic
    axes hide it: per-example work there first gathers whatever the compiler has divided.
    """

    def spec(leaf):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(leaf, jax.core.Tracer):
            sharding = jax.typeof(leaf).sharding
        if not isinstance(sharding, NamedSharding) or sharding.mesh.axis_names != mesh.axis_names:
            return PartitionSpec()
        entries = [entry if isinstance(entry, str | tuple) else None for entry in sharding.spec]
        return PartitionSpec(*entries)

    return jax.tree.map(spec, tree)


def manual_axes(mesh: Mesh, axis: Axis, specs: PyTree) -> tuple[str, ...]:
    """The axes by which anything is divided: rows over `axis`, arrays as `specs` say."""
    used = set(axis_names(axis))
    for spec in jax.tree.leaves(specs):
        used.update(*(axis_names(entry) for entry in spec if entry is not None))
    return tuple(name for name in mesh.axis_names if name in used)


def on_shards(
    function: Callable[[PyTree, Batch], PyTree],
    mesh: Mesh,
    axis: Axis,
    *,
    specs: PyTree,
    out_specs: PyTree,
    finish: Callable[[PyTree], PyTree],
) -> Callable[[PyTree, Batch], PyTree]:
    """`finish(function(frozen, batch))` on every device, each on its own rows.

    The right way to per-example gradients on a mesh: under plain `jit`, those of a convolution
    kernel on a batch that is sharded automatically come out wrong; so do they inside `shard_map`
    with replicated parameters, whose gradient is summed over the devices before it is squared.
    Here the parameters are first gathered where they are divided, and made varying over the axes.

    Args:
      function: `(frozen, batch) -> tree` on the whole arrays `frozen` and the rows of one device.
      mesh, axis: the rows are divided over `axis`. Devices along another axis of `specs` hold the
        same rows; of these the first gives them their weight and the others 0.
      specs: how `frozen` is divided, from `specs_of`.
      out_specs: how the result is.
      finish: from the result on one device to its part of the whole; may communicate.
    """
    names = manual_axes(mesh, axis, specs)

    def local(frozen, batch):
        whole = jax.tree.map(lambda x, spec: vary(_gather(x, spec), names), frozen, specs)
        batch, mine = vary(batch, names), counts(names, axis)
        weight = jnp.where(mine, batch.weight, 0)
        return finish(function(whole, batch._replace(weight=weight)))

    return jax.shard_map(
        local,
        mesh=as_seen_here(mesh),
        in_specs=(specs, PartitionSpec(axis)),
        out_specs=out_specs,
        axis_names=set(names),
    )


def counts(names: tuple[str, ...], axis: Axis) -> jax.Array | bool:
    """Whether this device is the one of those with the same rows that counts them."""
    others = tuple(name for name in names if name not in axis_names(axis))
    return jax.lax.axis_index(others) == 0 if others else True


def _gather(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    for dimension, names in enumerate(spec):
        if names is not None:
            x = jax.lax.all_gather(x, names, axis=dimension, tiled=True)
    return x


def varying_axes(tree: PyTree) -> frozenset[str]:
    """The axes of the mesh over which any leaf varies inside `shard_map`."""
    types = [jax.typeof(leaf).manual_axis_type for leaf in jax.tree.leaves(tree)]
    return frozenset().union(*(each.varying for each in types))


def vary(tree: PyTree, axes: Iterable[str]) -> PyTree:
    """Let arrays vary over the axes of the mesh, their values the same on every device."""

    def mark(x):
        missing = tuple(name for name in axes if name not in varying_axes(x))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(mark, tree)


def mesh_of(batch: Batch) -> tuple[Mesh, Axis] | None:
    """The mesh and data axis over which a batch of arrays is sharded; None if it is not."""
    sharding = getattr(checked_batch(batch).weight, "sharding", None)
    if not isinstance(sharding, NamedSharding) or not sharding.spec or sharding.spec[0] is None:
        return None
    mesh: Any = sharding.mesh
    return mesh, sharding.spec[0]
