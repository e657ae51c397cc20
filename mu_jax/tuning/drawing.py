"""Settings of hyper-parameters: how a space is written, and how settings are drawn from it."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Setting = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Uniform:
    """A number between two others."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(
                f"expected low < high, both finite, found {self.low} and {self.high}; correct them"
            )

    def at(self, share: float) -> float:
        """The number at a share in [0, 1] of the way from low to high."""
        return float(self.low + share * (self.high - self.low))


@dataclasses.dataclass(frozen=True)
class Log(Uniform):
    """A positive number between two others, drawn uniformly in its logarithm."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low <= 0:
            raise ValueError(f"expected 0 < low, found {self.low}; use Uniform")

    def at(self, share: float) -> float:
        """The number at a share in [0, 1] of the way, in the logarithm."""
        return float(self.low * (self.high / self.low) ** share)


Space = Mapping[str, Uniform | Sequence[Any]]


def draw(space: Space, trials: int, seed: int) -> list[Setting]:
    """Settings of a space: the whole grid where it is small enough, else a Latin hypercube.

    Args:
      space: `Uniform(low, high)`, `Log(low, high)` or a sequence of values, by the name of the
        hyper-parameter.
      trials: the most settings. A space of sequences alone that has no more is tried whole.
      seed: of the draw.

    Returns:
      Dictionaries of hyper-parameters. Of n drawn settings each of n equal parts of every range
      holds one.

    Raises:
      ValueError: an empty space or sequence, an entry that is neither, or no trials.

    Example:
      >>> draw({"alpha": (1.5, 3.0), "dampening": [1.0]}, trials=16, seed=0)
      [{'alpha': 1.5, 'dampening': 1.0}, {'alpha': 3.0, 'dampening': 1.0}]
      >>> [round(s["rate"], 4) for s in draw({"rate": Log(1e-4, 1e-1)}, trials=3, seed=0)]
      [0.011, 0.0001, 0.0065]
    """
    _check(space, trials)
    grids = [values for values in space.values() if not isinstance(values, Uniform)]
    if len(grids) == len(space) and math.prod(map(len, grids)) <= trials:
        return [dict(zip(space, values)) for values in itertools.product(*grids)]
    numbers = np.random.default_rng(seed)
    columns = {}
    for name, values in space.items():
        shares = (numbers.permutation(trials) + numbers.random(trials)) / trials
        if isinstance(values, Uniform):
            columns[name] = [values.at(share) for share in shares]
        else:
            columns[name] = [values[int(share * len(values))] for share in shares]
    return [dict(zip(columns, values)) for values in zip(*columns.values())]


def _check(space: Space, trials: int) -> None:
    if trials < 1:
        raise ValueError(f"expected at least one trial, found {trials}; raise trials")
    if not space:
        raise ValueError(
            "expected hyper-parameters to choose among, found an empty space; name them, or take "
            "one of mu.tuning.spaces"
        )
    for name, values in space.items():
        fits = isinstance(values, Uniform) or (
            isinstance(values, Sequence) and not isinstance(values, str) and len(values)
        )
        if not fits:
            raise ValueError(
                f"expected Uniform, Log or a sequence of values for {name}, found {values!r}; "
                "write one"
            )
