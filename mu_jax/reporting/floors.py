"""The floor of the average gap, below which nothing is ranked."""

from __future__ import annotations

from collections.abc import Sequence

from mu_jax.evaluation.gaps import average_gap
from mu_jax.reporting.records import Record


def at_floor(gap: float, floor: float | None) -> float:
    """What a gap counts when methods or settings are ranked: no less than the floor.

    The floor is the gap between retrained models and other retrained models. Whatever is closer
    to retraining than retraining itself is so by chance: all of it counts the same, and is ranked
    before what lies above the floor.

    Args:
        gap: average gap in points. floor: in the same points; None where it is not known.

    Example:
        >>> at_floor(0.1, 0.5), at_floor(0.4, 0.5), at_floor(0.7, 0.5), at_floor(0.1, None)
        (0.5, 0.5, 0.7, 0.1)
    """
    return gap if floor is None else max(gap, floor)


def gap_to_oracles(record: Record, names: Sequence[str] | None = None) -> float | None:
    """Average gap of a record to the retrained models that its metrics name, in points.

    `100 / M * sum_m |value_m - oracle_m|`, relative where a metric is no fraction, see
    `average_gap`. Of a record of retrained models whose
    metrics name *other* retrained models it is the floor of `at_floor`.

    Args:
        record: of one run or of N models.
        names: the metrics; None takes the fractions that are to be close to retraining.

    Returns:
        The gap; None for models that have collapsed or failed, or where a metric, its value or its
        oracle is missing.
    """
    if names is None:
        names = [
            name
            for name, metric in record.metrics.items()
            if metric.unit == "fraction" and metric.direction == "closer to retrain"
        ]
    values, targets = {}, {}
    for name in names:
        metric = record.metrics.get(name)
        oracle = metric.oracle.mean if metric is not None and metric.oracle is not None else None
        if metric is None or metric.value is None or oracle is None:
            return None
        values[name], targets[name] = metric.value, oracle
    if record.status != "ok" or not names:
        return None
    units = {name: record.metrics[name].unit for name in values}
    return float(average_gap(values, targets, units=units).value)
