"""The gate: bounds on what is measured of a new version, and a sentence for each that it misses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal, NamedTuple


class Bound(NamedTuple):
    """measure: by its name among those measured. side: which side of the threshold is good.

    optional: whether the bound holds only where the measure is there.
    """

    measure: str
    side: Literal["at least", "at most"]
    optional: bool = False


BOUNDS = {
    "retain_accuracy": Bound("retain accuracy", "at least"),
    "test_accuracy": Bound("test accuracy", "at least"),
    "retain_error": Bound("retain squared error", "at most"),
    "membership": Bound("membership", "at most"),
    "oracle_gap": Bound("oracle gap", "at most", optional=True),
}
_ATTACK = "MIA"  # accuracy of an attack: 0.3 tells members as well as 0.7 does


class Verdict(NamedTuple):
    """Whether a version may serve.

    Attributes:
        reasons: why it may not, a sentence without its end for each bound that it misses.
    """

    reasons: tuple[str, ...]

    @property
    def passes(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.reasons

    @property
    def sentence(self) -> str:
        """All reasons in one sentence; "" if it passes."""
        return "; ".join(self.reasons)


@dataclasses.dataclass(frozen=True)
class Gate:
    """What is asked of a version before it serves; a threshold of None asks nothing.

    A measure that is not there, or is not finite, does not pass a bound on it: a failed measure is
    no good one. Only the distance to oracles is asked where there are oracles, and nowhere else.

    Attributes:
        retain_accuracy, test_accuracy: the least accuracy on these sets, from 0 to 1.
        retain_error: the largest mean squared error on the retain set, of a regression.
        membership: the largest `max(a, 1 - a)`, from 0.5 to 1, where `a` is the accuracy of the
            attack `"MIA"`, forget against test. When a class is forgotten, retraining has a high
            one too: see what `experiments.evaluate` says of a retrained model.
        oracle_gap: the largest `"oracle gap"`, from 0 to 1: the mean absolute difference of
            accuracies to models that were retrained for the same request.

    Raises:
        ValueError: a threshold that is no number or out of its range.

    Example:
        >>> gate = Gate(retain_accuracy=0.95, membership=0.6)
        >>> gate.judge({"retain accuracy": 0.97, "MIA": 0.52}).passes
        True
        >>> gate.judge({"retain accuracy": 0.91, "MIA": 0.3}).sentence
        'retain accuracy 0.91, at least 0.95 is asked; membership 0.7, at most 0.6 is asked'
        >>> gate.judge({"retain accuracy": 0.97}).sentence
        'membership was not measured, at most 0.6 is asked'
        >>> gate.thresholds
        {'retain accuracy': 'at least 0.95', 'membership': 'at most 0.6'}
    """

    retain_accuracy: float | None = None
    test_accuracy: float | None = None
    retain_error: float | None = None
    membership: float | None = None
    oracle_gap: float | None = None

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            least, most = {
                "membership": (0.5, 1.0),
                "retain_error": (0.0, math.inf),
            }.get(name, (0.0, 1.0))
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (number and least <= value <= most):
                raise ValueError(
                    f"expected a number from {least:g} to {most:g} for {name} of a gate, found "
                    f"{value!r}; correct it"
                )

    @property
    def thresholds(self) -> dict[str, str]:
        """What is asked, by the name of the measure, as certificates say it."""
        return {
            BOUNDS[name].measure: f"{BOUNDS[name].side} {value:g}"
            for name, value in dataclasses.asdict(self).items()
            if value is not None
        }

    def judge(self, measured: Mapping[str, float], withheld: str = "") -> Verdict:
        """Whether a version may serve.

        Args:
            measured: numbers by name, as `mu.score` names them.
            withheld: what else speaks against it, such as that it collapsed or forgot nothing.

        Returns:
            A `Verdict` with all reasons, `withheld` first.
        """
        found = with_membership(measured)
        missed = (
            _missed(BOUNDS[name], value, found.get(BOUNDS[name].measure))
            for name, value in dataclasses.asdict(self).items()
            if value is not None
        )
        return Verdict(tuple(filter(None, (withheld, *missed))))


def with_membership(measured: Mapping[str, float]) -> dict[str, float]:
    """The measures, and how well an attack tells members: `max(a, 1 - a)` of its accuracy."""
    found = dict(measured)
    if (attack := found.get(_ATTACK)) is not None:
        found.setdefault("membership", round(max(attack, 1 - attack), 12))
    return found


def _missed(bound: Bound, threshold: float, value: float | None) -> str:
    """Why a measure misses its bound; "" if it does not."""
    asked = f"{bound.side} {threshold:g} is asked"
    if value is None:
        return "" if bound.optional else f"{bound.measure} was not measured, {asked}"
    good = value >= threshold if bound.side == "at least" else value <= threshold
    return "" if math.isfinite(value) and good else f"{bound.measure} {value:.4g}, {asked}"
