"""What each number of a table means and how it is read, in words."""

from __future__ import annotations

import re
from typing import NamedTuple

from mu_jax.reporting import Column, Metric


class Definition(NamedTuple):
    """title: the column. what: the quantity. how: its direction and target. unit: of the cells."""

    title: str
    what: str
    how: str
    unit: str


_SETS = {
    "forget": "the examples that were to be forgotten",
    "retain": "the training examples that stay",
    "test": "unseen examples of the classes that stay",
}
# The first pattern that the name of a metric matches, and the sentence; {set} says which examples.
_SENTENCES = (
    (
        r"KLoM (?P<set>\w+) p95",
        "KL divergence of margins (KLoM): for every example, the divergence between the margins of "
        "retrained and of unlearned models; here its 95th percentile over {set}.",
    ),
    (r"(?P<set>forget|retain|test) accuracy", "The share of right predictions on {set}."),
    (r"(?P<set>forget|retain|test) loss", "The mean loss on {set}."),
    (r"(?P<set>forget|retain|test) squared error", "The mean squared error on {set}."),
    (r"forget loss before", "The mean loss on the forget set before unlearning."),
    (
        r"MIA",
        "Membership inference: the accuracy of an attack that tells forgotten from unseen examples "
        "by their losses. 50 % is guessing; retrained models say what can be reached.",
    ),
    (
        r"collapsed models",
        "How many models of the row predict a constant or are no better than chance on the retain "
        "set. A row with more than half of them is grey and has no rank.",
    ),
    (
        r"average gap",
        "The mean distance from retraining over the fractions that are to be close to it, in "
        "percentage points. Rows below the gap of retrained models among themselves are equal.",
    ),
    (
        r"run time",
        "Wall-clock time of the method for one model, without compilation and evaluation; "
        "precomputation that later requests share stands apart.",
    ),
    (r"compile time", "Seconds of compilation, apart from the run time."),
    (r"precomputation", "Seconds of work that later requests share, apart from the run time."),
    (r"peak memory", "The most memory that was in use."),
    (r"of retraining", "The run time as a share of the time that retraining takes."),
    (r"utility", "Accuracy on test examples."),
    (
        r"forgetting score",
        "How far the accuracy of a membership attack is from guessing; see the accuracy's floor.",
    ),
    (r"NoMUS", "Utility and forgetting, by a membership attack, in one number."),
    (r"W1 to retrained", "Wasserstein distance of the predictions from those of retrained models."),
    (r"paired distance", "Mean distance of predictions from those of the retrained model."),
    (r"relearn steps", "Steps of training until the forgotten examples are known again."),
    (r"AIN", "Anamnesis index: relearning steps as a share of those of a retrained model."),
    (r"(?P<set>.*) MAE", "Mean absolute error on {set}."),
)


def define(column: Column, metric: Metric | None) -> Definition:
    """The definition of a column; `metric` is one of its values, None for a cost or a gap.

    Example:
        >>> from mu_jax.reporting import Column
        >>> define(Column("retain accuracy", "%"), Metric(0.9, unit="fraction")).what
        'The share of right predictions on the training examples that stay.'
    """
    return Definition(column.name, _what(column.name), _how(column, metric), _unit(column, metric))


def _what(name: str) -> str:
    for pattern, sentence in _SENTENCES:
        if match := re.fullmatch(pattern, name):
            which = match.groupdict().get("set", "")
            return sentence.format(set=_SETS.get(which, which))
    return f"A metric of this run's own, recorded under the name “{name}”."


def _how(column: Column, metric: Metric | None) -> str:
    if metric is None:
        return "Lower is better."
    if metric.direction == "closer to retrain":
        return (
            "Closer to the retrained models is better, neither higher nor lower: their value is "
            "the target. Sorted by the distance from it."
        )
    if metric.null is None:
        return f"{metric.direction.capitalize()}."
    return (
        f"{metric.direction.capitalize()}, down to the floor that retrained models reach by chance."
        if metric.direction == "lower is better"
        else "Higher is better, up to the value of a perfect unlearner."
    )


def _unit(column: Column, metric: Metric | None) -> str:
    unit = column.note.split(",")[0] if metric is None else metric.unit
    return {"fraction": "%", "": "none"}.get(unit, unit)
