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
