"""The one check of a hyper-parameter's range, where its value can be seen."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mu_jax.data import is_concrete


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
