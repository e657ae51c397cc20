"""Numbers of a command line that must be above zero, for `argparse`."""

from __future__ import annotations

import argparse
import math


def count(text: str) -> int:
    """A whole number of at least 1.

    Example:
      >>> count("4")
      4
    """
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, found {text!r}")
    return number


def seconds(text: str) -> float:
    """A time above zero, and not infinite.

    Example:
      >>> seconds("0.5")
      0.5
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, found {text!r}")
    return number
