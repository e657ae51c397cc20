"""Streamed statistics: sums over examples and a weight, divided once at the end."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax import _at_once as at_once
from mu_jax.data.batches import Batch, is_concrete
from mu_jax.data.checks import check_params
from mu_jax.mesh.shards import bare, reduction

PyTree = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Accumulator:
    """A statistic so far, and at the end: `(sum, weight)`, with what they belong to.

    Add two of them with `merge` if they are of the same definition and the same variables; save
    one with `mu.checkpoints`; continue one by passing it back to `collect`.

    Attributes:
      sum: tree of float32 sums (float64 for float64 parameters).
      weight: what to divide by: total weight of examples, or number of groups; f32, or f64 for
        float64 parameters.
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
        return _mean(self.sum, self.weight)

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
        total, weight = _add((self.sum, self.weight), (other.sum, other.weight))
        return dataclasses.replace(self, sum=total, weight=weight)

    def without(self, part: Accumulator) -> Accumulator:
        """The statistic over the remaining examples, from sums and without a further pass.

        `mean_rest = (N mean - n mean_part) / (N - n)`; where values cannot be negative, clip what
        rounding leaves below 0.
        """
        return self.merge(part.negative)

    @property
    def negative(self) -> Accumulator:
        """The same with the opposite sign: merged with a whole, it takes this part out."""
        total, weight = _negative((self.sum, self.weight))
        return dataclasses.replace(self, sum=total, weight=weight)


def mean_of(total: PyTree, weight: Any) -> PyTree:
    """`total / weight` for arrays of any module."""
    return jax.tree.map(lambda x: x / weight.astype(x.dtype), total)


@at_once.elementwise
def _mean(xp: Any, total: PyTree, weight: jax.Array) -> PyTree:
    return mean_of(total, weight)


@at_once.elementwise
def _add(xp: Any, first: PyTree, second: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: a + b, first, second)


@at_once.elementwise
def _negative(xp: Any, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: -x, tree)


@at_once.elementwise
def _zeros(xp: Any, params: PyTree) -> PyTree:
    return jax.tree.map(lambda p: xp.zeros_like(p, sum_dtype(p.dtype)), params)


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
        words = fingerprint(params)
        return Accumulator(self._empty(variables), zero_weight(params), words, self.definition)

    def _empty(self, variables: PyTree) -> PyTree:
        return _zeros(self.params(variables))

    def update(self, acc: Accumulator, variables: PyTree, batch: Batch) -> Accumulator:
        """Add one batch."""
        added, weight = self.terms(variables, batch)
        total = jax.tree.map(lambda s, a: s + a.astype(s.dtype), acc.sum, added)
        weight = acc.weight + weight.astype(acc.weight.dtype)
        return dataclasses.replace(acc, sum=total, weight=weight)

    def finalize(self, acc: Accumulator) -> PyTree:
        """The mean, a tree shaped like the parameters."""
        return acc.value

    def replace(self, **changes: Any) -> Statistic:
        """A copy with other fields."""
        return dataclasses.replace(self, **changes)


@dataclasses.dataclass(frozen=True)
class SumOf(Statistic):
    """A statistic whose sum has a shape of its own, not that of the parameters.

    Attributes:
      like: `variables -> tree`, arrays of the shapes and types of the sum; None: the parameters.
    """

    like: Callable[[PyTree], PyTree] | None = None

    def _empty(self, variables: PyTree) -> PyTree:
        shapes = jax.eval_shape(self.like or self.params, bare(variables))
        return at_once.zeros(jax.tree.map(_widened, shapes))


def _widened(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, sum_dtype(leaf.dtype))


def sum_dtype(dtype: Any) -> Any:
    """Float32, or float64 for float64 parameters."""
    return jnp.promote_types(dtype, jnp.float32)


def zero_weight(params: PyTree) -> jax.Array:
    """The weight of an empty sum, in the widest float type of its leaves."""
    leaves = (sum_dtype(leaf.dtype) for leaf in jax.tree.leaves(params))
    widest = jnp.finfo(functools.reduce(jnp.promote_types, leaves, jnp.float32)).dtype
    return at_once.as_array(np.zeros((), widest))


@reduction
def fingerprint(xp: Any, params: PyTree) -> jax.Array:
    """Two 32-bit words that change with any bit of the parameters, u32[2].

    An integer sum, so it is the same on every mesh. Cost: one element-wise pass.
    """
    total = xp.zeros(2, jnp.uint32)
    for number, leaf in enumerate(jax.tree.leaves(params)):
        for start, bits in _bits(xp, leaf):
            place = xp.arange(bits.size, dtype=jnp.uint32).reshape(bits.shape)
            place = (place + np.uint32(number * 7919 + 1 + start)) * np.uint32(2654435761)
            words = [(bits ^ (bits >> 15)) * (place | 1), (bits + place) * (bits ^ (place >> 7))]
            total = total + xp.stack([xp.sum(word, dtype=jnp.uint32) for word in words])
    return total


def fingerprint_of_numbers(variables: PyTree) -> jax.Array:
    """The fingerprint of all numbers among variables; keys and truth values are none."""
    leaves = jax.tree.leaves(variables)
    return fingerprint([x for x in leaves if jnp.issubdtype(jnp.result_type(x), jnp.number)])


def _bits(xp: Any, leaf: Any) -> Iterator[tuple[int, Any]]:
    """The bits of a leaf as u32, with the number of the first; for NumPy in cache-sized parts."""
    width = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}
    if xp is np:
        leaf = np.asarray(leaf, jax.dtypes.canonicalize_dtype(np.result_type(leaf))).ravel()
        bits = leaf.view(width[leaf.dtype.itemsize])
        for start in range(0, bits.size, _PART):
            yield start, bits[start : start + _PART].astype(np.uint32)
        return
    leaf = jnp.asarray(leaf)
    yield 0, jax.lax.bitcast_convert_type(leaf, width[leaf.dtype.itemsize]).astype(jnp.uint32)


_PART = 2**15


def check_fingerprint(acc: Accumulator, expected: jax.Array) -> None:
    """Refuse a statistic of other variables, where both can be seen."""
    if not (is_concrete(acc.fingerprint) and is_concrete(expected)):
        return
    if not np.array_equal(acc.fingerprint, expected):
        raise ValueError(
            f"expected a statistic of these variables, found {acc.definition!r} of others: "
            "after any change of the parameters compute it again"
        )
