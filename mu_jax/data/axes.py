"""The axes of a mesh over which rows are divided."""

from __future__ import annotations

import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

PyTree = Any
Axis = str | tuple[str, ...]


def axis_names(axis: Axis) -> tuple[str, ...]:
    """The axis, or the axes, as a tuple."""
    return (axis,) if isinstance(axis, str) else tuple(axis)


def axis_size(mesh: Mesh | None, axis: Axis) -> int:
    """Number of parts into which the data axis divides a batch; 1 without a mesh."""
    return 1 if mesh is None else math.prod(mesh.shape[name] for name in axis_names(axis))


def check_axis(mesh: Mesh, axis: Axis) -> None:
    """Refuse a mesh that has no axis of that name."""
    for name in axis_names(axis):
        if name not in mesh.shape:
            raise ValueError(
                f"expected a mesh with an axis named {name!r}, found axes {tuple(mesh.shape)}: "
                "give the name of the data axis"
            )


def constrain(tree: PyTree, mesh: Mesh, axis: Axis) -> PyTree:
    """Shard the leading axis of every leaf over the mesh's data axis, inside or outside a jit."""
    mesh = as_seen_here(mesh)
    everywhere, divided = (NamedSharding(mesh, PartitionSpec(*names)) for names in ((), (axis,)))
    if is_explicit(mesh):
        return jax.tree.map(lambda x: jax.sharding.reshard(x, divided), tree)
    # The first constraint keeps the compiler from dividing what the arrays are computed from.
    move = jax.lax.with_sharding_constraint
    return jax.tree.map(lambda x: move(move(x, everywhere), divided), tree)


def keep_rows(x: jax.Array, rows: NamedSharding | None, *, free: bool = False) -> jax.Array:
    """An activation [B, ...] of a model, its rows divided as `rows` says and nothing else.

    Without it the compiler may gather the rows and divide the work by the parameters instead, which
    moves many times the bytes. Nothing is done where it does not apply: rows that the axes do not
    divide, and inside `shard_map`, where each device has its own.

    Args:
      x: the activation.
      rows: how the leading axis is divided; None does nothing.
      free: leave the other axes to the compiler; else they are whole.
    """
    if rows is None or not rows.spec or rows.spec[0] is None:
        return x
    axis, mesh = rows.spec[0], as_seen_here(rows.mesh)  # type: ignore[arg-type]
    kinds = dict(zip(mesh.axis_names, mesh.axis_types))
    here = all(kinds[name] == jax.sharding.AxisType.Auto for name in axis_names(axis))
    if not here or x.shape[0] % axis_size(mesh, axis):
        return x
    others = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1) if free else ()
    where = NamedSharding(mesh, PartitionSpec(axis, *others))
    return jax.lax.with_sharding_constraint(x, where)


def as_seen_here(mesh: Mesh) -> Any:
    """The mesh with the kinds of axes that it has at this point of a program."""
    here = jax.sharding.get_abstract_mesh()
    return mesh if here.empty or here.axis_names != mesh.axis_names else here


def is_explicit(mesh: Mesh) -> bool:
    """Whether the types of arrays say where they lie on this mesh."""
    return any(kind == jax.sharding.AxisType.Explicit for kind in mesh.axis_types)
