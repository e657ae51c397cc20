"""Forget and retain examples in one run of batches, each row marked by the set it comes from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from mu_jax.at_once import elementwise
from mu_jax.data import Batch, Batches, concatenate, in_memory
from mu_jax.mapping import map_rows
from mu_jax.streaming import Source, Stream

PyTree = Any
Data = Batches | Stream


class Marked(NamedTuple):
    """Targets, and whether each row is one to forget, bool[B]."""

    targets: PyTree
    forget: jax.Array


def readable(forget: Any, retain: Any) -> tuple[Data, Data]:
    """Both sets as streams, or else both in memory, where a fit can shuffle them together.

    The batch of the mix is that of `retain`; where that is an iterable of batches, which are filled
    up by rows of any number, it holds a batch of either set.
    """
    if isinstance(forget, Stream) and isinstance(retain, Stream):
        return forget, retain
    sets = in_memory(forget), in_memory(retain)
    if isinstance(retain, Batches | Stream):
        return sets
    return sets[0], sets[1].replace(batch_size=sum(part.batch_size for part in sets))


def mix(forget: Data, retain: Data) -> Data:
    """The retained, then the forget examples as one set, with the batching of `retain`.

    Takes what `readable` gives. Examples keep their weights, so ragged batches stay exact.
    """
    if isinstance(retain, Batches):
        assert isinstance(forget, Batches)
        return concatenate(retain, forget)
    assert isinstance(forget, Stream)
    index = np.concatenate([retain.index, forget.index])
    return retain.replace(source=_Joined(retain, forget), rows=np.arange(len(index)), index=index)


def marked_mix(forget: Any, retain: Any) -> Data:
    """`mix` of any two sets, with `Marked` targets."""
    forget, retain = readable(forget, retain)
    return mix(_mark(forget, True), _mark(retain, False))


def all_targets(examples: Data) -> jax.Array:
    """The targets of every example, `[n, ...]`; of a `Stream`, in one pass over it."""
    if isinstance(examples, Batches):
        return examples.targets
    return map_rows(_targets_of, examples)


def with_targets(examples: Data, targets: jax.Array) -> Data:
    """The same examples with other targets `[n, ...]`."""
    if isinstance(examples, Batches):
        return examples.replace(targets=targets)
    table = np.asarray(targets)
    return _retarget(examples, lambda position, target: table[position])


def _mark(examples: Data, forget: bool) -> Data:
    if isinstance(examples, Batches):
        mark = _full_like(examples.weight, forget)
        return examples.replace(targets=Marked(examples.targets, mark))
    flag: Any = np.bool_(forget)
    return _retarget(examples, lambda position, target: Marked(target, flag))


@elementwise
def _full_like(xp: Any, weight: jax.Array, forget: bool) -> jax.Array:
    return xp.full_like(weight, forget, dtype=bool)


def _targets_of(batch: Batch) -> PyTree:
    return batch.targets


def _retarget(stream: Stream, change: Callable[[int, PyTree], PyTree]) -> Stream:
    source = _Retargeted(stream.source, stream.rows, change)
    return stream.replace(source=source, rows=np.arange(len(source)))


class _Retargeted:
    """Some rows of a source, the target of each changed by a function of its position."""

    def __init__(self, source: Source, rows: np.ndarray, change: Callable[[int, PyTree], PyTree]):
        self._source, self._rows, self._change = source, rows, change

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: int) -> tuple:
        inputs, target = self._source[int(self._rows[position])][:2]
        return inputs, self._change(position, target)


class _Joined:
    """The rows of streams, one after another."""

    def __init__(self, *streams: Stream):
        self._streams = streams

    def __len__(self) -> int:
        return sum(stream.num_examples for stream in self._streams)

    def __getitem__(self, position: int) -> tuple:
        for stream in self._streams:
            if position < stream.num_examples:
                return stream.source[int(stream.rows[position])]
            position -= stream.num_examples
        raise IndexError(position)
