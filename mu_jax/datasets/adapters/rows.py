"""Rows of any data by their position, each with an input, a target, and an id of a table."""

from __future__ import annotations

import bisect
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from mu_jax.data.id_table import IdTable, id_table
from mu_jax.datasets.adapters.columns import Where, by_position, look_up
from mu_jax.datasets.examples import Examples


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Rows:
    """Examples in somebody's data; `mu.stream` takes it as it is, `read` brings it into memory.

    Attributes:
        records: `len(records)` and `records[i]`, a dictionary or a tuple.
        inputs, target: where they are found in a record, see `mu_jax.datasets.adapters.columns`.
        ids: the table of the ids that people have, see `mu.id_table`.
        index: int32 [n], the number of each row in that table.
    """

    records: Any
    inputs: Where
    target: Where
    ids: IdTable
    index: np.ndarray

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.index)

    def __repr__(self) -> str:
        return f"Rows({len(self)} of {type(self.records).__name__}, {self.ids!r})"

    def __getitem__(self, position: int) -> tuple[Any, Any]:
        """The input and the target at a position: arrays, or trees of them."""
        record = self.records[range(len(self))[position]]
        target = look_up(record, self.target, "target")
        return look_up(record, self.inputs, "inputs"), self._as_class(target)

    @functools.cached_property
    def targets(self) -> Any:
        """All targets, a tree of arrays [n, ...]."""
        found = [self._as_class(look_up(each, self.target, "target")) for each in self._records()]
        return jax.tree.map(lambda *values: _stacked(values, "target"), *found)

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """Where targets are text, all of them in alphabetical order: a target is its place there.

        Raises:
            ValueError: targets of which some are no text.
        """
        found = [look_up(each, self.target, "target") for each in self._records()]
        texts = [_text(value) for value in found]
        if None in texts:
            raise ValueError(
                f"expected text as every target, found {found[texts.index(None)]!r} at row "
                f"{texts.index(None)}: fill it in the data, or by a function of a record"
            )
        return tuple(np.unique(np.array(texts)).tolist())

    def _records(self) -> Iterator[Any]:
        return (self.records[i] for i in range(len(self)))

    def _as_class(self, target: Any) -> Any:
        text = _text(target)
        if text is None:
            return target
        place = bisect.bisect_left(self.classes, text)
        return np.int32(place)

    def read(self) -> Examples:
        """All examples in memory, for `mu.batches`.

        Raises:
            ValueError: inputs or targets of different shapes, or that are no numbers.
        """
        pairs = [self[i] for i in range(len(self))]
        inputs, targets = (
            jax.tree.map(lambda *values, what=what: _stacked(values, what), *parts)
            for what, parts in zip(("input", "target"), zip(*pairs))
        )
        return Examples(inputs, targets, self.index)

    def numbered_by(self, table: IdTable) -> Rows:
        """The same rows by the numbers of a table that was kept, such as `store.ids()`.

        Raises:
            ValueError: an id that this table lacks.
        """
        index = table.numbers(self.ids.names(self.index))
        return dataclasses.replace(self, ids=table.only(index), index=index)


def rows_of(
    records: Any,
    *,
    inputs: Where,
    target: Where,
    ids: Any,
    subjects: Mapping[str, Any] | None = None,
) -> Rows:
    """The rows of records, with a table of their ids.

    Args:
        records: `len(records)` and `records[i]`.
        inputs, target: where in a record.
        ids: a column, a function `(position, record) -> id`, or one id for each row.
        subjects: by the word that requests use, a column or one value for each row.
    """
    if not hasattr(records, "__len__") or not hasattr(records, "__getitem__"):
        raise TypeError(
            f"expected records with len(records) and records[i], found {type(records).__name__}: "
            "read it by mu.datasets.from_iterable"
        )
    found = {"ids": ids, **(subjects or {})}
    values: dict[str, Any] = dict.fromkeys(found)
    scanned = {
        name: where
        for name, where in found.items()
        if isinstance(where, str | int) or (callable(where) and where is not by_position)
    }
    for name, where in found.items():
        if where is by_position:
            values[name] = np.arange(len(records))
        elif name not in scanned:
            values[name] = _one_each(where, len(records), name)
    if scanned:
        values |= _columns(records, scanned)
    own = values.pop("ids")
    table = id_table(own, **values)
    return Rows(records, inputs, target, table, table.numbers(own))


def _columns(records: Any, wanted: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Some columns of all records, in one pass; a store of columns gives them whole."""
    whole = getattr(records, "column", None)
    found: dict[str, list[Any]] = {name: [] for name in wanted}
    if whole is not None and all(isinstance(where, str) for where in wanted.values()):
        return {name: whole(where, name) for name, where in wanted.items()}
    for position in range(len(records)):
        record = records[position]
        for name, where in wanted.items():
            value = where(position, record) if callable(where) else look_up(record, where, name)
            found[name].append(_scalar(value))
    return found


def _scalar(value: Any) -> Any:
    return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value


def _one_each(values: Any, size: int, name: str) -> Any:
    size_found = len(values) if hasattr(values, "__len__") else None
    if values is None or not isinstance(values, Iterable):
        raise ValueError(
            f"expected {name} as a column, as a function of position and record, or as one for "
            f"each row, found {values!r}: rows that have no id of their own take by_position"
        )
    if size_found != size:
        raise ValueError(
            f"expected {name} for each of {size} rows, found "
            f"{type(values).__name__ if size_found is None else size_found}: give a list or an "
            "array of the same rows"
        )
    return values


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else None


def _stacked(values: tuple[Any, ...], what: str) -> np.ndarray:
    shapes = {np.shape(value) for value in values}
    if len(shapes) > 1 or any(value is None or isinstance(value, str | bytes) for value in values):
        found = " and ".join(map(str, sorted(shapes)[:2])) if len(shapes) > 1 else "a missing value"
        raise ValueError(
            f"expected every {what} as numbers of one shape, found {found}: resize, pad or fill "
            f"them in the data, or by a function of a record"
        )
    return np.stack(values)
