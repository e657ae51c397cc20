"""The first two arguments of a transform: a key where one is needed, and variables behind it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp


def check_places(key: Any, variables: Any) -> None:
    """Refuse variables in the place of the key, and the key in theirs."""
    dtype = getattr(variables, "dtype", None)
    swapped = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if swapped or not (key is None or isinstance(key, int) or hasattr(key, "dtype")):
        raise TypeError(
            f"expected a key first and the variables second, found {type(key).__name__} and "
            f"{type(variables).__name__}: call unlearn(key, variables, forget, retain)"
        )


@contextlib.contextmanager
def asking_for_key(key: Any) -> Iterator[None]:
    """Say that a method draws random numbers where it was given no key."""
    try:
        yield
    except TypeError as error:
        if (key is None or isinstance(key, int)) and "PRNG key" in str(error):
            raise TypeError(
                f"expected a key, since the method draws random numbers, found {key!r}: call "
                "unlearn(jax.random.key(0), variables, forget, retain)"
            ) from error
        raise
