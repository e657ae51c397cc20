"""Which rows of the data a batch holds, and in which order: the one rule, for JAX and for NumPy."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_PACKED = 2**16  # rows; up to here a random order is one sort of packed words


class Rows(NamedTuple):
    """Row numbers of one or several batches, the weight and id of each, and whether any counts."""

    row: Any
    weight: Any
    index: Any
    some: Any


def shapes_of_rows(tree: Any, rows: int) -> Any:
    """Shapes and types of so many rows like those of a tree, for `jax.eval_shape`; no sharding."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype), tree)


def rows_at(
    xp: Any,
    step: Any,
    weight: Any,
    index: Any,
    order: Any | None,
    *,
    batch_size: int,
    slots: int,
    take: Callable[[Any, Any], Any],
    count: Any | None = None,
) -> Rows:
    """The rows of batch number `step`, filled up to `slots` with real rows of weight 0.

    Args:
      xp: `numpy` or `jax.numpy`.
      step: one number, or numbers with a last axis of 1 for several batches.
      weight, index: f32[n] and i32[n], of all rows.
      order: a permutation of the rows; None for the given order.
      batch_size: examples per batch. slots: rows of the result.
      take: `(array, rows) -> array`.
      count: how many of the rows are used, at least one batch; None for all.
    """
    n = weight.shape[0] if count is None else count
    slot = xp.arange(slots)
    row = step * batch_size + slot
    valid = (slot < min(batch_size, weight.shape[0])) & (row < n)
    row = row % n
    row = row if order is None else take(order, row)
    weight, index = take(weight, row), take(index, row)
    # Rows of weight 0 are overwritten by a real one, so that nothing in them reaches a sum.
    some = weight > 0
    first = xp.argmax(some, axis=-1, keepdims=True)
    real = xp.max(xp.where(slot == first, row, 0), axis=-1, keepdims=True)
    row = xp.where(some, row, real)
    weight, index = xp.where(valid, weight, 0), xp.where(valid, index, -1)
    return Rows(row, weight, index, some.any(axis=-1))


@functools.partial(jax.jit, static_argnums=1, inline=True)
def random_order(key: jax.Array, n: int) -> jax.Array:
    """A random permutation of 0..n-1, i32[n]: the order of the examples in an epoch.

    One sort of 32-bit words, each with its row number in the low and random bits in the high part:
    on a CPU five times as fast as `jax.random.permutation`, which an ensemble of small models
    feels. Rows with equal random bits keep their order, so that of two rows the first comes first
    with a probability above 1/2 by at most 2^-17. Beyond 65,536 rows, where this would grow, it is
    `jax.random.permutation`.
    """
    if n > _PACKED:
        return jax.random.permutation(key, n)
    return _sorted(jnp, jax.random.bits(key, (n,), jnp.uint32), n)


def can_be_counted(key: jax.Array, n: int) -> bool:
    """Whether `random_order_of` gives the orders of `random_order` for so many rows."""
    return n <= _PACKED and _bits_are_stable(key)


def random_order_of(key: jax.Array, n: jax.Array, size: int) -> jax.Array:
    """`random_order(key, n)` at the first n places, i32[size], where n is traced; the rest is idle.

    The same order where `can_be_counted` holds; elsewhere another random one.
    """
    last = jnp.maximum(n - 1, 1).astype(jnp.uint32)
    low = jnp.uint32(2**32 - 1) >> jax.lax.clz(last)
    row = jnp.arange(size, dtype=jnp.uint32)
    bits = jax.random.bits(key, (size,), jnp.uint32)
    if size > _PACKED:  # beside the numbers of so many rows too few random bits would be left
        bits = jnp.where(row < n.astype(jnp.uint32), bits, jnp.uint32(2**32 - 1))
        return jax.lax.sort((bits, row), num_keys=2)[1].astype(jnp.int32)
    packed = (bits & ~low) | row
    packed = jnp.where(row < n.astype(jnp.uint32), packed, jnp.uint32(2**32 - 1))  # to the end
    return (jnp.sort(packed) & low).astype(jnp.int32)


class EpochOrders:
    """`random_order(fold_in(key, epoch), n)`, on the host, from one program for many `n`.

    The random bits of a row do not depend on how many rows there are, as long as JAX's generator
    is the one it has by default; for others, and beyond 65,536 rows, each `n` is a small program.
    Bits of small sets are drawn for many epochs at once.
    """

    def __init__(self, key: jax.Array, n: int) -> None:
        self._key, self._n, self._first = key, n, -1
        self._words = np.zeros((0, n), np.uint32)
        self._stable = n <= _PACKED and _bits_are_stable(key)

    def __call__(self, first: int, last: int) -> np.ndarray:
        """The orders in the epochs `first` to `last - 1`, i32[epochs, n]."""
        if not self._stable:
            found = [_order(self._key, epoch, self._n) for epoch in range(first, last)]
            return np.stack(list(map(np.asarray, found)))
        size = next(size for size in _SIZES if self._n <= size)
        count, words = _PACKED // size, []
        for draw in range(first // count, (last - 1) // count + 1):
            if draw != self._first:
                self._first = draw
                self._words = np.asarray(_words(self._key, draw * count, count, size))
            start = draw * count
            words.append(self._words[max(first - start, 0) : last - start, : self._n])
        return _sorted(np, np.concatenate(words), self._n)


def permutation(key: jax.Array, n: int) -> Any:
    """`jax.random.permutation(key, n)`, i32[n]; one program for many `n` where the key is known."""
    size = next((size for size in _SIZES if n <= size), None)
    if isinstance(key, jax.core.Tracer) or size is None or not _bits_are_stable(key):
        return jax.random.permutation(key, n)
    rounds = int(np.ceil(3 * np.log(max(n, 1)) / np.log(2**32 - 1)))  # as JAX counts them
    order = np.arange(n, dtype=np.int32)
    for words in np.asarray(_words_of_rounds(key, rounds, size)):
        order = order[np.argsort(words[:n], kind="stable")]
    return order


def random_rows(draw: Callable, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """`draw(key, shape, dtype)`, one number for each entry, from one program for many rows."""
    size = next((size for size in _SIZES if shape[0] <= size), None)
    if isinstance(key, jax.core.Tracer) or size is None or not _bits_are_stable(key):
        return draw(key, shape, dtype)
    return jax.device_put(np.asarray(draw(key, (size, *shape[1:]), dtype))[: shape[0]])


_SIZES = (2**9, 2**12, _PACKED)


def _sorted(xp: Any, words: Any, n: int) -> Any:
    low = np.uint32((1 << max(n - 1, 1).bit_length()) - 1)
    packed = (words & ~low) | xp.arange(n, dtype=np.uint32)
    return (xp.sort(packed) & low).astype(np.int32)


def _bits_are_stable(key: jax.Array) -> bool:
    default = str(jax.random.key_impl(key)) == "threefry2x32"
    return default and bool(jax.config.jax_threefry_partitionable)  # type: ignore[attr-defined]


@functools.partial(jax.jit, static_argnums=(1, 2))
def _words_of_rounds(key: jax.Array, rounds: int, size: int) -> jax.Array:
    words = [jnp.zeros((0, size), jnp.uint32)]
    for _ in range(rounds):
        key, part = jax.random.split(key)
        words.append(jax.random.bits(part, (1, size), jnp.uint32))
    return jnp.concatenate(words)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _words(key: jax.Array, first: int, count: int, size: int) -> jax.Array:
    def words(epoch):
        return jax.random.bits(jax.random.fold_in(key, epoch), (size,), jnp.uint32)

    return jax.vmap(words)(first + jnp.arange(count))


@functools.partial(jax.jit, static_argnums=2)
def _order(key: jax.Array, epoch: int, n: int) -> jax.Array:
    return random_order(jax.random.fold_in(key, epoch), n)
