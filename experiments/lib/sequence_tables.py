"""The table of a sequence of requests: every row after some of the requests, with its cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mu_jax.reporting import Metric, Record
from mu_jax.scoring.ensembles import COLLAPSED
from mu_jax.scoring.rows import CONSTANT, NOTHING, RETRAIN

FRACTIONS = {
    "retain accuracy": "retain, %",
    "test accuracy": "test, %",
    "forget accuracy": "forgotten, %",
    "MIA": "membership, %",
}
KLOM = "KLoM forget p95"
_HEADS = ("request", "row", *FRACTIONS.values(), "KLoM", "floor")
HEADS = (*_HEADS, "passes", "seconds", "of retraining")


def by_request(records: Sequence[Record]) -> dict[int, dict[str, Record]]:
    """The records of a sequence by the number of the request and by row."""
    found: dict[int, dict[str, Record]] = {}
    for record in records:
        found.setdefault(record.forget_set.request, {})[record.method] = record
    return dict(sorted(found.items()))


def chosen(numbers: Sequence[int], most: int = 5) -> list[int]:
    """The first and the last of the numbers, and others at even distances between.

    Example:
        >>> chosen(range(1, 51))
        [1, 14, 26, 38, 50]
    """
    numbers = list(numbers)
    places = np.linspace(0, len(numbers) - 1, min(most, len(numbers)))
    return [numbers[place] for place in np.ceil(places).astype(int)]


def page(records: Sequence[Record]) -> str:
    """The table as Markdown: one line a row and request, and what all requests have cost.

    Of the requests after which everything was measured, five at most.
    """
    found = by_request(records)
    lines = ["| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    for number in chosen([k for k, rows in found.items() if KLOM in rows[RETRAIN].metrics]):
        rows = found[number]
        for name in rows:
            if name != CONSTANT:
                lines.append("| " + " | ".join(_cells(rows, name)) + " |")
    return "\n".join([*lines, "", *_totals(found)]) + "\n"


def _cells(rows: Mapping[str, Record], name: str) -> list[str]:
    record = rows[name]
    klom = record.metrics[KLOM]
    number = record.forget_set.request if name == RETRAIN else ""
    return [
        f"{number}",
        _label(record),
        *(_fraction(record.metrics[each]) for each in FRACTIONS),
        _number(klom),
        "" if klom.null is None else f"{klom.null:.2f}",
        "" if record.cost.forward is None else f"{record.cost.forward:,}",
        "" if name == NOTHING or record.cost.wall_s is None else f"{record.cost.wall_s:.4f}",
        _share(record.cost.wall_s, rows[RETRAIN].cost.wall_s) if name != NOTHING else "",
    ]


def _label(record: Record) -> str:
    """The row, and how many of its models have collapsed, if any has."""
    if record.status == "failed":
        return f"{record.method} (failed)"
    number = record.metrics[COLLAPSED]
    if not number.value:
        return record.method
    return f"{record.method} ({number.value:g} of {number.n} collapsed)"


def _fraction(metric: Metric) -> str:
    """A percentage and its interval."""
    return _number(metric, 100, 1)


def _number(metric: Metric, scale: float = 1, decimals: int = 2) -> str:
    """A value and its interval, as far as there are such."""
    if metric.value is None:
        return "-"
    value, low, high = (
        None if each is None else f"{scale * each:.{decimals}f}"
        for each in (metric.value, metric.low, metric.high)
    )
    return f"{value}" if low is None or high is None else f"{value} [{low}, {high}]"


def _share(part: float | None, whole: float | None) -> str:
    return f"{100 * part / whole:.0f} %" if part is not None and whole else ""


def _totals(found: Mapping[int, Mapping[str, Record]]) -> list[str]:
    """What all requests together have cost each row, as shares of retraining for each of them."""
    names = [name for name in next(iter(found.values())) if name not in (NOTHING, CONSTANT)]
    sums = {
        name: [
            sum(getattr(rows[name].cost, field) or 0 for rows in found.values())
            for field in ("forward", "wall_s")
        ]
        for name in names
    }
    lines = [f"All {len(found)} requests, as a share of retraining for each of them:", ""]
    for name in names:
        passes, seconds = (_share(a, b) for a, b in zip(sums[name], sums[RETRAIN]))
        lines.append(f"* {name}: {passes} of the passes, {seconds} of the time")
    return lines
