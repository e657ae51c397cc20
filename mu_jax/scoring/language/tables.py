"""What every table of language models is made of: rows, means with intervals, the yardstick."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from jax.typing import ArrayLike

from mu_jax import evaluation
from mu_jax.reporting.records import Metric, missing
from mu_jax.scoring.rows import beside

RETRAIN = "retrain"
Row = dict[str, Metric]
Table = dict[str, Row]
Log = TypeVar("Log")


def mean_metric(values: ArrayLike, **fields: Any) -> Metric:
    """The mean of values by example with its 95 % interval, or the reason why there is none.

    Values of 0 and 1 alone get the exact binomial interval, others `t_interval`.
    """
    numbers = np.asarray(values, np.float64)
    if not numbers.size or not np.isfinite(numbers).all():
        bad = int((~np.isfinite(numbers)).sum())
        return missing(f"{bad} of {numbers.size} values are not finite", **fields)
    if np.isin(numbers, (0, 1)).all():
        ends = ends_of(lambda: evaluation.clopper_pearson(int(numbers.sum()), numbers.size))
    else:
        ends = ends_of(lambda: evaluation.t_interval(numbers))
    return Metric(float(numbers.mean()), n=numbers.size, **ends, **fields)


def ends_of(interval: Callable[[], evaluation.Interval]) -> dict[str, Any]:
    """Fields of a `Metric`: the ends of an interval, or the sentence why there is none."""
    try:
        found = interval()
    except ValueError as error:
        return {"no_interval": str(error)}
    return {"low": found.low, "high": found.high}


def logs_of(models: Mapping[str, Log], retrained: Log | Sequence[Log]) -> dict[str, list[Log]]:
    """Logs by row, the retrained ones last; several are a list or a tuple that is no log."""
    given: Any = retrained
    several = isinstance(given, list) or type(given) is tuple
    found = list(given) if several else [given]
    if not found or found[0] is None:
        raise ValueError(
            "expected the log of at least one retrained model, found none: without it nobody can "
            "say whether these numbers are good"
        )
    if RETRAIN in models:
        raise ValueError(
            f"expected no row {RETRAIN!r} among the models, found one: give its log as retrained="
        )
    return {**{name: [log] for name, log in models.items()}, RETRAIN: found}


def table_of(logs: Mapping[str, list[Log]], measure: Callable[[Log], Row]) -> Table:
    """The row of every model, with the retrained models' mean and range beside every number."""
    oracles = [measure(log) for log in logs.get(RETRAIN, [])]
    rows = {name: measure(found[0]) for name, found in logs.items() if name != RETRAIN}
    if oracles:
        rows[RETRAIN] = oracles[0]
    return {row: _beside(metrics, oracles) for row, metrics in rows.items()}


def _beside(metrics: Row, oracles: Sequence[Row]) -> Row:
    return {
        name: beside(metric, [row[name].value for row in oracles])
        for name, metric in metrics.items()
    }
