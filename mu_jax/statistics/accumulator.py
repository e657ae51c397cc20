"""Streamed statistics: sums over examples and a weight, divided once at the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mu_jax.data.batches import Batch, is_concrete
from mu_jax.data.checks import check_params
from mu_jax.mesh.shards import summary

PyTree = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Accumulator:
    """A statistic so far, and at the end: `(sum, weight)`, with what they belong to.

    Add two of them with `merge` if they are of the same definition and the same variables; save
    one with `mu.checkpoints`; continue one by passing it back to `collect`.

    Attributes:
      sum: tree of float32 sums (float64 for float64 parameters).
      weight: f32, what to divide by: total weight of examples, or number of groups.
      fingerprint: u32[2] of the parameters it was computed at; it is stale for any other.
      definition: what was summed, such as 'importance: per_example'.
    """

    sum: PyTree
    weight: jax.Array
    fingerprint: jax.Array
    definition: str = dataclasses.field(metadata={"static": True})

    @property
    def value(self) -> PyTree:
        """The mean, `sum / weight`."""
        return jax.tree.map(lambda x: x / self.weight.astype(x.dtype), self.sum)

    def merge(self, other: Accumulator) -> Accumulator:
        """The statistic over both sets of examples, exact.

        Raises:
          ValueError: other definition, or (where it can be seen) other variables.
        """
        if self.definition != other.definition:
            raise ValueError(
                f"expected two statistics of one definition, found {self.definition!r} and "
                f"{other.definition!r}: compute both the same way"
            )
        check_fingerprint(other, self.fingerprint)
        return dataclasses.replace(
            self,
            sum=optax.tree.add(self.sum, other.sum),
            weight=self.weight + other.weight,
        )

    def without(self, part: Accumulator) -> Accumulator:
        """The statistic over the remaining examples, from sums and without a further pass.

        `mean_rest = (N mean - n mean_part) / (N - n)`; where values cannot be negative, clip what
        rounding leaves below 0.
        """
        negative = dataclasses.replace(
            part, sum=optax.tree.scale(-1, part.sum), weight=-part.weight
        )
        return self.merge(negative)


@dataclasses.dataclass(frozen=True)
class Statistic:
    """A sum over examples, as pure functions: use it in `collect`, or in your own loop.

    In your own loop: `acc = stat.init(variables)`, `acc = stat.update(acc, variables, batch)` for
    every batch, `tree = stat.finalize(acc)`. If your batches are sharded over a mesh, wrap it
    first: `mu.over_mesh(stat, mesh)`.

    Attributes:
      terms: `(variables, batch) -> (sum, weight)`, what one batch adds.
      params: `variables -> params`, the tree the sum is shaped like.
      definition: what is summed, in words; statistics of different definitions never mix.
      group_size: consecutive examples that are one term of the sum; a batch holds whole groups.
    """

    terms: Callable[[PyTree, Batch], tuple[PyTree, jax.Array]]
    params: Callable[[PyTree], PyTree]
    definition: str
    group_size: int = 1

    def init(self, variables: PyTree) -> Accumulator:
        """The empty sum, in float32 or wider."""
        params = self.params(variables)
        check_params(params)
        zeros = jax.tree.map(lambda p: jnp.zeros_like(p, sum_dtype(p.dtype)), params)
        return Accumulator(zeros, jnp.zeros((), jnp.float32), fingerprint(params), self.definition)

    def update(self, acc: Accumulator, variables: PyTree, batch: Batch) -> Accumulator:
        """Add one batch."""
        added, weight = self.terms(variables, batch)
        total = jax.tree.map(lambda s, a: s + a.astype(s.dtype), acc.sum, added)
        return dataclasses.replace(acc, sum=total, weight=acc.weight + weight)

    def finalize(self, acc: Accumulator) -> PyTree:
        """The mean, a tree shaped like the parameters."""
        return acc.value

    def replace(self, **changes: Any) -> Statistic:
        """A copy with other fields."""
        return dataclasses.replace(self, **changes)


def sum_dtype(dtype: Any) -> Any:
    """Float32, or float64 for float64 parameters."""
    return jnp.promote_types(dtype, jnp.float32)


@summary
def fingerprint(params: PyTree) -> jax.Array:
    """Two 32-bit words that change with any bit of the parameters, u32[2].

    An integer sum, so it is the same on every mesh. Cost: one element-wise pass.
    """
    total = jnp.zeros(2, jnp.uint32)
    for number, leaf in enumerate(jax.tree.leaves(params)):
        bits = _bits(leaf)
        place = jnp.arange(bits.size, dtype=jnp.uint32).reshape(bits.shape)
        place = (place + jnp.uint32(number * 7919 + 1)) * jnp.uint32(2654435761)
        words = [(bits ^ (bits >> 15)) * (place | 1), (bits + place) * (bits ^ (place >> 7))]
        total = total + jnp.stack([jnp.sum(word, dtype=jnp.uint32) for word in words])
    return total


def _bits(leaf: jax.Array) -> jax.Array:
    leaf = jnp.asarray(leaf)
    if leaf.dtype.itemsize == 8:
        return jax.lax.bitcast_convert_type(leaf, jnp.uint32)
    width = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
    return jax.lax.bitcast_convert_type(leaf, width).astype(jnp.uint32)


def check_fingerprint(acc: Accumulator, expected: jax.Array) -> None:
    """Refuse a statistic of other variables, where both can be seen."""
    if not (is_concrete(acc.fingerprint) and is_concrete(expected)):
        return
    if not np.array_equal(acc.fingerprint, expected):
        raise ValueError(
            f"expected a statistic of these variables, found {acc.definition!r} of others: "
            "after any change of the parameters compute it again"
        )
