"""What `tune` returns: the chosen setting, all that were tried, and what choosing was worth."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from mu_jax._words import short
from mu_jax.reporting.floors import at_floor
from mu_jax.scoring import Score
from mu_jax.transforms import Transform

PyTree = Any
_SHOWN = 8


@dataclasses.dataclass(frozen=True)
class Trial:
    """One setting.

    Attributes:
      settings: the hyper-parameters.
      chosen_by: its distance to the oracles that choose, in points; infinite where the model
        collapsed or lacks a metric.
      reported: its distance to the other oracles; None without retrained models.
      reason: why it collapsed, or "".
    """

    settings: Mapping[str, Any]
    chosen_by: float
    reported: float | None
    reason: str = ""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Tuned:
    """The result of `mu.tune`; printed, it says what was chosen and what that is worth.

    Attributes:
      settings: the hyper-parameters that were chosen. transform: the factory's with these.
      variables: the unlearned variables of the chosen setting, NumPy arrays.
      score: the chosen setting beside doing nothing and the oracles that did not choose.
      trials: all settings, the best first by the oracles that choose.
      default: the setting to compare with, if one was given.
      floor: the distance of the reporting oracles to those that choose: below it no difference
        counts. None without retrained models.
      notes: sentences on what the numbers do not say.
    """

    settings: Mapping[str, Any]
    transform: Transform
    variables: PyTree
    score: Score
    trials: tuple[Trial, ...]
    default: Trial | None = None
    floor: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def optimism(self) -> float | None:
        """Distance on the other oracles minus that on those that chose: the part by choosing."""
        best = self.trials[0]
        return None if best.reported is None else best.reported - best.chosen_by

    def __repr__(self) -> str:
        return "\n".join([*_table(self.trials, self.settings), "", *self._sentences()])

    def _flattery(self) -> str:
        optimism = self.optimism or 0.0
        if optimism > 0:
            return f"choosing makes the setting look {optimism:.2f} better than it is"
        return "choosing has not made the setting look better than it is"

    def _sentences(self) -> list[str]:
        best, lines = self.trials[0], []
        lines.append(f"Chosen among {len(self.trials)} settings: {_words(self.settings)}")
        if best.reported is not None and self.floor is not None:
            lines.append(
                f"{best.chosen_by:.2f} points from the retrained models that chose, "
                f"{best.reported:.2f} from the others, which are {self.floor:.2f} away from those: "
                f"{self._flattery()}."
            )
            equal = sum(at_floor(one.chosen_by, self.floor) == self.floor for one in self.trials)
            if equal > 1:
                lines.append(f"{equal} settings lie below that floor and are equal.")
            if self.default is not None and self.default.reported is not None:
                gain = self.default.reported - best.reported
                lines.append(
                    f"The default {_words(self.default.settings)} is {self.default.reported:.2f} "
                    f"points away on the same models: choosing has gained {gain:.2f}."
                )
        return [*lines, *self.notes]


def _table(trials: tuple[Trial, ...], chosen: Mapping[str, Any]) -> list[str]:
    """The best settings, one a line."""
    names = list(chosen)
    head = [*names, "gap, choosing", "gap, reported"]
    rows = [
        [
            *(short(trial.settings.get(name)) for name in names),
            _number(trial.chosen_by) if not trial.reason else "collapsed",
            _number(trial.reported),
        ]
        for trial in trials[:_SHOWN]
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    lines = ["  ".join(map(str.rjust, row, widths)) for row in (head, *rows)]
    if len(trials) > _SHOWN:
        lines.append(f"and {len(trials) - _SHOWN} more")
    return lines


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if math.isfinite(value) else "none"


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={short(value)}" for name, value in settings.items())
