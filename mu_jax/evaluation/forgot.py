"""Whether an unlearning run forgot anything at all; a run that did nothing should not serve."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike


class NothingForgotten(NamedTuple):
    """flag: whether nothing was forgotten. reason: one sentence; empty when something was."""

    flag: bool
    reason: str


def nothing_forgotten(
    before: ArrayLike,
    after: ArrayLike,
    *,
    moved: bool,
    correct_before: ArrayLike | None = None,
    correct_after: ArrayLike | None = None,
    unretained: ArrayLike | None = None,
    kept_share: float = 0.95,
    relative_change: float = 0.01,
    scale: float = 0.01,
) -> NothingForgotten:
    """Says whether a run forgot nothing, from the model before and after on the *forget* examples.

    The first line that applies decides:

    1. No weight changed: nothing was forgotten.
    2. Of the examples whose class no retained example has, the model before was right on some:
       nothing was forgotten if the accuracy `a` on them is at least 0.95 of what it was,
       `a_after >= kept_share * a_before`. A model that never saw a class cannot name it.
    3. Otherwise nothing was forgotten if the losses stayed, `mean |l_after - l_before| <=
       relative_change * (mean l_before + scale)`. A model retrained without a few random examples
       is right on most of them, so their accuracy says nothing.

    The rule finds runs that did nothing. A run that passes may still have forgotten too little:
    compare it with retrained models.

    Args:
        before, after: losses f32[n] of the same n forget examples, in the same order.
        moved: whether a weight differs from before.
        correct_before, correct_after: bool[n], whether the class was named; None for tasks
            without classes, where line 2 does not apply.
        unretained: bool[n], whether no retained example has the class of this one; None: all False.
        kept_share: of line 2.
        relative_change, scale: of line 3; the scale is in units of the loss.

    Returns:
        `NothingForgotten(flag, reason)`, Python values.

    Raises:
        ValueError: no example, or arrays of different lengths.

    Cost:
        One pass over the arrays, on the host.

    Example:
        >>> losses, right = np.full(4, 0.2), np.full(4, True)
        >>> nothing_forgotten(losses, losses + 1.0, moved=True)
        NothingForgotten(flag=False, reason='')
        >>> nothing_forgotten(
        ...     losses, losses + 1.0, moved=True,
        ...     correct_before=right, correct_after=right, unretained=right,
        ... ).reason
        'accuracy 1.000 on 4 forgotten examples of classes that no retained one has, 1.000 before'
    """
    before, after = np.asarray(before, np.float64), np.asarray(after, np.float64)
    none = np.zeros(before.shape, bool)
    right = none if correct_before is None else np.asarray(correct_before, bool)
    still = none if correct_after is None else np.asarray(correct_after, bool)
    alone = none if unretained is None else np.asarray(unretained, bool)
    _check(before, after, right, still, alone)
    if not moved:
        return NothingForgotten(True, "no weight changed")
    if (right & alone).any():
        was, now = right[alone].mean(), still[alone].mean()
        text = f"accuracy {now:.3f} on {alone.sum()} forgotten examples of classes that no retained"
        return _said(now >= kept_share * was, f"{text} one has, {was:.3f} before")
    change, mean = np.abs(after - before).mean(), before.mean()
    text = f"the losses of {before.size} forgotten examples changed by {change:.2g} on average, "
    return _said(change <= relative_change * (mean + scale), f"{text}of {mean:.2g} before")


def _said(flag: bool, reason: str) -> NothingForgotten:
    return NothingForgotten(bool(flag), reason if flag else "")


def _check(*arrays: np.ndarray) -> None:
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1 or arrays[0].ndim != 1 or not arrays[0].size:
        raise ValueError(
            "expected losses and correctness of the same forget examples, all of shape [n], found "
            f"{', '.join(str(array.shape) for array in arrays)}; pass one value an example"
        )
