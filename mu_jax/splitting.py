"""The split into forget and retain set, and the check of sets that are given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np

from mu_jax.data import check_weight, ids_of, is_concrete

Data = TypeVar("Data")


def split(data: Data, forget_ids: Iterable[int] | np.ndarray) -> tuple[Data, Data]:
    """Split examples into the forget and the retain set by their stable ids.

    Args:
      data: `Batches` or a `Stream`; must hold every id once.
      forget_ids: ids to forget, in any order or as a set; a repeated id counts once.

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
            f"expected Batches or a Stream, found {type(data).__name__}: make one with mu.batches, "
            "or with mu.stream from a dataset that is read by position"
        )
    index = np.asarray(data.index)  # type: ignore[attr-defined]
    named = forget_ids if hasattr(forget_ids, "__array__") else list(forget_ids)
    wanted = np.unique(np.asarray(named))
    if wanted.size == 0:
        raise ValueError("expected at least one id to forget, found none: name the examples")
    if not np.issubdtype(wanted.dtype, np.integer):
        raise ValueError(f"expected integer ids to forget, found {wanted.dtype}: give example ids")
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


def check_sets(forget: Any, retain: Any) -> None:
    """Refuse forget and retain sets that share examples or hold none, where that can be seen."""
    for name, data in (("forget", forget), ("retain", retain)):
        weight = getattr(data, "weight", None)
        if weight is not None and is_concrete(weight):
            check_weight(weight, f"{name} set")
    ids, others = ids_of(forget), ids_of(retain)
    if all(index is not None and is_concrete(index) for index in (ids, others)):
        shared = np.intersect1d(np.asarray(ids), np.asarray(others))
        if shared.size:
            raise ValueError(
                f"expected forget and retain sets without a common example, found {shared.size} "
                f"in both (first id {shared[0]}): make them with mu.split"
            )
