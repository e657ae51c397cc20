"""Whether a model has collapsed, so that its other numbers are not to be read."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike


class Collapse(NamedTuple):
    """flag: whether the model collapsed. reason: one sentence; empty when it did not."""

    flag: bool
    reason: str


def _check_predictions(predictions: np.ndarray, labels: np.ndarray) -> None:
    if predictions.shape != labels.shape or labels.ndim != 1:
        raise ValueError(
            f"expected logits [n, K] or predicted classes [n] and labels [n], found predictions "
            f"{predictions.shape} and labels {labels.shape}: pass one model at a time"
        )
    if not np.issubdtype(predictions.dtype, np.integer):
        raise ValueError(
            f"expected class numbers or logits [n, K], found {predictions.dtype} values: collapse "
            "is defined for classifiers"
        )
    if np.unique(labels).size < 2:
        raise ValueError(
            f"expected retained examples of at least two classes, found {np.unique(labels).size}: "
            "on one class a constant prediction cannot be told from a good one"
        )


def _accuracy_by_chance(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy if predictions were independent of labels: `sum_k P(predicted k) P(label k)`."""
    classes = np.union1d(predictions, labels)
    shares = [(values[:, None] == classes).mean(0) for values in (predictions, labels)]
    return float(shares[0] @ shares[1])


def collapsed(outputs: ArrayLike, labels: ArrayLike, *, standard_errors: float = 3.0) -> Collapse:
    """Says whether a classifier has collapsed, from its outputs on *retained* examples.

    A collapsed model has forgotten everything; several forgetting metrics then look perfect. The
    model has collapsed if any output is NaN or infinite, if it predicts one class for every
    example, or if its accuracy is at most `standard_errors` standard errors above chance,
    `a <= c + 3 sqrt(c (1 - c) / n)`. Chance is the accuracy of the same predictions shuffled,
    `c = sum_k P(predicted k) P(label k)`: 1/K for balanced labels.

    Args:
        outputs: logits float `[n, K]`, or predicted classes int `[n]`, of one model.
        labels: int `[n]`, of at least two classes.
        standard_errors: how close to chance counts as chance.

    Returns:
        `Collapse(flag, reason)`, Python values.

    Raises:
        ValueError: shapes disagree, labels of one class, or too few examples to tell.

    Cost:
        One pass over the outputs, on the host.

    Example:
        >>> labels = np.arange(100) % 4
        >>> collapsed(labels, labels)
        Collapse(flag=False, reason='')
        >>> collapsed(np.zeros(100, int), labels).reason
        'constant predictions: class 0 for all 100 retained examples'
    """
    outputs, labels = np.asarray(outputs), np.asarray(labels)
    if outputs.size == 0:
        raise ValueError("expected retained examples, found none: pass at least one of each class")
    predictions = outputs.argmax(-1) if outputs.ndim == 2 else outputs
    _check_predictions(predictions, labels)
    n = labels.size
    if outputs.ndim == 2 and not np.isfinite(outputs).all():
        broken = int((~np.isfinite(outputs).all(-1)).sum())
        return Collapse(True, f"non-finite outputs on {broken} of {n} retained examples")
    if (predictions == predictions[0]).all():
        text = f"constant predictions: class {int(predictions[0])} for all {n} retained examples"
        return Collapse(True, text)
    chance = _accuracy_by_chance(predictions, labels)
    bound = chance + standard_errors * float(np.sqrt(chance * (1 - chance) / n))
    if bound >= 1:
        raise ValueError(
            f"expected enough retained examples to tell a model from chance, found {n}: even a "
            "perfect score would be within the standard errors, so pass more examples"
        )
    found = float((predictions == labels).mean())
    if found <= bound:
        text = f"retain accuracy {found:.3f} is not {standard_errors:g} standard errors above"
        return Collapse(True, f"{text} chance ({chance:.3f}, {n} examples)")
    return Collapse(False, "")
