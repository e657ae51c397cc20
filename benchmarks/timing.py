"""Timing alternatives in turn, so that their ratio survives a machine that is not idle."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Times(NamedTuple):
    """Seconds of every repetition of one alternative."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> str:
        return f"{min(self.seconds) * 1e3:.2f} to {max(self.seconds) * 1e3:.2f}"


def in_turn(
    alternatives: dict[str, Callable[[], Any]], *, repeats: int = 15, seconds: float = 20.0
) -> dict[str, Times]:
    """Run the alternatives in turn, A B C A B C ..., after a warm-up of each.

    Args:
      alternatives: functions without arguments; their result is waited for.
      repeats: repetitions of each at most.
      seconds: stop after so long, with at least three repetitions.
    """
    for run in alternatives.values():
        jax.block_until_ready(run())
    found: dict[str, list[float]] = {name: [] for name in alternatives}
    start = time.perf_counter()
    for repetition in range(repeats):
        if repetition >= 3 and time.perf_counter() - start > seconds:
            break
        for name, run in alternatives.items():
            began = time.perf_counter()
            jax.block_until_ready(run())
            found[name].append(time.perf_counter() - began)
    return {name: Times(values) for name, values in found.items()}


def ratios(times: dict[str, Times], base: str) -> dict[str, float]:
    """Median over repetitions of the ratio to `base`, pair by pair."""
    return {
        name: statistics.median(
            [a / b for a, b in zip(value.seconds, times[base].seconds, strict=True)]
        )
        for name, value in times.items()
    }


def table(title: str, times: dict[str, Times], base: str, goals: dict[str, float]) -> str:
    """Lines of a table: milliseconds, their spread, the ratio to `base`, and its goal."""
    found = ratios(times, base)
    lines = [f"\n{title}", f"  {'':38s} {'median ms':>10s}  {'min to max':>22s}  {'ratio':>7s}"]
    for name, value in times.items():
        goal = f"  (goal: at most {goals[name]:.3g})" if name in goals else ""
        lines.append(
            f"  {name:38s} {value.median * 1e3:10.2f}  {value.spread:>22s}  "
            f"{found[name]:7.2f}{goal}"
        )
    return "\n".join(lines)
