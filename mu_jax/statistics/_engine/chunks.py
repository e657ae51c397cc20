"""The loss of one row as a program, and sums over rows in chunks that bound memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from mu_jax import _target as target
from mu_jax.mesh.shards import vary, varying_axes
from mu_jax.statistics._engine.products import Program, trace

Array = jax.Array
PyTree = Any
Losses = Callable[[PyTree, PyTree], Array]


def prepare(losses: Losses, params: PyTree, rows: PyTree) -> tuple[Program, list[Array], PyTree]:
    """Trace the loss of one row; return it with the leaves, and the rows as arrays."""
    rows, leaves = jax.tree.map(jnp.asarray, rows), jax.tree.leaves(params)
    for leaf in leaves:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(
                f"Expected floating-point parameters, found a leaf of {jnp.result_type(leaf)}: "
                "keep what is not differentiated out of `params`."
            )
    lengths = {x.shape[:1] for x in jax.tree.leaves(rows)}
    if len(lengths) != 1 or () in lengths or (0,) in lengths:
        raise ValueError(
            f"Expected rows with one common, positive leading axis, found {sorted(lengths)}: give "
            "every array one entry per example."
        )
    # Inside shard_map, the gradient with respect to parameters that do not vary over the mesh is
    # summed over devices: examples of different devices would be added before they are squared.
    varying = varying_axes((leaves, rows))
    leaves = [vary(jnp.asarray(leaf), varying) for leaf in leaves]
    params = jax.tree.unflatten(jax.tree.structure(params), leaves)
    program = trace(losses, params, jax.tree.map(lambda x: x[:1], rows))
    shapes = [getattr(value, "shape", None) for value in program.jaxpr.out_avals]
    if shapes != [(1,)]:
        raise ValueError(
            f"Expected one loss per row, shape (1,) for one row, found {shapes}: return losses "
            "before any mean or sum over examples."
        )
    return program, leaves, rows


def _n_bytes(x: Array) -> int:
    return x.size * x.dtype.itemsize


def length(rows: PyTree) -> int:
    return jax.tree.leaves(rows)[0].shape[0]


def rows_at_once(program: Program, leaves: list[Array]) -> int:
    """How many rows to process at once.

    Time on a CPU is lost to memory: a chunk that stays in the caches can halve it. Each chunk adds
    a pass over the parameters, so large networks get large chunks; tables of which rows are looked
    up do not count as such.
    """
    uses = program.uses.values()
    row = sum(use.entries * use.result.dtype.itemsize for each in uses for use in each.all)
    row += sum(_n_bytes(leaves[leaf]) for leaf in program.copied)
    tables = {leaf for leaf, each in program.uses.items() if each.lookups}
    passed = sum(_n_bytes(x) for leaf, x in enumerate(leaves) if leaf not in tables)
    budget = 2**22 if target.platform() == "cpu" else 2**30
    return max(1, (budget + 2 * passed) // max(row, 1))


def in_chunks(rows: PyTree, chunk_size: int) -> PyTree | None:
    """Rows as [chunks, rows, ...], the last row repeated to fill up; None if one chunk does."""
    size = length(rows)
    n_chunks = -(-size // chunk_size)
    if n_chunks == 1:
        return None
    chunk_size = -(-size // n_chunks)
    if size % chunk_size:
        index = jnp.minimum(jnp.arange(n_chunks * chunk_size), size - 1)
        rows = jax.tree.map(lambda x: x[index], rows)
    return jax.tree.map(lambda x: x.reshape(n_chunks, chunk_size, *x.shape[1:]), rows)


def sum_in_chunks(
    program: Program,
    leaves: list[Array],
    rows: PyTree,
    weight: Array,
    terms: Callable[[PyTree, Array], PyTree],
    zero: PyTree,
    size: int | None = None,
) -> PyTree:
    """Sum `terms(rows, weight)` over chunks of rows; rows that fill the last one weigh 0.

    Args:
      program, leaves, rows: from `prepare`.
      weight: f[B].
      terms: of the rows of a chunk and their weights; a sum over them.
      zero: the sum over no rows.
      size: rows of a chunk; by default `rows_at_once`.

    Raises:
      ValueError: weights of another length.
    """
    weight = jnp.asarray(weight)
    if weight.shape != (length(rows),):
        raise ValueError(
            f"Expected one weight per row, shape ({length(rows)},), found {weight.shape}: use 0 "
            "for padding."
        )
    zero = vary(zero, varying_axes((leaves, rows, weight)))

    def add(total: PyTree, chunk: tuple[PyTree, Array]) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, terms(*chunk)), None

    chunks = in_chunks((rows, weight), size or rows_at_once(program, leaves))
    if chunks is None:
        return add(zero, (rows, weight))[0]
    filled = jnp.arange(chunks[1].size).reshape(chunks[1].shape) < len(weight)
    return lax.scan(add, zero, (chunks[0], jnp.where(filled, chunks[1], 0)))[0]
