"""What people and programs hand to a ledger, checked before a database sees it."""

from __future__ import annotations

import operator
from typing import Any

_LARGEST = 2**31 - 1
_LONGEST = 100_000


def text(value: Any, what: str) -> str:
    """A text that every database can hold.

    Raises:
        ValueError: no text, an empty or an endless one, or characters that are none.

    Example:
        >>> text(" ", "a reason")
        Traceback (most recent call last):
        ValueError: expected a reason, found ' '; give a text
    """
    fits = isinstance(value, str) and value.strip() and len(value) <= _LONGEST
    if not fits or "\0" in value or any("\ud800" <= each <= "\udfff" for each in value):
        shown = repr(value) if not isinstance(value, str) else ascii(value[:60])
        raise ValueError(f"expected {what}, found {shown}; give a text")
    return value


def number(value: Any, what: str) -> int:
    """A whole number from 1 upwards, of Python: a database takes those of NumPy for bytes.

    Raises:
        ValueError: another one, or none.

    Example:
        >>> import numpy as np
        >>> type(number(np.int64(3), "a version")).__name__
        'int'
    """
    try:
        found = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = 0
    if not 1 <= found <= _LARGEST:
        raise ValueError(f"expected {what}, found {value!r}; give a whole number from 1 upwards")
    return found
