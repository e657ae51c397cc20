"""Whether a model has collapsed, so that its other numbers are not to be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from mu_jax.evaluation.margins import margins
from mu_jax.evaluation.outliers import FAR, FEWEST, ensemble_distance

LOST = 0.1  # of what the ensemble knows beyond chance: a model that lost less has not collapsed


class Collapse(NamedTuple):
    """flag: whether the model collapsed. reason: one sentence; empty when it did not."""

    flag: bool
    reason: str


class EnsembleCollapse(NamedTuple):
    """The one rule for a row of N models: it has collapsed if more than half of them have.

    flag: whether the row is marked. reason: one sentence that counts the models and gives the
    first one's reason; empty when none has collapsed. models: numbers of the collapsed ones.
    total: N.
    """

    flag: bool
    reason: str
    models: tuple[int, ...]
    total: int

    @property
    def collapsed(self) -> int:
        """How many models collapsed: record it beside the flag."""
        return len(self.models)


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

    A collapsed model has forgotten everything; several forgetting metrics then look perfect. One
    model alone is measured against chance only: in an ensemble take `collapsed_models`, which also
    sees a model far from the others. The model has collapsed if any output is NaN or infinite, if
    it predicts one class for every example, or if its accuracy is at most `standard_errors`
    standard errors above chance, `a <= c + 3 sqrt(c (1 - c) / n)`. Chance is the accuracy of the
    same predictions shuffled,
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


def collapsed_models(
    outputs: ArrayLike, labels: ArrayLike, *, standard_errors: float = 3.0
) -> EnsembleCollapse:
    """Says which models of an ensemble have collapsed, and whether they are the most.

    A model has collapsed by the rule of `collapsed`, or if it is far from its own ensemble of eight
    models or more: its accuracy is more than 6 robust standard deviations below the median of the
    ensemble *and* it has lost more than a tenth of what the median knows beyond chance; or, where
    outputs are logits, its margins are further than 6 from them (`ensemble_distance`). A robust
    standard deviation is 1.4826 times the median distance from the median, at least the binomial
    one of the median accuracy.

    Args:
        outputs: logits float `[N, n, K]`, or predicted classes int `[N, n]`, on retained examples.
        labels: int `[n]`, of at least two classes.
        standard_errors: how close to chance counts as chance.

    Returns:
        `EnsembleCollapse(flag, reason, models, total)`, Python values.

    Raises:
        ValueError: as `collapsed`, or no model.

    Cost:
        A few passes over the outputs, on the host, and the medians of `ensemble_distance`.

    Example:
        >>> labels = np.arange(200) % 4
        >>> predictions = np.tile(labels, (9, 1))
        >>> predictions[2, :60] = (labels[:60] + 1) % 4
        >>> found = collapsed_models(predictions, labels)
        >>> found.flag, found.collapsed, found.models
        (False, 1, (2,))
        >>> found.reason
        '1 of 9 models collapsed, the first with retain accuracy 0.700, its ensemble 1.000'
    """
    outputs, labels = np.asarray(outputs), np.asarray(labels)
    if outputs.ndim not in (2, 3) or len(outputs) == 0:
        raise ValueError(
            f"expected logits [N, n, K] or predicted classes [N, n], found {outputs.shape}: stack "
            "the models on the first axis"
        )
    each = [collapsed(one, labels, standard_errors=standard_errors) for one in outputs]
    reasons = [found.reason or far for found, far in zip(each, _far(outputs, labels))]
    models = tuple(i for i, reason in enumerate(reasons) if reason)
    text = f"{len(models)} of {len(reasons)} models collapsed"
    return EnsembleCollapse(
        flag=2 * len(models) > len(reasons),
        reason=f"{text}, the first with {reasons[models[0]]}" if models else "",
        models=models,
        total=len(reasons),
    )


def _far(outputs: np.ndarray, labels: np.ndarray) -> Sequence[str]:
    """For each model how it is far from its ensemble; empty where it is not."""
    reasons = [""] * len(outputs)
    if len(outputs) < FEWEST:
        return reasons
    if outputs.ndim == 3:
        distance = np.asarray(ensemble_distance(margins(outputs, labels)))
        for i in np.flatnonzero(distance > FAR):
            reasons[i] = f"margins {distance[i]:.1f} robust deviations from those of its ensemble"
    predictions = outputs.argmax(-1) if outputs.ndim == 3 else outputs
    accuracy = (predictions == labels).mean(1)
    median = float(np.median(accuracy))
    typical = predictions[np.argmin(np.abs(accuracy - median))]
    chance = _accuracy_by_chance(typical, labels)
    near = (median * labels.size + 1) / (labels.size + 2)  # not 1, or its deviation would be 0
    spread = max(
        1.4826 * float(np.median(np.abs(accuracy - median))),
        float(np.sqrt(near * (1 - near) / labels.size)),
    )
    limit = min(median - FAR * spread, median - LOST * (median - chance))
    for i in np.flatnonzero(accuracy < limit):
        reasons[i] = f"retain accuracy {accuracy[i]:.3f}, its ensemble {median:.3f}"
    return reasons
