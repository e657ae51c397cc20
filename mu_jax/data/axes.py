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


def as_seen_here(mesh: Mesh) -> Any:
    """The mesh with the kinds of axes that it has at this point of a program."""
    here = jax.sharding.get_abstract_mesh()
    return mesh if here.empty or here.axis_names != mesh.axis_names else here


def is_explicit(mesh: Mesh) -> bool:
    """Whether the types of arrays say where they lie on this mesh."""
    return any(kind == jax.sharding.AxisType.Explicit for kind in mesh.axis_types)
