"""Checks of hyper-parameters and of parameters, where they can be seen."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax.data.batches import is_concrete
from mu_jax.model import path_name


def check_range(low: float = 0.0, high: float = math.inf, **values: Any) -> None:
    """Refuse numbers outside `[low, high]`, and NaN; a traced value cannot be seen and passes.

    Args:
      low, high: the bounds, which are allowed.
      **values: numbers or arrays of them by name; None passes.

    Raises:
      ValueError: a number that is not in the range.

    Example:
      >>> check_range(0, 1, sparsity=1.5)
      Traceback (most recent call last):
      ValueError: expected sparsity from 0 to 1, found 1.5: give a number in this range
    """
    for name, value in values.items():
        if value is None or not is_concrete(value):
            continue
        given = np.asarray(value, np.float64).ravel()
        bad = ~((given >= low) & (given <= high))
        if bad.any():
            bounds = f">= {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
            raise ValueError(
                f"expected {name} {bounds}, found {given[bad][0]:g}: give a number in this range"
            )


def check_params(params: Any) -> None:
    """Refuse parameters that have no real gradient, by their names.

    The gradient of a complex number points uphill only when conjugated, and its square is no
    importance, so complex parameters are refused rather than trained the wrong way.

    Raises:
      TypeError: a leaf that is complex, of integers, or no array at all (such as the functions in
        a module of equinox).
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not hasattr(leaf, "dtype") and not isinstance(leaf, int | float | complex):
            raise TypeError(
                f"expected arrays as parameters, found {type(leaf).__name__} at "
                f"{path_name(path)!r}: give the arrays alone, such as the first part of "
                "eqx.partition(module, eqx.is_inexact_array), and put them back in `predict`"
            )
        dtype = jnp.result_type(leaf)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(
                f"expected real parameters, found {dtype} at {path_name(path)!r}: keep real and "
                "imaginary part as two leaves and join them in the model, or freeze the leaf by "
                "mu.restrict"
            )
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"expected floating-point parameters, found {dtype} at {path_name(path)!r}: keep "
                "what is not trained in the state, or freeze it by mu.restrict"
            )
