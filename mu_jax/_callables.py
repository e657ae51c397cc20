"""Callables as keys of caches, also those that cannot be hashed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class ByIdentity:
    """A callable that is equal to itself only, in place of one that cannot be hashed."""

    def __init__(self, function: Callable):
        self.function = function

    def __call__(self, *args: Any, **named: Any) -> Any:
        """What the callable gives."""
        return self.function(*args, **named)

    def __getattr__(self, name: str) -> Any:
        if name == "function":  # not set yet, as in a copy being made
            raise AttributeError(name)
        return getattr(self.function, name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByIdentity) and self.function is other.function

    def __hash__(self) -> int:
        return id(self.function)


def hashable(function: Any) -> Any:
    """The callable itself, or one that does the same and can be hashed (such as of a dataclass)."""
    try:
        hash(function)
    except TypeError:
        return ByIdentity(function)
    return function
