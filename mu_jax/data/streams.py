"""Batches from a random-access source through grain, for data larger than memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mu_jax._extras import extra
from mu_jax.data.axes import Axis, axis_size, check_axis
from mu_jax.data.batches import Batch, as_ids, ids_of, random_order, round_up

PyTree = Any


class Source(Protocol):
    """Random access to examples: `len(source)`, and `source[i] -> (input, target, ...)`."""

    def __len__(self) -> int:
        """Number of examples."""

    def __getitem__(self, position: int) -> tuple:
        """One example: its input, its target, and possibly more, which is not used."""


@jax.tree_util.register_static  # passes into `jit`, where a loop over it is refused by a sentence
@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """Examples that are read batch by batch; takes the place of `Batches` outside `jit`.

    With the same key it visits the examples in the order in which `Batches` would, so a fit or a
    statistic gives the same answer from either.

    Attributes:
      source: where examples are read from.
      rows: positions in the source, in order.
      index: i32, stable id of each row.
      batch_size: examples per batch, over all processes.
      threads: reader threads. buffered: batches read ahead.
      mesh, axis: mesh over which each batch is sharded, or None. With several processes, each reads
        its own part of every batch, and all see the same number of batches.
      multiple: every batch is padded to a multiple of it on every device (whole groups).
    """

    source: Source
    rows: np.ndarray
    index: np.ndarray
    batch_size: int
    threads: int = 4
    buffered: int = 4
    mesh: Mesh | None = None
    axis: Axis = "data"
    multiple: int = 1

    @property
    def num_examples(self) -> int:
        """Number of examples."""
        return len(self.rows)

    @property
    def num_batches(self) -> int:
        """Number of batches in one epoch."""
        return -(-self.num_examples // self.batch_size)

    def replace(self, **changes: Any) -> Stream:
        """A copy with other fields."""
        return dataclasses.replace(self, **changes)

    def take(self, rows: np.ndarray) -> Stream:
        """The examples at `rows`, in that order."""
        return self.replace(rows=self.rows[rows], index=self.index[rows])

    def __iter__(self) -> Iterator[Batch]:
        return self.iterate()

    def iterate(self, *, key: jax.Array | None = None, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from batch `start` on, in the given or in a random order."""
        with extra("streams"):
            import grain

        slot, weight = self._layout(key)
        size = slot.shape[1]
        examples = grain.MapDataset.source(_View(self.source, self.rows[slot[start:].ravel()]))
        options = grain.ReadOptions(self.threads, self.buffered * size)
        batches = examples.batch(size).to_iter_dataset(options)
        for step, (inputs, targets) in enumerate(batches, start):
            index = np.where(weight[step] > 0, self.index[slot[step]], -1).astype(np.int32)
            yield self._place(Batch(inputs, targets, weight[step], index))  # type: ignore[arg-type]

    def _layout(self, key: jax.Array | None) -> tuple[np.ndarray, np.ndarray]:
        """Row and weight of every slot of this process's part of every batch."""
        n, real = self.num_examples, min(self.batch_size, self.num_examples)
        order = np.arange(n) if key is None else np.asarray(random_order(key, n))
        slot = np.arange(round_up(real, self._unit()))
        position = np.arange(self.num_batches)[:, None] * self.batch_size + slot
        valid = (slot < real) & (position < n)
        position = position % n  # as `Batches` does, an epoch's first rows fill up its last batch
        weight = valid.astype(np.float32)
        own = self._own(slot.size)
        return order[position[:, own]], weight[:, own]

    def _own(self, size: int) -> np.ndarray:
        """The slots of a batch that lie on devices of this process."""
        if self.mesh is None:
            return np.arange(size)
        sharding = NamedSharding(self.mesh, PartitionSpec(self.axis))
        parts = sharding.addressable_devices_indices_map((size,)).values()
        bounds = {part[0].indices(size)[:2] for part in parts if part}
        return np.concatenate([np.arange(*pair) for pair in sorted(bounds)])

    def _place(self, batch: Batch) -> Batch:
        if self.mesh is None:
            return batch
        rows = round_up(min(self.batch_size, self.num_examples), self._unit())
        sharding = NamedSharding(self.mesh, PartitionSpec(self.axis))

        def make(x):
            return jax.make_array_from_process_local_data(sharding, x, (rows, *x.shape[1:]))

        return jax.tree.map(make, batch)

    def _unit(self) -> int:
        """Every batch is a multiple of it: whole groups on every device."""
        return self.multiple * axis_size(self.mesh, self.axis)


def stream(
    source: Source,
    *,
    batch_size: int,
    index: Any | None = None,
    threads: int = 4,
    mesh: Mesh | None = None,
    axis: Axis = "data",
) -> Stream:
    """Read batches from a random-access source, in the given order until shuffled.

    Args:
      source: `len(source)` and `source[i] -> (input, target)`, such as
        `mu_jax.datasets.source("digits", "train")`, a grain data source or a list of pairs.
      batch_size: examples per batch.
      index: int[n], stable ids; default `source.index`, the ids of a source that has some, else the
        positions 0..n-1.
      threads: reader threads.
      mesh: shard every batch over `axis` of this mesh, see `mu.shard`.
      axis: one axis, or several.

    Returns:
      A `Stream`, which `mu.split`, `mu.collect`, `mu.fit` and every transform take.

    Example:
      >>> import numpy as np, mu_jax as mu
      >>> pairs = [(np.full(2, i, np.float32), i) for i in range(5)]
      >>> forget, retain = mu.split(mu.stream(pairs, batch_size=2), [3])
      >>> [batch.targets.tolist() for batch in retain]
      [[0, 1], [2, 4]]
    """
    if not hasattr(source, "__getitem__") or not hasattr(source, "__len__"):
        how = "from_loader" if hasattr(source, "dataset") else "from_iterable"
        raise TypeError(
            f"expected a source with len(source) and source[i], found {type(source).__name__}: "
            f"read it by mu.datasets.{how}"
        )
    n = len(source)
    index = ids_of(source) if index is None else index
    index = np.arange(n) if index is None else np.asarray(as_ids(index))
    if n == 0 or index.shape != (n,):
        raise ValueError(
            f"expected one integer id for each of at least one example, found {n} examples and "
            f"ids of shape {index.shape}: give matching ids"
        )
    if batch_size < 1:
        raise ValueError(f"expected batch_size >= 1, found {batch_size}: give a positive size")
    if mesh is not None:
        check_axis(mesh, axis)
    rows = np.arange(n)
    ids = index.astype(np.int32)
    return Stream(source, rows, ids, batch_size, threads, mesh=mesh, axis=axis)


class _View:
    """The examples at some positions of a source, each as `(input, target)`."""

    def __init__(self, source: Source, rows: np.ndarray):
        self._source, self._rows = source, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: int) -> tuple:
        return tuple(self._source[int(self._rows[position])][:2])
