"""Checks of hyper-parameters and of parameters, where they can be seen."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax.data.batches import is_concrete
from mu_jax.model import path_name


def check_range(low: float = 0.0, high: float = math.inf, **values: Any) -> None:
    """Refuse what is no number, NaN, and numbers outside `[low, high]`; a traced value passes.

    Args:
      low, high: the bounds, which are allowed.
      **values: numbers or arrays of them by name; None passes.

    Raises:
      TypeError: a truth value, a text, or another object that is no number.
      ValueError: a number that is not in the range.

    Example:
      >>> check_range(0, 1, sparsity=1.5)
      Traceback (most recent call last):
      ValueError: expected sparsity from 0 to 1, found 1.5: give a number in this range
    """
    for name, value in values.items():
        if value is None or not is_concrete(value):
            continue
        given = _real(name, value).ravel()
        bad = ~((given >= low) & (given <= high))
        if bad.any():
            bounds = f">= {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
            bounds = "as a number" if (low, high) == (-math.inf, math.inf) else bounds
            raise ValueError(
                f"expected {name} {bounds}, found {given[bad][0]:g}: give a number in this range"
            )


def check_counts(low: int = 0, **values: Any) -> None:
    """Refuse what is no whole number from `low` on; None and a traced value pass.

    Args:
      low: the least count that is allowed.
      **values: counts by name, such as `epochs` or `batch_size`.

    Raises:
      TypeError: a truth value, a text, or another object that is no number.
      ValueError: a fraction, NaN, or a number below `low`.

    Example:
      >>> check_counts(1, batch_size=0)
      Traceback (most recent call last):
      ValueError: expected batch_size as a whole number >= 1, found 0: give such a number
    """
    for name, value in values.items():
        if value is None or not is_concrete(value):
            continue
        given = _real(name, value)
        if given.shape or not float(given).is_integer() or given < low:
            raise ValueError(
                f"expected {name} as a whole number >= {low}, found {value}: give such a number"
            )


def check_repeatable(*sets: Any) -> None:
    """Refuse data that can be walked through once only.

    Raises:
      ValueError: an iterator.
    """
    for data in sets:
        if isinstance(data, Iterator):
            raise ValueError(
                "expected batches that can be walked through many times, found an iterator: give "
                "a list, Batches or a Stream"
            )


def _real(name: str, value: Any) -> np.ndarray:
    """The value in float64; refuses what numpy would read as a number though it is none."""
    kind = jnp.result_type(value) if hasattr(value, "dtype") else np.asarray(value).dtype
    if not (jnp.issubdtype(kind, jnp.floating) or jnp.issubdtype(kind, jnp.integer)):
        raise TypeError(
            f"expected {name} as a number, found {value!r} of type {type(value).__name__}: give "
            "an int, a float or an array of them"
        )
    return np.asarray(value, np.float64)


def check_params(params: Any) -> None:
    """Refuse parameters that have no real gradient, by their names.

    The gradient of a complex number points uphill only when conjugated, and its square is no
    importance, so complex parameters are refused rather than trained the wrong way.

    Raises:
      TypeError: a leaf that is complex, of integers, or no array at all (such as the functions in
        a module of equinox).
    """
    check_arrays(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        dtype = jnp.result_type(leaf)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(
                f"expected real parameters, found {dtype} {_where(path)}: keep real and imaginary "
                "part as two leaves and join them in the model, or freeze the leaf by mu.restrict"
            )
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"expected floating-point parameters, found {dtype} {_where(path)}: keep "
                "what is not trained in the state, or freeze it by mu.restrict"
            )


def check_arrays(params: Any) -> None:
    """Refuse parameters that are no arrays, such as the functions in a module of equinox.

    Raises:
      TypeError: a leaf that is no array and no number, by its name.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not hasattr(leaf, "dtype") and not isinstance(leaf, int | float | complex):
            raise TypeError(
                f"expected arrays as parameters, found {type(leaf).__name__} {_where(path)}: give "
                "the arrays alone, such as the first part of "
                "eqx.partition(module, eqx.is_inexact_array), and put them back in `predict`"
            )


def _where(path: Any) -> str:
    """The place of a leaf by its name, which a tree of one leaf does not have."""
    return f"at {path_name(path)!r}" if path_name(path) else "as the only leaf"
