"""Every record as a line of a table, and all of them as JSON lines to save."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mu_jax.reporting import Metric, Record, to_json
from mu_jax.reporting.grouping import metric_kinds

MOST = 200  # lines of the table; the file that the page saves has all


class Lines(NamedTuple):
    """heads: titles of the columns. body: texts of the cells. left_out: records beyond `MOST`."""

    heads: tuple[str, ...]
    body: tuple[tuple[str, ...], ...]
    left_out: int


def record_lines(records: Sequence[Record]) -> Lines:
    """One line a record: method, seed, and each metric with n, interval, floor and oracle."""
    names = list(metric_kinds(records))
    body = tuple(
        (
            _label(record),
            str(record.seed),
            *(_text(record.metrics.get(name)) for name in names),
        )
        for record in records[:MOST]
    )
    return Lines(("method", "seed", *names), body, max(len(records) - MOST, 0))


def _label(record: Record) -> str:
    number, status = record.forget_set.request, record.status
    said = record.method if status == "ok" else f"{record.method} ({status})"
    return f"{said}, request {number}" if number else said


def _text(metric: Metric | None) -> str:
    if metric is None:
        return "not recorded"
    if metric.value is None:
        return f"missing: {metric.reason}"
    parts = [f"{metric.value:.6g}"]
    if metric.low is not None and metric.high is not None:
        parts.append(f"[{metric.low:.6g}, {metric.high:.6g}]")
    if metric.stderr is not None:
        parts.append(f"± {metric.stderr:.3g}")
    if metric.n is not None:
        parts.append(f"n = {metric.n}")
    if metric.null is not None:
        parts.append(f"floor {metric.null:.6g}")
    if metric.oracle is not None and metric.oracle.mean is not None:
        parts.append(f"retrained {metric.oracle.mean:.6g}")
    return ", ".join(parts)


def as_json_lines(records: Sequence[Record]) -> str:
    """The records as the file that `reporting.read` reads."""
    return "".join(to_json(record) + "\n" for record in records)
