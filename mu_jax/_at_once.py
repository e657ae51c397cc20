"""Functions of whole trees outside the loops: compiled in one piece, or NumPy on a CPU.

An edit, a norm or a report is dozens of small operations. Called one by one, each is a program that
JAX compiles at its first call, and together they cost more than the model's own program. Functions
here are written once against a module `xp` of arrays and run

* inside `jit` and `vmap` as part of the caller's program (`xp` is `jax.numpy`);
* on a CPU with NumPy on the same memory, where nothing is compiled (`xp` is `numpy`);
* on accelerators and over several processes as one compiled program.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


def elementwise(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Let `function(xp, *trees)`, entry by entry, run at once: see the module.

    The leaves of the result lie where the leaves of the first tree lie, of which the result has
    the shapes.
    """
    compiled = jax.jit(functools.partial(function, jnp))

    @functools.wraps(function)
    def run(first, *rest):
        if not on_host((first, rest)):
            return compiled(first, *rest)
        return to_devices(in_numpy(function, first, *rest), like=first)

    return without_module(run, function)


def without_module(run: Callable, function: Callable) -> Callable:
    """Let `run` look like `function` to its caller, who does not give `xp`."""
    signature = inspect.signature(function)
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=list(signature.parameters.values())[1:]
    )
    return run


def in_numpy(function: Callable, *args: PyTree) -> PyTree:
    """`function(numpy, *args)` on the host; NaN and infinity make no noise."""
    with np.errstate(all="ignore"):
        return function(np, *to_host(args))


def is_known(tree: PyTree) -> bool:
    """Whether no leaf is traced."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def on_host(tree: PyTree) -> bool:
    """Whether every leaf is a number, or an array that NumPy can read without a copy off a device.

    Not so for what is traced, lies on an accelerator, or in part on another process.
    """
    return all(_readable(leaf) for leaf in jax.tree.leaves(tree))


def _readable(leaf: Any) -> bool:
    if not isinstance(leaf, jax.Array):
        return True
    if isinstance(leaf, jax.core.Tracer) or not leaf.is_fully_addressable:
        return False
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        return False
    devices: Any = leaf.sharding.device_set
    return all(device.platform == "cpu" for device in devices)


def is_divided(tree: PyTree) -> bool:
    """Whether some array lies on more than one device."""
    arrays = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    return any(len(leaf.sharding.device_set) > 1 for leaf in arrays)


def to_host(tree: PyTree) -> PyTree:
    """The leaves as NumPy arrays of the types that JAX would give them; numbers as they are."""

    def convert(leaf):
        if isinstance(leaf, jax.Array):
            return np.asarray(leaf)
        if isinstance(leaf, np.ndarray | np.generic):
            return np.asarray(leaf, jax.dtypes.canonicalize_dtype(leaf.dtype))
        return leaf

    return jax.tree.map(convert, tree)


def to_devices(tree: PyTree, like: PyTree | None = None) -> PyTree:
    """NumPy leaves as arrays of JAX, each where that of `like` lies; compiles nothing."""
    tree = jax.tree.map(
        lambda leaf: np.asarray(leaf, jax.dtypes.canonicalize_dtype(np.result_type(leaf))), tree
    )
    if like is None:
        return jax.device_put(tree)
    places = [
        leaf.sharding if isinstance(leaf, jax.Array) and leaf.committed else None
        for leaf in jax.tree.leaves(like)
    ]
    leaves, structure = jax.tree.flatten(tree)
    if len(places) == len(leaves) and any(place is not None for place in places):
        return jax.tree.unflatten(structure, list(map(jax.device_put, leaves, places)))
    return jax.device_put(tree)


def indexed(tree: PyTree, index: Any) -> PyTree:
    """`leaf[index]` of every leaf, in NumPy where the leaves are whole on a host."""
    if not on_host(tree) or not is_whole(tree):
        return jax.tree.map(lambda leaf: leaf[index], tree)
    return to_devices(jax.tree.map(lambda leaf: leaf[index], to_host(tree)), like=tree)


def stacked(trees: Sequence[PyTree]) -> PyTree:
    """Trees of one structure with a new leading axis, in NumPy where they are whole on a host."""
    if not on_host(trees) or not is_whole(trees):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
    return to_devices(jax.tree.map(lambda *x: np.stack(x), *to_host(trees)), like=trees[0])


def zeros(tree: PyTree) -> PyTree:
    """Zeros in the shapes of a tree of `jax.ShapeDtypeStruct`; compiles nothing."""
    return jax.tree.map(lambda x: jax.device_put(np.zeros(x.shape, x.dtype)), tree)


def is_whole(tree: PyTree) -> bool:
    """Whether every array lies whole on each of its devices."""
    arrays = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    return all(leaf.is_fully_replicated for leaf in arrays)


def holds(function: Callable[..., Any], *args: PyTree) -> bool:
    """Whether `function(xp, *args)` is true of arrays that are known; on a CPU compiles nothing."""
    return bool(in_numpy(function, *args) if on_host(args) else function(jnp, *args))


def as_array(value: Any, dtype: Any = None) -> jax.Array:
    """`jnp.asarray`, which compiles nothing for what NumPy holds or a list of numbers."""
    if isinstance(value, jax.Array):
        return value if dtype is None or value.dtype == dtype else jnp.asarray(value, dtype)
    if not is_known(value):
        return jnp.asarray(value, dtype)
    value = np.asarray(value)
    return jax.device_put(np.asarray(value, jax.dtypes.canonicalize_dtype(dtype or value.dtype)))


def wide(labels: jax.Array) -> jax.Array:
    """Labels or tokens of a narrow type as i32, before they count rows or are compared with counts.

    There may be more classes than that type can hold, and a comparison with their number, or
    `jax.nn.one_hot`, is done in that type: 300 classes would be 44 to labels in eight bits.
    """
    narrow = jnp.issubdtype(labels.dtype, jnp.integer) and labels.dtype.itemsize < 4
    return as_array(labels, jnp.int32) if narrow else labels


def copy(tree: PyTree) -> PyTree:
    """The same arrays in memory of their own, as arrays of JAX; compiles nothing in one process."""

    def copied(leaf):
        if not leaf.is_fully_addressable:  # in part on another process
            return jnp.copy(leaf)
        return jax.device_put(leaf, leaf.sharding if leaf.committed else None, may_alias=False)

    tree = jax.tree.map(lambda x: x if isinstance(x, jax.Array) else to_devices(x), tree)
    if any(leaf.committed for leaf in jax.tree.leaves(tree)):
        return jax.tree.map(copied, tree)
    return jax.device_put(tree, may_alias=False)
