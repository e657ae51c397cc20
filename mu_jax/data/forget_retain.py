"""Forget and retain sets: the split, the check of given sets, both sets in one run of batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from mu_jax._at_once import elementwise
from mu_jax.data.batches import (
    Batch,
    Batches,
    check_weight,
    concatenate,
    ids_of,
    in_memory,
    is_concrete,
)
from mu_jax.data.id_table import IdTable
from mu_jax.data.streams import Source, Stream

PyTree = Any
Data = Batches | Stream
AnySet = TypeVar("AnySet")


def split(data: AnySet, forget_ids: Any, *, ids: IdTable | None = None) -> tuple[AnySet, AnySet]:
    """Split examples into the forget and the retain set by their stable ids.

    Args:
      data: `Batches` or a `Stream`, or texts of `mu.datasets.language`; must hold every id once.
      forget_ids: ids to forget, in any order; a repeated id counts once. A list, a numpy array, a
        pandas Series or Index; without `ids` integers, of which a set will do too.
      ids: the table of people's ids, by which `forget_ids` names examples (see `mu.id_table`), or
        in one text subjects (`"user:u_8123"`); the data then hold the table's numbers.

    Returns:
      `(forget, retain)`, each in the order of `data`.

    Raises:
      ValueError: no ids, unknown ids, every id, or data that holds an id twice.

    Example:
      >>> import numpy as np, mu_jax as mu
      >>> data = mu.batches(np.ones((4, 1)), np.arange(4), batch_size=2, index=[10, 11, 12, 13])
      >>> forget, retain = mu.split(data, [12])
      >>> forget.index.tolist(), retain.index.tolist()
      ([12], [10, 11, 13])
    """
    if ids_of(data) is None:
        raise TypeError(
            f"expected Batches or a Stream, found {type(data).__name__}: make one with mu.batches "
            "from arrays, or with mu.stream from the rows of mu.datasets.from_loader, from_records "
            "or from_table"
        )
    index = np.asarray(data.index)  # type: ignore[attr-defined]
    wanted = _wanted(forget_ids, index, ids)
    if np.unique(index).size != index.size:
        raise ValueError(
            f"expected every id once in the data, found {np.unique(index).size} different ids "
            f"for {index.size} examples: give `index` without repetitions"
        )
    unknown = np.setdiff1d(wanted, index)
    if unknown.size:
        raise ValueError(
            f"expected ids that are in the data, found {unknown.size} unknown "
            f"({', '.join(map(str, unknown[:5]))}{', ...' if unknown.size > 5 else ''}): "
            "check the request against the data's ids"
        )
    chosen = np.isin(index, wanted)
    if chosen.all():
        raise ValueError(
            f"expected some examples to retain, found a request for all {index.size}: "
            "to forget everything, train nothing"
        )
    return (
        data.take(np.flatnonzero(chosen)),  # type: ignore[attr-defined]
        data.take(np.flatnonzero(~chosen)),  # type: ignore[attr-defined]
    )


def _wanted(forget_ids: Any, index: np.ndarray, table: IdTable | None) -> np.ndarray:
    """The numbers of the examples to forget, each once."""
    if table is not None:
        wanted = np.unique(table.only(index).find(forget_ids))
    elif isinstance(forget_ids, str):
        raise ValueError(
            f"expected integer ids to forget, found the text {forget_ids!r}: give the table of "
            "ids by ids=, or read the request by mu.datasets.read_request"
        )
    else:
        named = forget_ids if hasattr(forget_ids, "__array__") else list(forget_ids)
        wanted = np.unique(np.asarray(named))
    if wanted.size == 0:
        raise ValueError("expected at least one id to forget, found none: name the examples")
    if not np.issubdtype(wanted.dtype, np.integer):
        raise ValueError(
            f"expected integer ids to forget, found {wanted.dtype}: give example ids, and the "
            "table of ids by ids= where they are not the data's numbers"
        )
    return wanted


def check_sets(forget: Any, retain: Any) -> None:
    """Refuse forget and retain sets that share examples or hold none, where that can be seen.

    In arrays, streams, and lists of batches; other iterables would have to be read for it.
    """
    for name, data in (("forget", forget), ("retain", retain)):
        weight = getattr(data, "weight", None)
        if weight is not None and is_concrete(weight):
            check_weight(weight, f"{name} set")
    ids, others = real_ids(forget), real_ids(retain)
    if all(index is not None and is_concrete(index) for index in (ids, others)):
        shared = np.intersect1d(np.asarray(ids), np.asarray(others))
        if shared.size:
            raise ValueError(
                f"expected forget and retain sets without a common example, found {shared.size} "
                f"in both (first id {shared[0]}): make them with mu.split"
            )


def real_ids(examples: Any) -> Any:
    """Ids of a set, of the rows that count where it is a list of batches; None if not known."""
    if not isinstance(examples, list | tuple) or isinstance(examples, Batch):
        return ids_of(examples)
    parts = [part for part in examples if isinstance(part, Batch)]
    if not parts or not all(is_concrete(array) for part in parts for array in part[2:]):
        return None
    return np.concatenate([np.asarray(part.index)[np.asarray(part.weight) > 0] for part in parts])


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
    check_sets(*sets)  # of iterables only now is known which examples they hold
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


def with_targets(examples: Data, targets: PyTree) -> Data:
    """The same examples with other targets, a tree of `[n, ...]`."""
    if isinstance(examples, Batches):
        return examples.replace(targets=targets)
    table = jax.tree.map(np.asarray, targets)
    return _retarget(examples, lambda position, _: jax.tree.map(lambda x: x[position], table))


def _mark(examples: Data, forget: bool) -> Data:
    if isinstance(examples, Batches):
        mark = _full_like(examples.weight, forget)
        return examples.replace(targets=Marked(examples.targets, mark))
    flag: Any = np.bool_(forget)
    return _retarget(examples, lambda position, target: Marked(target, flag))


@elementwise
def _full_like(xp: Any, weight: jax.Array, forget: bool) -> jax.Array:
    return xp.full_like(weight, forget, dtype=bool)


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
