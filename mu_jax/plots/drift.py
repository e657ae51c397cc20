"""Sequential requests: whether a method moves away from retraining, request by request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mu_jax.plots._altair import ChartType, alt
from mu_jax.plots._data import Spread, inline, ordered, spread, words
from mu_jax.plots._finishing import finish
from mu_jax.plots.looks import Labels, color, shape
from mu_jax.plots.nothing import NothingToDraw
from mu_jax.plots.theme import INK
from mu_jax.plots.tradeoff import retrained_band
from mu_jax.reporting.records import Metric, Record
from mu_jax.scoring.rows import RETRAIN

COLUMNS = 2
KLOM = "KLoM forget p95"
COST = "run time"
FAR = 25.0  # points from retraining, beyond which the axis is logarithmic further out
MANY = 12  # requests, beyond which intervals are bands and signs are small
_BROKEN = "M-1,-1L1,1M-1,1L1,-1"  # a cross, as a path of Vega
Numbered = dict[int, list[Record]]


class _Panel(NamedTuple):
    """title, y: words. rows: of the methods. bands: of retrained models. scale: of the axis."""

    title: str
    y: str
    rows: list[dict[str, Any]]
    bands: list[dict[str, Any]]
    scale: str = "linear"


def drift(records: Sequence[Record], metrics: Sequence[str] | None = None) -> ChartType:
    """How far each number is from retraining, by the number of the request, a panel a metric.

    Fractions are minus the mean of the models retrained for the same request, whose range is the
    band around the zero line; KLoM is minus its floor, which is what retrained models score. A
    method that drifts leaves the band more and more. The last panel has the run time of each
    request as a share of that of retraining. Signs are means over models with the 95 % interval
    that a record has, of several records over their seeds, of few seeds their range; with more than
    12 requests intervals are bands. Rows that collapsed are crosses, which no line joins; what
    failed or has no value is counted beneath the title. Beyond 25 points the axis is logarithmic.

    Args:
        records: of sequential requests. The number of a request is that of its forget set; where
            there is none, requests are numbered by the order in which their forget sets come.
        metrics: names; None takes all fractions that are to be close to retraining, KLoM of what
            was forgotten, and the run time ("run time").

    Returns:
        An Altair chart.

    Raises:
        NothingToDraw: fewer than two requests, or no metric with the value of retrained models.
    """
    numbered = by_request(records)
    if len(numbered) < 2:
        raise NothingToDraw(
            f"No drift: it needs two requests or more, one after another; found {len(numbered)}."
        )
    panels = [_panel(numbered, name) for name in metrics or _names(records)]
    panels = [panel for panel in panels if panel.rows]
    if not panels:
        raise NothingToDraw(
            "No drift: no metric has the value of retrained models for its requests."
        )
    labels, many = _labels(records), len(numbered) > MANY
    drawn = [_draw(p, labels, left=k % COLUMNS == 0, many=many) for k, p in enumerate(panels)]
    described = f"{len(numbered)} requests, {words(labels)}. {' '.join(map(_worst, panels))}"
    notes = ["Band: range of the models retrained for the same request, the goal."]
    chart = alt.concat(*drawn, columns=COLUMNS, spacing=18)
    notes += list(_broken(numbered))
    return finish(chart, "Drift over sequential requests", described, notes, width=700)


def by_request(records: Sequence[Record]) -> Numbered:
    """The records of every request, by its number."""
    order = {one: k for k, one in enumerate(dict.fromkeys(r.forget_set for r in records), 1)}
    found: Numbered = {}
    for record in records:
        number = record.forget_set.request or order[record.forget_set]
        found.setdefault(number, []).append(record)
    return dict(sorted(found.items()))


def _names(records: Sequence[Record]) -> list[str]:
    """The metrics that are drawn unless others are asked for."""
    found = {name: m for record in records for name, m in record.metrics.items()}
    fractions = (
        name
        for name, metric in found.items()
        if metric.unit == "fraction" and metric.direction == "closer to retrain"
    )
    return [*fractions, *([KLOM] if KLOM in found else []), COST]


def _labels(records: Sequence[Record]) -> Labels:
    names = ordered(r.method for r in records)
    return Labels({name: name for name in names if name != RETRAIN}, (r.method for r in records))


def _panel(numbered: Numbered, name: str) -> _Panel:
    if name == COST:
        return _Panel(f"{COST} of a request", "% of retraining", _costs(numbered), [], "log")
    rows: list[dict[str, Any]] = []
    bands: list[dict[str, Any]] = []
    floor = False
    for number, records in numbered.items():
        found = [r.metrics[name] for r in records if name in r.metrics]
        goal = _goal(records, found, name)
        if goal is None:
            continue
        floor = found[0].null is not None
        scale = 100.0 if found[0].unit == "fraction" else 1.0
        mean, low, high = goal
        bands.append(
            {"request": number, "low": (low - mean) * scale, "high": (high - mean) * scale}
        )
        for method in _labels(records):
            own = [r for r in records if r.method == method and r.status != "failed"]
            for state in ("ok", "collapsed"):
                some = [r.metrics[name] for r in own if r.status == state and name in r.metrics]
                if known := [metric for metric in some if metric.value is not None]:
                    row = {"row": method, "request": number, "state": state}
                    rows.append(row | _ends(_spread(known), mean, scale))
    y = "minus the floor" if floor else "minus retrained"
    wide = max((abs(row["y"]) for row in rows), default=0.0) > FAR
    return _Panel(name, y, rows, bands, "symlog" if wide else "linear")


def _goal(
    records: list[Record], found: list[Metric], name: str
) -> tuple[float, float, float] | None:
    """The value of retrained models and its ends: the floor where there is one, else their band."""
    floors = [metric.null for metric in found if metric.null is not None]
    return (floors[0],) * 3 if floors else retrained_band(records, name)


def _spread(known: Sequence[Metric]) -> Spread:
    """Of one record the interval that it has, of several the one over seeds."""
    values, one = [float(metric.value or 0.0) for metric in known], known[0]
    if len(known) > 1 or one.low is None or one.high is None:
        return spread(values, models="seeds")
    what = f"95 % interval over {one.n} models"
    return Spread(values[0], one.low, one.high, one.n or 1, what)


def _ends(one: Spread, goal: float, scale: float) -> dict[str, Any]:
    y, low, high = ((value - goal) * scale for value in one[:3])
    return {"y": y, "low": low, "high": high, "what": one.what}


def _costs(numbered: Numbered) -> list[dict[str, Any]]:
    """The run time of every request as a percentage of that of retraining for the same request."""
    rows = []
    for number, records in numbered.items():
        times: dict[str, list[float]] = {}
        for record in records:
            if record.cost.wall_s:
                times.setdefault(record.method, []).append(record.cost.wall_s)
        whole = times.pop(RETRAIN, [])
        for method in (name for name in _labels(records) if whole and name in times):
            share = 100 * float(np.mean(times[method]) / np.mean(whole))
            row = {"row": method, "request": number, "state": "ok", "what": "mean of the models"}
            rows.append(row | {"y": share, "low": share, "high": share})
    return rows


def _worst(panel: _Panel) -> str:
    """In words what lies farthest from retraining; of the run time the mean share of each row."""
    if panel.scale == "log":
        names = dict.fromkeys(row["row"] for row in panel.rows)
        means = {n: np.mean([r["y"] for r in panel.rows if r["row"] == n]) for n in names}
        said = words(f"{name} {mean:.3g} %" for name, mean in means.items())
        return f"{panel.title}, of retraining: {said}."
    worst = max(panel.rows, key=lambda row: abs(row["y"]))
    where = f"{worst['row']}, {worst['y']:+.2f} at request {worst['request']}"
    return f"{panel.title}: farthest {where}."


def _broken(numbered: Numbered) -> Iterator[str]:
    """Sentences on what collapsed, and on what is not drawn."""
    collapsed: dict[str, list[int]] = {}
    lost: dict[str, int] = {}
    for number, records in numbered.items():
        for record in records:
            if record.method not in _labels(records):
                continue
            without = not any(metric.value is not None for metric in record.metrics.values())
            if record.status == "failed" or without:
                lost[record.method] = lost.get(record.method, 0) + 1
            elif record.status == "collapsed":
                collapsed.setdefault(record.method, []).append(number)
    if collapsed:
        said = words(
            f"{name} at {len(set(found))} of {len(numbered)} requests, first at {found[0]}"
            for name, found in collapsed.items()
        )
        yield f"Crosses, collapsed: {said}."
    if lost:
        said = words(f"{count} of {name}" for name, count in lost.items())
        yield f"Left out, failed or without a value: {said}."


def _draw(panel: _Panel, labels: Labels, *, left: bool, many: bool) -> Any:
    x = alt.X(
        "request:Q",
        scale=alt.Scale(zero=False, nice=False, padding=12),
        title="number of the request",
        axis=alt.Axis(tickMinStep=1, format="d"),
    )
    scale = alt.Undefined if panel.scale == "linear" else alt.Scale(type=panel.scale)
    goal = " (the band is the goal)" if left and panel.bands else ""
    y = alt.Y("y:Q", title=panel.y + goal, scale=scale)
    fine, broken = (_of_state(panel, state) for state in ("ok", "collapsed"))
    tips = [
        *(alt.Tooltip("row:N"), alt.Tooltip("request:Q"), alt.Tooltip("state:N")),
        alt.Tooltip("y:Q", title=f"{panel.title}, {panel.y}", format="+.3g"),
        *(alt.Tooltip("low:Q", title="from"), alt.Tooltip("high:Q", title="to")),
        alt.Tooltip("what:N", title="which is"),
    ]
    ends = {"x": x, "y": alt.Y("low:Q"), "y2": "high", "color": color(labels)}
    zero = 100.0 if panel.scale == "log" else 0.0
    layers = [
        alt.Chart(inline([{"y": zero}]))
        .mark_rule(color=INK, strokeDash=[4, 3], aria=False)
        .encode(y="y:Q")
    ]
    signs = {"x": x, "y": y, "color": color(labels), "tooltip": tips}
    if fine is not None:
        spans = fine.mark_area(opacity=0.18, aria=False) if many else fine.mark_rule(aria=False)
        points = fine.mark_point(filled=True, size=14 if many else 48, opacity=1)
        layers += [
            spans.encode(**ends),
            fine.mark_line(aria=False).encode(x=x, y=y, color=color(labels)),
            points.encode(**signs, shape=shape(labels)),
        ]
    if broken is not None:
        crosses = broken.mark_point(shape=_BROKEN, size=24, strokeWidth=1.5, opacity=1)
        layers.append(crosses.encode(**signs))
    bands = [_band(panel, x)] if panel.bands else []
    title = alt.TitleParams(panel.title, fontSize=12, offset=4)
    return alt.layer(*bands, *layers).properties(width=280, height=190, title=title)


def _of_state(panel: _Panel, state: str) -> Any:
    """A chart of the rows of a state; None without any, of which no extent is known."""
    rows = [row for row in panel.rows if row["state"] == state]
    return alt.Chart(inline(rows)) if rows else None


def _band(panel: _Panel, x: Any) -> Any:
    """The range of retrained models."""
    return (
        alt.Chart(inline(panel.bands))
        .mark_area(color=INK, opacity=0.14, aria=False)
        .encode(x=x, y=alt.Y("low:Q"), y2="high")
    )
