"""JSON that others have written: whatever is wrong with it is a ValueError."""

from __future__ import annotations

import json
from typing import Any


def parse(text: str | bytes) -> Any:
    """What a text of JSON holds.

    Raises:
        ValueError: no JSON, no UTF-8, a number of too many digits, or nested too deep to be read.

    Example:
        >>> parse('{"id": 3}')
        {'id': 3}
        >>> parse("[" * 100_000)
        Traceback (most recent call last):
        ValueError: nested too deep
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def canonical(value: Any) -> bytes:
    """The one text of JSON for a value, in UTF-8: what is signed.

    Names in the order of their code points, no spaces, no escapes but those JSON asks for, numbers
    as Python writes them (floats by the fewest digits that give them back).

    Raises:
        ValueError: a number that is not finite, a text that is no Unicode, or no JSON.

    Example:
        >>> canonical({"b": [1, 0.1], "a": "\u00e9"}).decode()
        '{"a":"\u00e9","b":[1,0.1]}'
    """
    try:
        form = {"sort_keys": True, "separators": (",", ":"), "ensure_ascii": False}
        return json.dumps(value, allow_nan=False, **form).encode()  # type: ignore[arg-type]
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"expected what JSON can hold, found that {error}; correct it") from None
