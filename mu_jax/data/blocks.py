"""Array-backed batches cut into blocks of one size, whatever the number of examples.

A program that takes the data whole is another program for every number of examples. A block has a
fixed number of batches, of which the last may be unused: sets of all sizes share one program.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from mu_jax import _at_once as at_once
from mu_jax.data.axes import axis_size, is_explicit
from mu_jax.data.batches import Batch, Batches, is_concrete, round_up
from mu_jax.data.rows import EpochOrders, Rows, rows_at

PyTree = Any

_BYTES, _MOST = 2**22, 64  # of a block; one batch may be larger
_FEW_BYTES, _MOST_SMALL = 2**20, 512  # small batches: a call costs more than they do


class Block(NamedTuple):
    """Batches stacked as `[batches, rows, ...]`, of which the first `used` are meant."""

    batches: Batch
    used: int


def blocks(batches: Batches, key: jax.Array | None, start: int, stop: int) -> Iterator[Block]:
    """Batches `start` to `stop`, counted over all epochs, in blocks.

    Args:
      batches: arrays that can be looked at, of which `can_be_cut` holds.
      key: shuffle the rows anew in every epoch; None for the given order.
    """
    length = _length(batches)
    examples = (batches.inputs, batches.targets)
    read = _read_host if at_once.on_host(examples) else _read_device
    if read is _read_host:
        examples = at_once.to_host(examples)
    draw = None if key is None else EpochOrders(key, batches.num_examples)
    epochs, orders = (0, 0), None
    for first in range(start, stop, length):
        used = min(length, stop - first)
        epoch, step = np.divmod(np.arange(first, first + used), batches.num_batches)
        wanted = int(epoch[0]), int(epoch[-1]) + 1
        if draw is not None and wanted != epochs:  # many blocks may be of one long epoch
            epochs, orders = wanted, draw(*wanted)
        rows = _rows(batches, step, epoch - epoch[0], orders)
        yield Block(read(examples, _filled_up(rows, length), batches), used)


def can_be_cut(batches: Batches) -> bool:
    """Whether batches can be cut into blocks: on no mesh, or on automatic axes of one process."""
    mesh = batches.mesh
    return mesh is None or (is_concrete(batches.weight) and not is_explicit(mesh))


def alike(batches: Batches, *, few: int = 256) -> Batches:
    """The same batches, filled up with rows of weight 0 where a set is smaller than a batch.

    The rows of a batch are then the batch size or, if that is more than `few`, the power of two
    that holds the set, at least `few`: small sets of many sizes are one program. Nothing changes
    for what is traced or cannot be cut. Not for batch statistics in training mode, which see the
    added rows.
    """
    if not at_once.is_known(batches) or not can_be_cut(batches):
        return batches
    rows = min(batches.batch_size, at_least(few, batches.num_examples))
    each = -(-rows // axis_size(batches.mesh, batches.axis))
    return batches.replace(multiple=round_up(each, batches.multiple))


def at_least(few: int, number: int) -> int:
    """`few`, or the power of two that holds a larger number."""
    return max(few, 1 << max(number - 1, 0).bit_length())


def _length(batches: Batches) -> int:
    """Batches of a block; depends on the size of a row only."""
    leaves = jax.tree.leaves((batches.inputs, batches.targets))
    row = sum(math.prod(leaf.shape[1:]) * leaf.dtype.itemsize for leaf in leaves)
    size = max(1, row * _slots(batches))
    return max(1, min(_MOST, _BYTES // size), min(_MOST_SMALL, _FEW_BYTES // size))


def _slots(batches: Batches) -> int:
    multiple = batches.multiple * axis_size(batches.mesh, batches.axis)
    return round_up(min(batches.batch_size, batches.num_examples), multiple)


def _place(batches: Batches) -> Any:
    """Where blocks lie: every batch is divided over the mesh; None where that is free."""
    if batches.mesh is not None:
        return NamedSharding(batches.mesh, PartitionSpec(None, batches.axis))
    return batches.weight.sharding if batches.weight.committed else None


def _rows(batches: Batches, step: np.ndarray, epoch: np.ndarray, orders: np.ndarray | None) -> Rows:
    """The rows of batches, each given by its number in an epoch and by the row of `orders`."""

    def take(array, rows):
        return array[rows] if array.ndim == 1 else array[epoch[:, None], rows]

    return rows_at(
        np,
        step[:, None],
        np.asarray(batches.weight),
        np.asarray(batches.index),
        orders,
        batch_size=batches.batch_size,
        slots=_slots(batches),
        take=take,
    )


def _filled_up(rows: Rows, length: int) -> Rows:
    """As many batches as a block has; the unused ones have no weight."""
    missing = length - rows.row.shape[0]
    if not missing:
        return rows
    zeros = [np.zeros((missing, *part.shape[1:]), part.dtype) for part in rows]
    return Rows(*(np.concatenate(pair) for pair in zip(rows, zeros)))


def _read_host(examples: PyTree, rows: Rows, batches: Batches) -> Batch:
    def read(array):
        found = array[rows.row]
        found[~rows.some] = 0
        return found

    inputs, targets = jax.tree.map(read, examples)
    found = Batch(inputs, targets, rows.weight, rows.index)  # in NumPy: a program takes it sooner
    place = _place(batches)
    return found if place is None else jax.device_put(found, place)


def _read_device(examples: PyTree, rows: Rows, batches: Batches) -> Batch:
    place = _place(batches)
    row, weight, index = jax.device_put((rows.row, rows.weight, rows.index), place)
    inputs, targets = _gather(examples, row, rows.some)
    if batches.mesh is not None:
        inputs, targets = jax.device_put((inputs, targets), place)
    return Batch(inputs, targets, weight, index)


@jax.jit
def _gather(examples: PyTree, row: jax.Array, some: jax.Array) -> PyTree:
    def read(array):
        found = array.at[row].get(mode="promise_in_bounds")
        return jnp.where(some.reshape(-1, *[1] * (found.ndim - 1)), found, 0).astype(array.dtype)

    return jax.tree.map(read, examples)
