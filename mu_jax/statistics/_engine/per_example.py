"""Exact statistics of per-example gradients, at about the price of one gradient.

For a kernel, the gradient of one example is `a.T @ d` of its input a and the gradient d of its
output. With a single row the squares of all examples add up to one product of matrices,
`sum_i w_i (a_i d_i^T)^2 = (a*a)^T diag(w) (d*d)`; with several rows (tokens, patches) the gradients
of a few examples at a time are formed, squared and added. Any other leaf gets one gradient per
example from `jax.vmap`; such leaves (biases, norm scales) are mostly small.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from mu_jax.statistics._engine.chunks import (
    Losses,
    in_chunks,
    length,
    prepare,
    rows_at_once,
    sum_in_chunks,
)
from mu_jax.statistics._engine.contractions import formed, squared_norm, sum_copies, sum_factors
from mu_jax.statistics._engine.matrices import Convolution, replay
from mu_jax.statistics._engine.products import Program
from mu_jax.statistics._engine.taps import gradients, sum_dtype

Array = jax.Array
PyTree = Any

_GRADIENTS = 2**26  # entries of gradients that are formed at once
_SMALL = 2**14  # entries; below, one gradient per example costs next to nothing


def sum_of_squares(
    losses: Losses, params: PyTree, rows: PyTree, weight: Array, *, chunk_size: int | None = None
) -> PyTree:
    """Sum the squared per-example gradients, `sum_i w_i g_i^2` entry by entry.

    `g_i` is the gradient of `losses(params, rows[i:i+1])[0]`. The model needs no preparation: the
    loss of one row is traced, and each kernel's products in it are found (`routes` tells which).

    Args:
      losses: `(params, rows) -> f[B]`, one loss per row, each a function of its own row alone
        (inference mode).
      params: any pytree of floating-point arrays.
      rows: any pytree of arrays with leading axis B: inputs, targets, anything.
      weight: f[B]. A row of weight 0 adds exactly 0, also where its gradient is not finite.
      chunk_size: rows per pass, to bound memory; the value depends on it by rounding only. By
        default as many rows as keep inputs and gradients of the kernels in the caches (CPU) or in
        about 1 GiB plus twice the parameters (accelerators).

    Returns:
      A tree shaped like `params`, in float32 (float64 for float64 parameters), from products at
      JAX's default matrix precision.

    Raises:
      ValueError: leaves that are not floating-point, rows or weights of other lengths, losses that
        are not one per row.

    Cost: one forward and one backward pass, with as many operations as a plain gradient unless a
    leaf falls back. Memory: the parameters, the result and one chunk. Call it under `jax.jit`.
    Inside `jax.shard_map` it sums the local rows, whether `params` vary over the mesh or not;
    follow with one `psum`. On a batch sharded by automatic partitioning it is right, but slow.

    Example:
      >>> losses = lambda w, rows: jnp.square(rows[0] @ w - rows[1]) / 2
      >>> rows = jnp.array([[1.0, 0.0], [1.0, 2.0]]), jnp.array([1.0, 3.0])
      >>> sum_of_squares(losses, jnp.zeros(2), rows, jnp.ones(2))
      Array([10., 36.], dtype=float32)

    References:
      I. Goodfellow. Efficient Per-Example Gradient Computations. 2015 (arXiv 1510.01799).
      F. Dangel, F. Kunstner, P. Hennig. BackPACK: Packing more into Backprop. ICLR 2020.
    """
    return _sum(jnp.square, losses, params, rows, weight, chunk_size)


def sum_of_magnitudes(
    losses: Losses, params: PyTree, rows: PyTree, weight: Array, *, chunk_size: int | None = None
) -> PyTree:
    """Sum the magnitudes of per-example gradients, `sum_i w_i |g_i|` entry by entry.

    Arguments, result, errors and cost are those of `sum_of_squares`.

    Example:
      >>> losses = lambda w, rows: jnp.square(rows[0] @ w - rows[1]) / 2
      >>> rows = jnp.array([[1.0, 0.0], [1.0, 2.0]]), jnp.array([1.0, 3.0])
      >>> sum_of_magnitudes(losses, jnp.zeros(2), rows, jnp.ones(2))
      Array([4., 6.], dtype=float32)
    """
    return _sum(jnp.abs, losses, params, rows, weight, chunk_size)


def squared_norms(
    losses: Losses, params: PyTree, rows: PyTree, *, chunk_size: int | None = None
) -> Array:
    """Return `|g_i|^2` of every per-example gradient, over all leaves: f32[B].

    For a kernel with one row per example that is `|a|^2 |d|^2`, with more the smaller of
    `|a^T d|^2` and `sum((a a^T) * (d d^T))`. Arguments, errors and cost are those of
    `sum_of_squares`; the norm is NaN where the gradient is.

    Example:
      >>> losses = lambda w, rows: jnp.square(rows[0] @ w - rows[1]) / 2
      >>> rows = jnp.array([[1.0, 0.0], [1.0, 2.0]]), jnp.array([1.0, 3.0])
      >>> squared_norms(losses, jnp.zeros(2), rows)
      Array([ 1., 45.], dtype=float32)
    """
    program, leaves, rows = prepare(losses, params, rows)
    dtype = functools.reduce(jnp.promote_types, map(sum_dtype, leaves), jnp.float32)

    def norms(rows: PyTree) -> Array:
        factors, copies = gradients(program, leaves, rows)
        total = jnp.zeros(length(rows), dtype)
        for own in factors.values():
            total += jax.vmap(squared_norm)(own)
        for gradient in copies.values():
            total += jnp.square(gradient).reshape(len(gradient), -1).sum(axis=1)
        return total

    size = length(rows)
    chunks = in_chunks(rows, chunk_size or rows_at_once(program, leaves))
    return norms(rows) if chunks is None else lax.map(norms, chunks).reshape(-1)[:size]


def map_gradients(
    function: Callable[[PyTree], PyTree],
    losses: Losses,
    params: PyTree,
    rows: PyTree,
    *,
    chunk_size: int | None = None,
) -> PyTree:
    """Apply a function to the gradients of some rows at a time; they are never all there at once.

    Args:
      function: from a tree of gradients `[b, ...]`, shaped like `params` but for the leading axis,
        to a tree of `[b, ...]`.
      losses, params, rows, chunk_size: as of `sum_of_squares`.

    Returns:
      What the function gives, `[B, ...]`, in the order of the rows.

    Cost: one forward and one backward pass; memory of the gradients of one chunk.

    Example:
      >>> losses = lambda w, rows: jnp.square(rows[0] @ w - rows[1]) / 2
      >>> rows = jnp.array([[1.0, 0.0], [1.0, 2.0]]), jnp.array([1.0, 3.0])
      >>> map_gradients(lambda g: g.sum(1), losses, jnp.zeros(2), rows)
      Array([-1., -9.], dtype=float32)
    """
    program, leaves, rows = prepare(losses, params, rows)

    def of_chunk(rows: PyTree) -> PyTree:
        found, copies = gradients(program, leaves, rows)
        for leaf, own in found.items():
            back = program.uses[leaf].back
            copies[leaf] = jax.vmap(functools.partial(replay, back))(formed(own))
        shape = (length(rows),)
        each = [
            copies.get(k, jnp.zeros(shape + leaf.shape, sum_dtype(leaf)))
            for k, leaf in enumerate(leaves)
        ]
        return function(jax.tree.unflatten(jax.tree.structure(params), each))

    size = length(rows)
    few = max(1, _GRADIENTS // sum(leaf.size for leaf in leaves))
    chunks = in_chunks(rows, chunk_size or min(few, rows_at_once(program, leaves)))
    if chunks is None:
        return of_chunk(rows)
    found = lax.map(of_chunk, chunks)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:size], found)


def routes(losses: Losses, params: PyTree, rows: PyTree) -> PyTree:
    """Tell how the statistics of each leaf are computed, as a tree of words shaped like `params`.

    | word | the leaf | cost |
    |---|---|---|
    | `dense` | multiplies one row per example | one product of matrices for all examples |
    | `tokens` | multiplies several rows per example | one product of matrices per example |
    | `patches` | is a convolution's kernel | the same, over patches |
    | `lookup` | is a table whose rows are looked up | the rows that are looked up |
    | `tied` | is looked up and multiplies (a tied embedding) | as for `tokens` |
    | `small` | anything else with at most 16,384 entries | one gradient per example |
    | `fallback` | anything else, larger | the same; slow and large, in smaller chunks |
    | `unused` | does not enter the loss | none |

    A kernel may be used several times, transposed or not, and rows of it looked up, also inside
    `scan` and `jax.checkpoint`. A leaf falls back when it is used in ways that do not combine (a
    convolution's kernel that is flattened for a product as well), changed before use (weight
    standardization), or inside a custom derivative, `cond` or `while_loop`.

    Example:
      >>> losses = lambda p, x: (x @ p["kernel"] + p["bias"]).sum(-1)
      >>> routes(losses, {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}, jnp.ones((4, 2)))
      {'bias': 'small', 'kernel': 'dense'}
    """
    program, leaves, _ = prepare(losses, params, rows)
    words = [_route(program, leaf, array.size) for leaf, array in enumerate(leaves)]
    return jax.tree.unflatten(jax.tree.structure(params), words)


def _route(program: Program, leaf: int, size: int) -> str:
    if leaf in program.uses:
        uses = program.uses[leaf]
        if uses.lookups:
            return "tied" if uses.products else "lookup"
        if uses.positions == 1:
            return "dense"
        return "patches" if isinstance(uses.products[0].form, Convolution) else "tokens"
    if leaf not in program.copied:
        return "unused"
    return "small" if size <= _SMALL else "fallback"


def _sum(
    power: Callable, losses: Losses, params: PyTree, rows: PyTree, weight: Array, size: int | None
) -> PyTree:
    program, leaves, rows = prepare(losses, params, rows)

    def terms(rows: PyTree, weight: Array) -> list[Array]:
        factors, copies = gradients(program, leaves, rows)
        found = {leaf: sum_copies(power, g, weight) for leaf, g in copies.items()}
        for leaf, own in factors.items():
            found[leaf] = replay(program.uses[leaf].back, sum_factors(power, own, weight))
        return [found.get(leaf, x) for leaf, x in enumerate(zero)]

    zero = [jnp.zeros_like(leaf, sum_dtype(leaf)) for leaf in leaves]
    total = sum_in_chunks(program, leaves, rows, weight, terms, zero, size)
    return jax.tree.unflatten(jax.tree.structure(params), total)
