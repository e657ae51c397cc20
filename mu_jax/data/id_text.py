"""Ids as text: the one form in which ids of all kinds are compared."""

from __future__ import annotations

import numbers
import uuid
from collections.abc import Set
from typing import Any

import numpy as np


def refuse_set(values: Any, what: str) -> None:
    """Refuse a set where values stand beside rows: it has no order."""
    if isinstance(values, Set):
        raise TypeError(
            f"expected {what} in an order, found a {type(values).__name__}, which has none: give "
            "a list or an array with one for each row"
        )


def as_text(values: Any, what: str) -> np.ndarray:
    """Ids as text [n]: text as it is, whole numbers in decimals, UUIDs in their usual form.

    Args:
      values: a list, a numpy array, a pandas Series or Index. what: their name in a refusal.

    Raises:
      TypeError: a set, or one text in place of a list.
      ValueError: a value that is missing, or no id; more than one axis.

    Example:
      >>> import uuid
      >>> as_text(["a", 7, uuid.UUID(int=1)], "ids").tolist()
      ['a', '7', '00000000-0000-0000-0000-000000000001']
    """
    refuse_set(values, what)
    if isinstance(values, str | bytes):
        raise TypeError(f"expected a list of {what}, found one text {values!r}: put it in a list")
    if not hasattr(values, "__array__"):
        values = list(values)
        array = np.empty(len(values), object)
        array[:] = values
    else:
        array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(
            f"expected {what} of one axis, found the shape {array.shape}: give one for each row"
        )
    if array.dtype.kind in "iu":
        return array.astype(str)
    if array.dtype.kind != "U":
        texts = [_one(value, row, what) for row, value in enumerate(array.tolist())]
        array = np.array(texts, dtype=np.str_) if texts else np.zeros(0, np.str_)
    _require_plain(array, what)
    return array


def _one(value: Any, row: int, what: str) -> str:
    if isinstance(value, str):
        if value.endswith("\0"):
            raise _no_id(value, row, what)
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return str(int(value))
    raise _no_id(value, row, what)


def _require_plain(array: np.ndarray, what: str) -> None:
    """Refuse texts that no file of ids could name."""
    for row, value in enumerate(array.tolist()):
        if not value or value != value.strip() or any(mark in value for mark in "\r\n\0"):
            raise _no_id(value, row, what)


def _no_id(value: Any, row: int, what: str) -> ValueError:
    hint = (
        "read whole numbers with missing values as text, and give every row a value"
        if isinstance(value, float) or value is None
        else "give text without line ends and spaces around it, whole numbers or UUIDs"
    )
    return ValueError(f"expected {what} that name rows, found {value!r} at row {row}: {hint}")
