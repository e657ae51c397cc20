"""How much of what was lost comes back: by restoring, by relearning, by a prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from mu_jax.evaluation.intervals import t_interval

FEWEST = 20  # examples: with fewer, no interval of a ratio is given
FARTHEST = 20.0  # from the estimate: an end beyond says nothing


class Recovered(NamedTuple):
    """Result of `recovered`; low, high: a 95 % interval, or None with `no_interval`, the reason."""

    value: float
    low: float | None
    high: float | None
    no_interval: str
    n: int


def recovered(after: ArrayLike, before: ArrayLike, whole: ArrayLike) -> Recovered:
    """Fraction of a loss that comes back: 0 as before, 1 as whole, of paired examples.

    `(mean(after) - mean(before)) / (mean(whole) - mean(before))`. The interval is Fieller's,
    those fractions r for which the mean of `after - before - r (whole - before)` over the examples
    may be 0, by `t_interval`. None is given for fewer than 20 examples, or where the loss itself is
    hardly told from 0, so that the fraction may be anything.

    Args:
        after, before, whole: float `[n]`, such as correctness or `probability`, of one set of
            examples in one order.

    Returns:
        `Recovered`, Python numbers.

    Raises:
        ValueError: shapes disagree, non-finite values, or nothing lost: whole equals before.

    Example:
        >>> recovered([0.5, 0.7], [0.0, 0.2], [1.0, 1.2]).value
        0.5

    Reference:
        Fieller, "Some Problems in Interval Estimation", Journal of the Royal Statistical Society B
        1954.
    """
    sides = [np.asarray(side, np.float64) for side in (after, before, whole)]
    shapes = [side.shape for side in sides]
    if len(set(shapes)) > 1 or sides[0].ndim != 1 or not all(np.isfinite(s).all() for s in sides):
        raise ValueError(
            f"expected three finite arrays [n] of the same examples, found shapes {shapes}: score "
            "all three models, or prompts, on one set"
        )
    back, lost = sides[0] - sides[1], sides[2] - sides[1]
    if not lost.size or lost.mean() == 0:
        raise ValueError(
            "expected a whole that differs from before, found none: nothing was lost, so nothing "
            "comes back"
        )
    value = float(back.mean() / lost.mean())
    low, high, reason = _ends(back, lost)
    return Recovered(value, low, high, reason, lost.size)


def _ends(back: np.ndarray, lost: np.ndarray) -> tuple[float | None, float | None, str]:
    if lost.size < FEWEST:
        return None, None, f"of fewer than {FEWEST} examples an interval covers too little"
    estimate, sign = back.mean() / lost.mean(), np.sign(lost.mean())
    if _is_even(back - estimate * lost):
        return None, None, "all examples are alike, so an interval would have no width"
    ends = [_end(back, lost, estimate, sign, side) for side in (-1, 1)]
    if not np.isfinite(ends).all():
        return None, None, "what was lost is hardly told from 0, so the fraction may be anything"
    return ends[0], ends[1], ""


def _is_even(values: np.ndarray) -> bool:
    return bool(np.ptp(values) <= 1e-9)


def _end(back: np.ndarray, lost: np.ndarray, estimate: float, sign: float, side: int) -> float:
    """The fraction on this side of the estimate at which 0 leaves the interval of the mean."""
    from scipy.optimize import brentq

    def inside(fraction: float) -> float:
        """How far 0 is from the end of the interval that it reaches on this side."""
        values = sign * (back - fraction * lost)
        if _is_even(values):
            return side * float(values.mean())
        interval = t_interval(values)
        return interval.high if side > 0 else -interval.low

    near, step = estimate, 0.01
    while step < FARTHEST:
        far = estimate + side * step
        if inside(far) <= 0:
            return float(brentq(inside, near, far, xtol=1e-9))
        near, step = far, 2 * step
    return side * math.inf


def restoration(unlearned: ArrayLike, corrupted: ArrayLike, clean: ArrayLike) -> Recovered:
    """RESTOR: how much of the knowledge that corruption overwrote unlearning brings back.

    `(acc_unlearned - acc_corrupted) / (acc_clean - acc_corrupted)` on questions whose answers the
    corrupting documents changed: 1 is the clean model's knowledge, 0 none of it; forgetting the
    wrong fact alone gives 0. Direction: higher is better. Arguments and result: as `recovered`.

    Reference:
        Rezaei, Chandu, Feizi, Choi, Brahman, Ravichander, "RESTOR: Knowledge Recovery in Machine
        Unlearning", 2024.
    """
    return recovered(unlearned, corrupted, clean)


def in_context_recovery(
    with_context: ArrayLike, without: ArrayLike, target: ArrayLike
) -> Recovered:
    """UnUnlearning: how much a prompt that tells the facts anew brings back.

    `(acc_context - acc_plain) / (acc_target - acc_plain)` of the unlearned model, with and without
    the context, against the target without. A limit of any unlearning of weights rather than a
    fault of one method: read it beside the retrained model's own. Direction: closer to retrain.
    Arguments and result: as `recovered`.

    Reference:
        Shumailov et al., "UnUnlearning: Unlearning is not sufficient for content regulation in
        advanced generative AI", 2024.
    """
    return recovered(with_context, without, target)


def relearned(after: ArrayLike, unlearned: ArrayLike, target: ArrayLike) -> Recovered:
    """How much fine-tuning on a part of what was forgotten brings back of the rest.

    `(m_after - m_unlearned) / (m_target - m_unlearned)` on examples that the fine-tuning did not
    see. The retrained model learns from the same part too: read it beside that model's own curve.
    Direction: closer to retrain. Arguments and result: as `recovered`.
    """
    return recovered(after, unlearned, target)


def split_by_id(
    groups: ArrayLike, parts: Mapping[str, Sequence[int]], *, modulus: int = 5
) -> dict[str, np.ndarray]:
    """Parts of paired data by the remainder of a group's number: all rows of a group together.

    As OFFSIDE divides its questions by image into forget, retain, test and relearn rows, so that
    no part has seen another question about the same image.

    Args:
        groups: int `[n]`, number of the image, person or document of each row.
        parts: by name, the remainders modulo `modulus` of its groups.
        modulus: 5 in OFFSIDE.

    Returns:
        By name, i64 positions of its rows, ascending.

    Raises:
        ValueError: remainders that are no partition of 0 .. modulus - 1, or a part without rows.

    Example:
        >>> found = split_by_id([0, 0, 1, 6, 2], {"forget": [0], "retain": [1, 2]}, modulus=3)
        >>> found["forget"].tolist(), found["retain"].tolist()
        ([0, 1, 3], [2, 4])
    """
    rests = np.asarray(groups) % modulus
    named = sorted(rest for part in parts.values() for rest in part)
    if named != list(range(modulus)):
        raise ValueError(
            f"expected parts that divide the remainders 0 to {modulus - 1} between them, found "
            f"{named}: name each once"
        )
    found = {name: np.flatnonzero(np.isin(rests, part)) for name, part in parts.items()}
    empty = [name for name, rows in found.items() if not rows.size]
    if empty:
        raise ValueError(
            f"expected rows in every part, found none in {', '.join(empty)}: give its remainders "
            "to another part, or use more groups"
        )
    return found


def by_modality(values: ArrayLike, modality: Sequence[Any]) -> dict[Any, np.ndarray]:
    """Scores of rows apart by kind, such as with and without an image: values by modality.

    Args:
        values: float `[n]`. modality: n names.

    Raises:
        ValueError: another number of names.

    Example:
        >>> found = by_modality([1.0, 0.0, 0.5], ["image", "text", "image"])
        >>> {name: scores.tolist() for name, scores in found.items()}
        {'image': [1.0, 0.5], 'text': [0.0]}
    """
    scores, names = np.asarray(values), np.asarray(modality)
    if names.shape != scores.shape[:1]:
        raise ValueError(
            f"expected one modality for each of {len(scores)} rows, found {names.shape}: name the "
            "kind of every row"
        )
    return {name.item(): scores[names == name] for name in np.unique(names)}
