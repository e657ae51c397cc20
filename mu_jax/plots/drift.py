"""Sequential requests: whether a method moves away from retraining, request by request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mu_jax.plots._altair import ChartType, alt
from mu_jax.plots._data import inline, ordered, spread, words
from mu_jax.plots._finishing import finish
from mu_jax.plots.looks import color, shape
from mu_jax.plots.nothing import NothingToDraw
from mu_jax.plots.theme import INK
from mu_jax.plots.tradeoff import retrained_band
from mu_jax.reporting.records import Record
from mu_jax.scoring.rows import CONSTANT, RETRAIN

REQUEST = "request"  # the hyper-parameter that numbers requests
COLUMNS = 2


def drift(records: Sequence[Record], metrics: Sequence[str] | None = None) -> ChartType:
    """How far each number is from retraining, by the number of the request, a panel a metric.

    The band is the range of the models retrained for the same request around their mean, which is
    the zero line: a method that drifts leaves it more and more. Signs are means over seeds with
    their 95 % interval, of few seeds their range; runs that collapsed or failed are left out and
    counted beneath the title.

    Args:
        records: of sequential requests. The number of a request is the hyper-parameter "request";
            where there is none, requests are numbered by the order in which their forget sets come.
        metrics: names; None takes all fractions that are to be close to retraining.

    Returns:
        An Altair chart.

    Raises:
        NothingToDraw: fewer than two requests, or no metric with the value of retrained models.
    """
    numbered = _numbered(records)
    if len(numbered) < 2:
        raise NothingToDraw(
            f"No drift: it needs two requests or more, one after another; found {len(numbered)}."
        )
    names = metrics or list(
        dict.fromkeys(
            name
            for record in records
            for name, metric in record.metrics.items()
            if metric.unit == "fraction" and metric.direction == "closer to retrain"
        )
    )
    lost: dict[str, int] = {}
    panels, labels, said = [], _labels(records), []
    for name in names:
        rows, bands = _rows(numbered, name, lost)
        if rows:
            panels.append(_panel(name, rows, bands, labels, left=len(panels) % COLUMNS == 0))
            worst = max(rows, key=lambda r: abs(r["y"]))
            said.append(
                f"{name}: farthest {worst['row']}, {worst['y']:+.2f} at request {worst['request']}."
            )
    if not panels:
        raise NothingToDraw(
            "No drift: no metric has the value of retrained models for its requests."
        )
    without = [name for name in lost if lost[name]]
    notes = [
        "Band: range of the models retrained for the same request, the goal.",
        f"Left out, collapsed or failed: {words(f'{lost[n]} of {n}' for n in without)}."
        if without
        else "",
    ]
    described = f"{len(numbered)} requests, {words(labels)}. {' '.join(said)}"
    chart = alt.concat(*panels, columns=COLUMNS, spacing=18)
    return finish(chart, "Drift over sequential requests", described, notes, width=700)


def _numbered(records: Sequence[Record]) -> dict[int, list[Record]]:
    order = {kind: k for k, kind in enumerate(dict.fromkeys(r.forget_set for r in records), 1)}
    found: dict[int, list[Record]] = {}
    for record in records:
        number = record.hyperparameters.get(REQUEST, order[record.forget_set])
        found.setdefault(int(number), []).append(record)
    return dict(sorted(found.items()))


def _labels(records: Sequence[Record]) -> dict[str, str]:
    names = ordered(r.method for r in records)
    return {name: name for name in names if name not in (RETRAIN, CONSTANT)}


def _rows(
    numbered: dict[int, list[Record]], name: str, lost: dict[str, int]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rows, bands = [], []
    for number, records in numbered.items():
        target = retrained_band(records, name)
        if target is None:
            continue
        unit = next((r.metrics[name].unit for r in records if name in r.metrics), "")
        scale = 100.0 if unit == "fraction" else 1.0
        mean, low, high = target
        bands.append(
            {"request": number, "low": (low - mean) * scale, "high": (high - mean) * scale}
        )
        for method in _labels(records):
            own = [r for r in records if r.method == method]
            lost[method] = sum(
                r.status != "ok" for rs in numbered.values() for r in rs if r.method == method
            )
            values = [r.metrics[name].value for r in own if r.status == "ok" and name in r.metrics]
            known = np.array([v for v in values if v is not None], float)
            if known.size:
                one = spread((known - mean) * scale, models="seeds")
                rows.append(
                    {
                        "row": method,
                        "request": number,
                        "y": one.mean,
                        "low": one.low,
                        "high": one.high,
                        "what": one.what,
                    }
                )
    return rows, bands


def _panel(
    name: str,
    rows: list[dict[str, Any]],
    bands: list[dict[str, Any]],
    labels: dict[str, str],
    *,
    left: bool,
) -> Any:
    x = alt.X("request:Q", title="number of the request", axis=alt.Axis(tickMinStep=1, format="d"))
    y = alt.Y("y:Q", title="minus retrained" + (" (the band is the goal)" if left else ""))
    base = alt.Chart(inline(rows))
    tips = [
        alt.Tooltip("row:N"),
        alt.Tooltip("request:Q"),
        alt.Tooltip("y:Q", title=f"{name}, minus retrained", format="+.3g"),
        alt.Tooltip("low:Q", title="from", format="+.3g"),
        alt.Tooltip("high:Q", title="to", format="+.3g"),
        alt.Tooltip("what:N", title="which is"),
    ]
    return alt.layer(
        alt.Chart(inline(bands))
        .mark_area(color=INK, opacity=0.14, aria=False)
        .encode(x=x, y=alt.Y("low:Q"), y2="high"),
        alt.Chart(inline([{"y": 0}]))
        .mark_rule(color=INK, strokeDash=[4, 3], aria=False)
        .encode(y="y:Q"),
        base.mark_rule(aria=False).encode(x=x, y=alt.Y("low:Q"), y2="high", color=color(labels)),
        base.mark_line(aria=False).encode(x=x, y=y, color=color(labels)),
        base.mark_point(filled=True, size=48, opacity=1).encode(
            x=x, y=y, color=color(labels), shape=shape(labels), tooltip=tips
        ),
    ).properties(width=290, height=190, title=alt.TitleParams(name, fontSize=12, offset=4))
