"""How parameters are divided over a mesh: a rule by shape, overridden by path."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mu_jax.data.axes import Axis, axis_size, check_axis
from mu_jax.model import path_name

PyTree = Any
Rules = Sequence[tuple[str, PartitionSpec]]

SMALLEST = 2**12  # entries; dividing less saves nothing and costs a message


def param_shardings(
    tree: PyTree,
    mesh: Mesh,
    *,
    axis: Axis = "fsdp",
    rules: Rules = (),
    smallest: int = SMALLEST,
) -> PyTree:
    """Where each leaf lies, fully sharded data parallel: each device keeps a part of each array.

    A leaf of at least `smallest` entries is divided along its largest dimension that the axis
    divides, the last of equals; any other lies whole on every device. A rule whose pattern is
    found in the leaf's path comes first.

    Args:
      tree: variables or parameters; arrays or `jax.ShapeDtypeStruct`s.
      mesh: of automatic or explicit axes.
      axis: axis over which parameters are divided, or several. Let the rows be divided over it as
        well, `mu.shard(data, mesh, axis=("data", "fsdp"))`, or its devices do the same work.
      rules: `(pattern, spec)`, searched in order in paths such as `params/block_0/conv/kernel`; a
        regular expression and how to divide leaves like it, over any axes.
      smallest: entries from which a leaf is divided; default 4,096.

    Returns:
      A tree of `NamedSharding`.

    Raises:
      ValueError: no such axis, or a rule that divides a dimension unevenly.

    References:
      S. Rajbhandari, J. Rasley, O. Ruwase, Y. He. ZeRO: Memory Optimizations Toward Training
      Trillion Parameter Models. SC 2020.

    Example:
      >>> import jax, jax.numpy as jnp, mu_jax as mu
      >>> from jax.sharding import PartitionSpec as P
      >>> mesh = jax.make_mesh((1, jax.device_count()), ("data", "fsdp"))
      >>> tree = {"kernel": jnp.ones((64, 128)), "bias": jnp.ones(128), "table": jnp.ones((8, 2))}
      >>> found = mu.param_shardings(tree, mesh, rules=[("table", P("fsdp"))])
      >>> {name: sharding.spec for name, sharding in found.items()}
      {'bias': P(), 'kernel': P(None, 'fsdp'), 'table': P('fsdp',)}
    """
    check_axis(mesh, axis)

    def sharding(path, leaf):
        name = path_name(path)
        for pattern, spec in rules:
            if re.search(pattern, name):
                _check_rule(pattern, spec, name, leaf.shape, mesh)
                return NamedSharding(mesh, spec)
        return NamedSharding(mesh, _by_shape(leaf.shape, mesh, axis, smallest))

    return jax.tree_util.tree_map_with_path(sharding, tree)


def shard_params(variables: PyTree, mesh: Mesh, **options: Any) -> PyTree:
    """Lay variables on a mesh as `param_shardings` says; any transform then keeps them so.

    Args:
      variables: the model's arrays; optimizer states and other trees of arrays too.
      mesh, **options: see `param_shardings`.
    """
    return jax.device_put(variables, param_shardings(variables, mesh, **options))


def init_params(
    init: Callable[[jax.Array], PyTree], key: jax.Array, mesh: Mesh, **options: Any
) -> PyTree:
    """`init(key)` with every array created where `param_shardings` says, and whole nowhere.

    Args:
      init: `key -> variables`.
      key: a PRNG key.
      mesh, **options: see `param_shardings`.

    Example:
      >>> import jax, jax.numpy as jnp, mu_jax as mu
      >>> mesh = jax.make_mesh((jax.device_count(),), ("fsdp",))
      >>> init = lambda key: jax.random.normal(key, (64, 128))
      >>> kernel = mu.init_params(init, jax.random.key(0), mesh)
      >>> kernel.addressable_shards[0].data.shape[1] * jax.device_count()
      128
    """
    shardings = param_shardings(jax.eval_shape(init, key), mesh, **options)
    return jax.jit(init, out_shardings=shardings)(key)


def _by_shape(shape: tuple[int, ...], mesh: Mesh, axis: Axis, smallest: int) -> PartitionSpec:
    size, entries = axis_size(mesh, axis), 1
    for length in shape:
        entries *= length
    divisible = [d for d, length in enumerate(shape) if length % size == 0 and length]
    if entries < smallest or not divisible:
        return PartitionSpec()
    largest = max(divisible, key=lambda d: (shape[d], d))
    return PartitionSpec(*[None] * largest, axis)


def _check_rule(
    pattern: str, spec: PartitionSpec, name: str, shape: tuple[int, ...], mesh: Mesh
) -> None:
    for dimension, entry in enumerate(spec):
        check_axis(mesh, entry or ())
        parts = axis_size(mesh, entry or ())
        if dimension >= len(shape) or shape[dimension] % parts:
            raise ValueError(
                f"expected rule {pattern!r} to divide {name} of shape {shape} evenly, found {spec} "
                f"over {dict(mesh.shape)}: name an axis whose size divides that dimension"
            )
