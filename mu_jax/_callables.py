"""Callables as keys of caches: those that cannot be hashed as well, and without their numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


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


_NUMBER = type("number", (), {"__repr__": lambda self: "number"})()


def without_numbers(function: Any) -> tuple[Any, tuple]:
    """A callable as its form, which is a key of caches, and its numbers, which are arguments.

    The numbers are the floats and arrays among the leaves of a callable that is a pytree, such as
    a dataclass registered with `jax.tree_util.register_dataclass`. Callables that differ in numbers
    only have equal forms, and share one compiled program. A callable that is no pytree has no
    numbers.

    Returns:
      `(form, numbers)`, from which `with_numbers` makes the callable.
    """
    leaves, structure = jax.tree.flatten(function)
    numbers = tuple(leaf for leaf in leaves if _is_number(leaf))
    blank = [_NUMBER if _is_number(leaf) else leaf for leaf in leaves]
    form = jax.tree.unflatten(structure, blank)
    try:
        hash(form)
    except TypeError:
        return ByIdentity(function), ()
    return form, numbers


def with_numbers(form: Any, numbers: tuple) -> Any:
    """The callable of a form, with these numbers, which may be traced."""
    left = iter(numbers)
    return jax.tree.map(lambda leaf: next(left) if leaf is _NUMBER else leaf, form)


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, float | np.number | np.ndarray | jax.Array)
