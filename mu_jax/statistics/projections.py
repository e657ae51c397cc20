"""Random projections of parameter-sized vectors, made tile by tile and never stored."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

PyTree = Any

_BLOCK = 4096  # rows of a tile


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Projection:
    """A random matrix `P` in `R^{p x dim}` with entries `+-1/sqrt(dim)`, or the identity.

    Inner products are kept on average: `E[(P^T a) . (P^T b)] = a . b`, with an error of about
    `|a| |b| / sqrt(dim)`. A tile of rows comes from `fold_in(key, number of the tile)` alone, so
    every process, mesh and restart sees the same matrix.

    Attributes:
      key: typed random key; not used by the identity.
      dim: number of columns; None is the identity.

    Cost: `2 p dim` operations for a product, and `p dim` random bits, which all examples of a
    `vmap` share; memory of one tile, `4 block dim` bytes.

    Example:
      >>> projection = Projection(jax.random.key(0), dim=8)
      >>> features = projection.project(jnp.ones(100))
      >>> features.shape, projection.lift(features, 100).shape
      ((8,), (100,))
    """

    key: jax.Array
    dim: int | None = dataclasses.field(metadata={"static": True})
    block: int = dataclasses.field(default=_BLOCK, metadata={"static": True})

    def project(self, vector: jax.Array) -> jax.Array:
        """`P^T vector`, from f[p] to f[dim]."""
        dim = self.dim
        if dim is None:
            return vector
        count, rows = self._tiles(vector.size)
        parts = jnp.pad(vector, (0, count * rows - vector.size)).reshape(count, rows)

        def term(number):
            return parts[number] @ self._signs(number, (rows, dim), vector.dtype)

        total = lax.fori_loop(1, count, lambda i, total: total + term(i), term(0))
        return total / math.sqrt(dim)

    def lift(self, features: jax.Array, size: int) -> jax.Array:
        """`P features`, from f[dim] to f[size]."""
        dim = self.dim
        if dim is None:
            return features
        count, rows = self._tiles(size)
        parts = lax.map(
            lambda i: self._signs(i, (rows, dim), features.dtype) @ features, jnp.arange(count)
        )
        return parts.reshape(-1)[:size] / math.sqrt(dim)

    def _tiles(self, size: int) -> tuple[int, int]:
        """How many tiles there are, and how many rows each has."""
        rows = min(self.block, size)
        return -(-size // rows), rows

    def _signs(self, number: jax.Array | int, shape: tuple[int, int], dtype: Any) -> jax.Array:
        """One tile of `+-1`; a random word of 32 bits gives 32 of them."""
        rows, dim = shape
        key = jax.random.fold_in(self.key, number)
        words = jax.random.bits(key, (rows, -(-dim // 32)), jnp.uint32)
        bits = (words[..., None] >> jnp.arange(32, dtype=jnp.uint32)) & 1
        return 1 - 2 * bits.reshape(rows, -1)[:, :dim].astype(dtype)


@jax.jit
def ravel(tree: PyTree) -> jax.Array:
    """All leaves as one vector, in float32 or wider."""
    leaves = jax.tree.leaves(tree)
    dtype = jnp.result_type(jnp.float32, *leaves)
    return jnp.concatenate([leaf.ravel().astype(dtype) for leaf in leaves])


@jax.jit
def unravel(vector: jax.Array, like: PyTree) -> PyTree:
    """The inverse of `ravel`, in the shapes and dtypes of `like`.

    Example:
      >>> tree = {"a": jnp.ones(2), "b": jnp.zeros((1, 2))}
      >>> unravel(ravel(tree), tree)["b"].shape
      (1, 2)
    """
    leaves, structure = jax.tree.flatten(like)
    ends = [0]
    for leaf in leaves:
        ends.append(ends[-1] + leaf.size)
    parts = [
        vector[start:end].reshape(leaf.shape).astype(leaf.dtype)
        for start, end, leaf in zip(ends, ends[1:], leaves, strict=False)
    ]
    return jax.tree.unflatten(structure, parts)
