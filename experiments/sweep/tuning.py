"""Choosing among the settings of a search: by the average gap to retrained models."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mu_jax import evaluation
from mu_jax.reporting import Record

UNTUNED = ("retrain", "do nothing")


class Setting(NamedTuple):
    """One setting of a method and its average gap in points on every forget set, by kind."""

    method: str
    hyperparameters: Mapping[str, Any]
    gaps: Mapping[str, float]

    @property
    def gap(self) -> float:
        """Mean over the forget sets."""
        return statistics.fmean(self.gaps.values())


def gap(record: Record) -> float | None:
    """Average gap of a record to the retrained models that its metrics name, in points.

    `100 / M * sum_m |value_m - oracle_m|` over retain, forget and test accuracy and the membership
    attack: the metrics that are fractions and have the oracles' value beside them.

    Returns:
      The gap; None for models that have collapsed or where a metric is missing.
    """
    compared = {
        name: metric
        for name, metric in record.metrics.items()
        if metric.unit == "fraction" and metric.direction == "closer to retrain"
    }
    known = all(m.value is not None and m.oracle is not None for m in compared.values())
    if record.status != "ok" or not compared or not known:
        return None
    return float(
        evaluation.average_gap(
            {name: metric.value for name, metric in compared.items()},
            {name: metric.oracle.mean for name, metric in compared.items()},
        ).value
    )


def rank(records: Iterable[Record]) -> dict[str, list[Setting]]:
    """The settings of every method, the one with the smallest mean gap first.

    A setting that has collapsed, failed or lacks a metric on any forget set or with any seed, or
    that was not tried on all of them, is left out: a method may have none.

    Example:
      >>> from mu_jax.reporting import ForgetSet, Metric, Oracle
      >>> def tried(value, **fields):
      ...     metric = Metric(value, unit="fraction", oracle=Oracle(0.9))
      ...     fields = {"hyperparameters": {"alpha": value}, **fields}
      ...     return Record("ssd", ForgetSet("class 3", 9), 0, {"test accuracy": metric}, **fields)
      >>> broken = tried(0.9, status="collapsed", reason="constant predictions")
      >>> [round(setting.gap, 3) for setting in rank([tried(0.8), tried(0.85), broken])["ssd"]]
      [5.0, 10.0]
    """
    tried: dict[str, dict[str, list[Record]]] = {}
    for record in records:
        if record.method not in UNTUNED:
            point = json.dumps(dict(record.hyperparameters), sort_keys=True)
            tried.setdefault(record.method, {}).setdefault(point, []).append(record)
    return {
        method: sorted(_whole(by_point.values()), key=lambda setting: setting.gap)
        for method, by_point in tried.items()
    }


def _whole(tried: Iterable[list[Record]]) -> list[Setting]:
    tried = list(tried)
    runs = max(len({(r.forget_set, r.seed) for r in records}) for records in tried)
    found = []
    for records in tried:
        by_kind: dict[str, list[float | None]] = {}
        for record in records:
            by_kind.setdefault(record.forget_set.kind, []).append(gap(record))
        gaps = [value for values in by_kind.values() for value in values]
        if len(gaps) == runs and None not in gaps:
            means = {kind: statistics.fmean(values) for kind, values in by_kind.items()}
            found.append(Setting(records[0].method, records[0].hyperparameters, means))
    return found


def describe(ranked: Mapping[str, list[Setting]]) -> str:
    """The best setting of every method on each forget set, and the one that is chosen."""
    lines = ["Best settings by average gap to retrained models, in points (lower is better)"]
    for method, settings in ranked.items():
        if not settings:
            lines.append(f"  {method}: none, every setting collapsed or lacks a value")
            continue
        for kind in settings[0].gaps:
            best = min(settings, key=lambda setting: setting.gaps[kind])
            lines.append(
                f"  {method} on {kind}: {best.gaps[kind]:.2f} with {_words(best, settings)}"
            )
        chosen = settings[0]
        lines.append(f"  {method}, chosen: {chosen.gap:.2f} with {_words(chosen, settings)}")
    return "\n".join(lines)


def _words(setting: Setting, others: list[Setting]) -> str:
    """The hyper-parameters in which the settings differ, or all of them where there is but one."""
    values = setting.hyperparameters
    differing = [n for n in values if any(o.hyperparameters.get(n) != values[n] for o in others)]
    return " ".join(f"{name}={values[name]}" for name in differing or values) or "no arguments"
