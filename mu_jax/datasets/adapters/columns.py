"""Where in a record an input, a target, an id or a subject is found.

A record is a dictionary of columns or a tuple of them. A column is named by its key or its place;
a list of columns of numbers is one vector; a dictionary of columns is a dictionary of arrays; a
function of the record is whatever it returns. `()` is nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Column = str | int
Where = Column | list[Column] | Mapping[str, Any] | Callable[[Any], Any] | tuple[()]


def by_position(position: int, record: Any = None) -> int:
    """The position of a row as its id, for data whose rows have none.

    It holds only as long as no row moves: data that are shuffled, filtered or cleaned afterwards
    give the number of a forgotten person to somebody else, and nothing can notice. Rows with an id
    of their own are safe from it.
    """
    return position


def look_up(record: Any, where: Where, what: str) -> Any:
    """The value, tree of arrays or vector that `where` names in a record.

    Raises:
        ValueError: a column that the record lacks.
    """
    if isinstance(where, tuple):
        return ()
    if callable(where):
        return plain_tree(where(record))
    if isinstance(where, Mapping):
        return {name: look_up(record, inner, what) for name, inner in where.items()}
    if isinstance(where, list):
        return np.asarray([look_up(record, column, what) for column in where], np.float32)
    return plain_tree(_column(record, where, what))


def raw(record: Any, where: Column | Callable[[Any], Any], what: str) -> Any:
    """The value of one column, or of a function of the record, as it is there.

    Raises:
        ValueError: a column that the record lacks.
    """
    return where(record) if callable(where) else _column(record, where, what)


def _column(record: Any, where: Column, what: str) -> Any:
    try:
        return record[where]
    except (KeyError, IndexError, TypeError):
        if isinstance(record, Mapping):
            found = f"the columns {', '.join(map(str, record))}"
        else:
            size = f" of {len(record)}" if isinstance(record, tuple | list) else ""
            found = f"a {type(record).__name__}{size}"
        raise ValueError(
            f"expected a column {where!r} for the {what}, found {found}: name one of these, or "
            "give a function of a record"
        ) from None


def plain_tree(value: Any) -> Any:
    """Arrays of numpy in place of tensors, images and numbers; other values as they are."""
    if isinstance(value, Mapping):
        return {name: plain_tree(inner) for name, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(plain_tree(inner) for inner in value)
    if isinstance(value, str | bytes) or value is None:
        return value
    if hasattr(value, "detach"):  # a tensor of torch
        value = value.detach().cpu()
        short = str(value.dtype) == "torch.bfloat16"  # a type that numpy does not have
        value = (value.float() if short else value).numpy()
    array = np.asarray(value)
    if array.dtype == object:
        return value
    narrow = {"float64": np.float32, "int64": np.int32, "uint64": np.uint32}
    kind: Any = narrow.get(array.dtype.name)
    if kind is not None and array.dtype.kind in "iu" and array.size:
        bounds = np.iinfo(kind)
        kind = kind if bounds.min <= array.min() and array.max() <= bounds.max else None
    return array if kind is None else array.astype(kind)
