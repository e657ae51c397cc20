"""Logits that are not there yet: hidden states and a head, which is applied to a part at a time."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["hidden", "kernel"],
    meta_fields=["head", "chunk"],
)
@dataclasses.dataclass(frozen=True)
class Projected:
    """Logits [B, T, V] as what they are made of, `head(kernel, hidden)`.

    Token losses, objectives on tokens and token statistics take them in place of logits, and form
    the logits of `chunk` positions at a time, forwards and backwards: B x chunk x V in place of
    B x T x V. The numbers are the same.

    Attributes:
      hidden: [B, T, d], what the head reads.
      kernel: parameters of the head.
      head: `(kernel, [B, c, d]) -> [B, c, V]`, position by position; a function of a module or a
        frozen dataclass.
      chunk: positions of a part; rows of no more are one part.

    Example:
      >>> def product(kernel, hidden):
      ...     return hidden @ kernel
      >>> Projected(jnp.ones((2, 4, 3)), jnp.ones((3, 9)), product, chunk=2).logits.shape
      (2, 4, 9)
    """

    hidden: jax.Array
    kernel: PyTree
    head: Callable[[PyTree, jax.Array], jax.Array]
    chunk: int = 256

    @property
    def logits(self) -> jax.Array:
        """All logits [B, T, V]."""
        return self.head(self.kernel, self.hidden)

    def with_hidden(self, hidden: jax.Array) -> Projected:
        """The same head for other hidden states."""
        return dataclasses.replace(self, hidden=hidden)


Outputs = jax.Array | Projected


def at_positions(function: Callable[..., PyTree], *values: Any) -> PyTree:
    """`function(*values)` where each position is computed alone, a part of them at a time.

    Args:
      function: of arrays [B, c, ...], to a tree of arrays [B, c]. It is given the logits of
        `Projected` ones.
      *values: arrays [B, T, ...], or `Projected`; without any of these all is computed at once, and
        axes in front are allowed.

    Returns:
      A tree of arrays [B, T].

    Cost: of a row in several parts, one more pass of the heads in the backward pass.

    Example:
      >>> def product(kernel, hidden):
      ...     return hidden @ kernel
      >>> outputs = Projected(jnp.ones((1, 4, 3)), jnp.eye(3), product, chunk=2)
      >>> at_positions(lambda logits, factor: factor * logits.sum(-1), outputs, jnp.arange(4)[None])
      Array([[0., 3., 6., 9.]], dtype=float32)
    """
    heads = {k: value for k, value in enumerate(values) if isinstance(value, Projected)}
    length = next((value.hidden.shape[1] for value in heads.values()), 0)
    chunk = min((value.chunk for value in heads.values()), default=0)
    arrays = [value.hidden if isinstance(value, Projected) else value for value in values]

    def apply(pieces):
        given = [heads[k].with_hidden(x).logits if k in heads else x for k, x in enumerate(pieces)]
        return function(*given)

    if length <= chunk:
        return apply(arrays)
    parts = jax.lax.map(jax.checkpoint(apply), [_cut(x, chunk) for x in arrays])
    return jax.tree.map(lambda x: _joined(x)[:, :length], parts)


def over_rows(function: Callable[..., jax.Array], *trees: PyTree) -> PyTree:
    """`jax.tree.map` over arrays [B, ...]; of `Projected`, over the hidden states alone."""

    def each(*leaves):
        if not isinstance(leaves[0], Projected):
            return function(*leaves)
        return leaves[0].with_hidden(function(*(leaf.hidden for leaf in leaves)))

    return jax.tree.map(each, *trees, is_leaf=lambda leaf: isinstance(leaf, Projected))


def _cut(x: jax.Array, chunk: int) -> jax.Array:
    """[B, T, ...] as [parts, B, chunk, ...], filled up with zeros."""
    missing = -x.shape[1] % chunk
    if missing:
        x = jnp.pad(x, ((0, 0), (0, missing), *[(0, 0)] * (x.ndim - 2)))
    return jnp.moveaxis(x.reshape(len(x), -1, chunk, *x.shape[2:]), 1, 0)


def _joined(x: jax.Array) -> jax.Array:
    """[parts, B, chunk] as [B, parts * chunk]."""
    return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1)
