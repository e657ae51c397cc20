"""Forget and retain sets whose ids are known only as their batches are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from mu_jax.data.batches import Batch, is_concrete
from mu_jax.data.forget_retain import real_ids


def refusing_shared(forget: Any, retain: Any) -> tuple[Any, Any]:
    """The sets, of which iterables refuse the first batch that holds an example of the other set.

    Nothing is read for it but what a method reads. Sets whose ids are known stay as they are.

    Returns:
      `(forget, retain)`; an iterator stays one, and an iterable with a length keeps its length.
    """
    ids = [real_ids(part) for part in (forget, retain)]
    read: list[set[int]] = [_known(index) for index in ids]
    return (
        _watched(forget, read[0], read[1]) if ids[0] is None else forget,
        _watched(retain, read[1], read[0]) if ids[1] is None else retain,
    )


def _known(index: Any) -> set[int]:
    return set() if index is None else _numbers(index)


def _numbers(index: Any) -> set[int]:
    """Ids that lie on this process; none of those that are traced or spread over several."""
    if not is_concrete(index) or not getattr(index, "is_fully_addressable", True):
        return set()
    return set(np.asarray(index).ravel().tolist())


def _watched(batches: Any, own: set[int], others: set[int]) -> Any:
    if not hasattr(batches, "__iter__"):
        return batches
    if isinstance(batches, Iterator):  # `iter` itself could begin an epoch
        return _checked(batches, own, others)
    kind = _WatchedWithLength if hasattr(batches, "__len__") else _Watched
    return kind(batches, own, others)


class _Watched:
    """An iterable of batches that notes the ids it gives."""

    def __init__(self, batches: Any, own: set[int], others: set[int]):
        self._batches, self._own, self._others = batches, own, others

    def __iter__(self) -> Iterator[Any]:
        return _checked(self._batches, self._own, self._others)


class _WatchedWithLength(_Watched):
    """The same of a known number of batches."""

    def __len__(self) -> int:
        return len(self._batches)


def _checked(batches: Iterable[Any], own: set[int], others: set[int]) -> Iterator[Any]:
    for batch in batches:
        if isinstance(batch, Batch):
            found = _real(batch)
            shared = found & others
            if shared:
                raise ValueError(
                    f"expected forget and retain sets without a common example, found "
                    f"{len(shared)} of a batch in both (first id {min(shared)}): make them with "
                    "mu.split"
                )
            own |= found
        yield batch


def _real(batch: Batch) -> set[int]:
    """Ids of the rows that count."""
    index, weight = batch.index, batch.weight
    if not all(
        is_concrete(x) and getattr(x, "is_fully_addressable", True) for x in (index, weight)
    ):
        return set()
    return _numbers(np.asarray(index)[np.asarray(weight) > 0])
