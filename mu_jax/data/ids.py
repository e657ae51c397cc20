"""Sets of example ids: their normal form and their fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np


def sorted_unique(ids: Iterable[int] | np.ndarray) -> np.ndarray:
    """The ids as int64 [m], sorted, each once.

    Raises:
        ValueError: the ids are not integers.
    """
    array = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids))
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"expected integer example ids, found {array.dtype}; pass integers")
    return np.unique(array).astype(np.int64)


def digest(ids: Iterable[int] | np.ndarray) -> str:
    """A fingerprint of a set of example ids: SHA-256 of the sorted little-endian int64 bytes.

    Args:
        ids: integer [m], in any order; an id named twice counts once.

    Returns:
        64 hexadecimal digits.

    Raises:
        ValueError: the ids are not integers.

    Cost: O(m log m).

    Example:
        >>> from mu_jax.datasets import digest
        >>> digest([3, 1, 2]) == digest([1, 2, 3, 3])
        True
    """
    return hashlib.sha256(sorted_unique(ids).astype("<i8").tobytes()).hexdigest()
