"""Flags of numbers that must be above zero, required unless they have a default."""

from __future__ import annotations

import math

from absl import flags

_LONGEST = 366 * 24 * 3600  # timers of the system take no more than some years


def define_count(
    values: flags.FlagValues,
    name: str,
    help_string: str,
    default: int | None = None,
    *,
    most: int = _LONGEST,
) -> flags.FlagHolder:
    """Define a whole number from 1 to `most`, which also a timer takes as seconds."""
    return flags.DEFINE_integer(
        name,
        default,
        help_string,
        lower_bound=1,
        upper_bound=most,
        required=default is None,
        flag_values=values,
    )


def define_seconds(values: flags.FlagValues, name: str, help_string: str) -> flags.FlagHolder:
    """Define a time above zero, and not infinite."""
    holder = flags.DEFINE_float(name, None, help_string, required=True, flag_values=values)
    flags.register_validator(
        name,
        lambda seconds: seconds is None or 0 < seconds < math.inf,
        message="it is no time above 0 s",
        flag_values=values,
    )
    return holder
