"""How far a setting is from retraining: by oracles, or by a rule that needs none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mu_jax.evaluation import gaps
from mu_jax.reporting.records import Record


class Measured(float):
    """A number that knows its unit: "fraction", or another that `reporting.Metric.unit` names."""

    unit: str

    def __new__(cls, value: float, unit: str) -> Measured:
        """The number in that unit."""
        self = super().__new__(cls, value)
        self.unit = unit
        return self


Values = Mapping[str, Measured]
Criterion = Callable[[Values, Values], float]


def average_gap(values: Values, reference: Values) -> float:
    """The average gap over the metrics of the reference, see `mu.evaluation.average_gap`."""
    units = {name: target.unit for name, target in reference.items()}
    return float(gaps.average_gap(values, reference, tuple(reference), units=units).value)


def values_of(record: Record) -> dict[str, Measured]:
    """The metrics that are to be close to those of retrained models, where they have a value."""
    return {
        name: Measured(metric.value, metric.unit)
        for name, metric in record.metrics.items()
        if metric.direction == "closer to retrain" and metric.value is not None
    }


def mean_of(records: Sequence[Record]) -> dict[str, Measured]:
    """The mean of each metric that every record has."""
    each = [values_of(record) for record in records]
    return {
        name: Measured(float(np.mean([values[name] for values in each])), first.unit)
        for name, first in each[0].items()
        if all(name in values for values in each)
    }


def distance(record: Record, reference: Values, criterion: Criterion) -> float:
    """The criterion of a record; infinite where it has collapsed or lacks a metric."""
    values = values_of(record)
    if record.status != "ok" or not set(reference) <= set(values):
        return math.inf
    return float(criterion(values, reference))


def without_oracles(before: Record) -> dict[str, Measured]:
    """The metrics of a model that has forgotten the set and kept the rest, guessed by a rule.

    The retain and test metrics stay as they are before; on the forget set the model does as on the
    test set, and the membership attack tells nothing apart (one half). That is the expectation for
    rows drawn at random from the distribution of the test set. It is wrong for a forget set of
    another distribution, such as a class: retrained models then do worse on it than on test data.
    """
    values = values_of(before)
    guess = {}
    for name in values:
        test = values.get(name.replace("forget ", "test ", 1), values[name])
        guess[name] = test if name.startswith("forget ") else values[name]
    if "MIA" in guess:
        guess["MIA"] = Measured(0.5, guess["MIA"].unit)
    return guess
