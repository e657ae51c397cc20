"""How far a setting is from retraining: by oracles, or by a rule that needs none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mu_jax.reporting.records import Record

Values = Mapping[str, float]
Criterion = Callable[[Values, Values], float]


def average_gap(values: Values, reference: Values) -> float:
    """Mean distance to the reference, in points: of fractions as they are, of others relative.

    `100 / M * sum_m |value_m - reference_m|` over accuracies and the membership attack; a metric
    that leaves [0, 1], such as a squared error, counts as `|value / reference - 1|`. Lower is
    better.
    """
    gaps = []
    for name, target in reference.items():
        scale = 1.0 if name == "MIA" or name.endswith("accuracy") else max(abs(target), 1e-12)
        gaps.append(abs(values[name] - target) / scale)
    return 100.0 * float(np.mean(gaps))


def values_of(record: Record) -> dict[str, float]:
    """The metrics that are closer to retrain or further from it, those that have a value."""
    return {
        name: metric.value
        for name, metric in record.metrics.items()
        if metric.direction == "closer to retrain" and metric.value is not None
    }


def mean_of(records: Sequence[Record]) -> dict[str, float]:
    """The mean of each metric that every record has."""
    each = [values_of(record) for record in records]
    names = [name for name in each[0] if all(name in values for values in each)]
    return {name: float(np.mean([values[name] for values in each])) for name in names}


def distance(record: Record, reference: Values, criterion: Criterion) -> float:
    """The criterion of a record; infinite where it has collapsed or lacks a metric."""
    values = values_of(record)
    if record.status != "ok" or not set(reference) <= set(values):
        return math.inf
    return float(criterion(values, reference))


def without_oracles(before: Record) -> dict[str, float]:
    """What a model would score that had forgotten and kept the rest, guessed without retraining.

    The retain and test metrics stay as they are before; on the forget set the model does as on the
    test set, and the membership attack tells nothing apart (one half). That is the expectation for
    rows drawn at random from the distribution of the test set. It is wrong for a forget set of
    another distribution, such as a class: retrained models then do worse on it than on test data.
    """
    values = values_of(before)
    guess = {}
    for name in values:
        test = values.get(name.replace("forget ", "test ", 1), values[name])
        guess[name] = 0.5 if name == "MIA" else test if name.startswith("forget ") else values[name]
    return guess
