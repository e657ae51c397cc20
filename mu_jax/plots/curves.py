"""Curves over steps: means of several models with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mu_jax.plots._altair import ChartType, alt
from mu_jax.plots._data import constant, inline, one_each, ordered, readable, spread, words
from mu_jax.plots._finishing import finish
from mu_jax.plots.looks import Labels, color, shape
from mu_jax.plots.nothing import NothingToDraw
from mu_jax.reporting.arrays import Arrays
from mu_jax.scoring.rows import RETRAIN

MOST = 64  # points of a curve
MARKED = 6  # points of a curve that carry the shape of their method


class Panel(NamedTuple):
    """One diagram.

    title: above it. x, y: words at the axes. curves: by name, float [runs, points]. ticks: words
    in place of the numbers 0, 1, ... below the points.
    """

    title: str
    x: str
    y: str
    curves: Mapping[str, ArrayLike]
    ticks: tuple[str, ...] = ()


def panels(given: Sequence[Panel]) -> ChartType:
    """Diagrams beside one another: the mean over runs, and a band around it.

    The band is the 95 % interval of the mean (`evaluation.t_interval`), and for fewer than eight
    runs the range of the runs.

    Args:
        given: at least one.

    Returns:
        An Altair chart. Of more than 64 points a curve has 64, the first and the last among them.

    Raises:
        ValueError: curves that are not [runs, points].
        NothingToDraw: no panels, or one without curves.

    Example:
        >>> chart = panels([Panel("NLL", "steps", "nats", {"npo": [[1.0, 2.0], [3.0, 4.0]]})])
        >>> chart.to_dict()["hconcat"][0]["title"]["text"]
        'NLL'
    """
    if not given or not all(panel.curves for panel in given):
        raise NothingToDraw("Nothing to draw: expected at least one curve in every panel.")
    among = [name for panel in given for name in panel.curves]
    drawn = [_panel(panel, among, first=k == 0) for k, panel in enumerate(given)]
    names = dict.fromkeys(name for panel in given for name in panel.curves)
    described = f"{'; '.join(panel.title for panel in given)}. Curves: {words(names)}."
    chart = alt.hconcat(*drawn, spacing=24)
    return chart.properties(description=described)


def relearning(arrays: Arrays, rows: Sequence[str] | None = None) -> ChartType:
    """What a few steps of training on the forgotten bring back, beside retrained models.

    A method that forgot comes back no faster than the retrained models, whose curve and band are
    the goal.

    Args:
        arrays: of one forget set, with `relearning`.
        rows: which rows; None for all that have a curve.

    Returns:
        An Altair chart: means over models with their 95 % intervals, of few models their range. Of
        more than 64 steps it has 64, the first and the last among them.

    Raises:
        NothingToDraw: no curves, or none that are finite.
    """
    if not arrays.relearning:
        raise NothingToDraw("No relearning: no curve of it was recorded.")
    names = [n for n in ordered(rows or arrays.relearning) if n in arrays.relearning]
    data, notes, last = [], [], {}
    for name in names:
        found = arrays.relearning[name]
        values, steps = np.asarray(found.values, np.float64), np.asarray(found.steps, np.float64)
        good = readable(values)
        if not good.all():
            notes.append(f"{name}: {(~good).sum()} of {good.size} curves have NaN or infinity.")
        if good.any():
            data += _points(name, steps, values[good])
            last[name] = data[-1]["y"]
    if not data:
        raise NothingToDraw(f"No relearning: {' '.join(notes) or 'no curve of these rows.'}")
    title = next(arrays.relearning[name].title for name in names)
    if RETRAIN not in last:
        notes.insert(0, "No curve of retrained models: nothing says what is fast.")
    else:
        notes.insert(0, "Goal: the curve of retrained models. Bands: 95 % intervals or ranges.")
    notes += one_each((len(arrays.relearning[name].values) for name in last), "run")
    notes += constant(arrays, last)
    labels = Labels({name: name for name in last}, arrays.examples)
    chart = alt.layer(*_layers(data, labels, "steps of training", title)).properties(
        width=460, height=300
    )
    said = ", ".join(f"{name} {value:.3g}" for name, value in list(last.items())[:12])
    described = f"{title} over steps of relearning for {words(last)}. At the end: {said}."
    return finish(chart, "Relearning the forgotten", described, notes)


def _points(name: str, steps: np.ndarray, values: np.ndarray) -> list[dict[str, Any]]:
    """Means and ends at no more than `MOST` of the steps."""
    kept = np.unique(np.linspace(0, len(steps) - 1, min(MOST, len(steps))).round().astype(int))
    marked = set(kept[np.linspace(0, len(kept) - 1, min(MARKED, len(kept))).round().astype(int)])
    rows = []
    for k in kept:
        one = spread(values[:, k], models="runs")
        rows.append(
            {
                "row": name,
                "x": float(steps[k]),
                "y": one.mean,
                "low": one.low,
                "high": one.high,
                "what": one.what,
                **({"marked": 1} if k in marked else {}),
            }
        )
    return rows


def _layers(
    data: Sequence[Mapping[str, Any]],
    labels: Labels,
    x: str,
    y: str,
    *,
    legend: bool = True,
    ticks: Sequence[str] = (),
) -> list[Any]:
    options: dict[str, Any] = {} if legend else {"legend": None}
    hue, sign = color(labels, **options), shape(labels, **options)
    axis = alt.Axis(grid=not ticks, labelAngle=0)
    across = alt.X(
        "x:O" if ticks else "x:Q",
        title=x or None,
        axis=axis,
        **({"sort": list(ticks)} if ticks else {}),
    )
    up = alt.Y("y:Q", title=y, scale=alt.Scale(zero=False))
    base = alt.Chart(inline(data))
    tips = [
        alt.Tooltip("row:N"),
        alt.Tooltip("x:N" if ticks else "x:Q", title=x or "at"),
        alt.Tooltip("y:Q", title=y, format=".4g"),
        alt.Tooltip("low:Q", title="from", format=".4g"),
        alt.Tooltip("high:Q", title="to", format=".4g"),
        alt.Tooltip("what:N", title="which is"),
    ]
    ends = {"x": across, "y": alt.Y("low:Q"), "y2": "high", "color": hue}
    around = (
        base.mark_rule(strokeWidth=1.5, aria=False)
        if ticks
        else base.mark_area(opacity=0.16, aria=False)
    )
    return [
        around.encode(**ends),
        base.mark_line(strokeWidth=1.8, aria=False).encode(x=across, y=up, color=hue),
        base.transform_filter("datum.marked")
        .mark_point(filled=True, size=48, opacity=1)
        .encode(x=across, y=up, color=hue, shape=sign, tooltip=tips),
    ]


def _panel(panel: Panel, among: Sequence[str], *, first: bool) -> Any:
    methods, data = {}, []
    for name, given in panel.curves.items():
        values = np.asarray(given, np.float64)
        if values.ndim != 2 or not values.size:
            raise ValueError(
                f"expected values [runs, points] of {name!r}, found shape {values.shape}: stack "
                "the runs on the first axis"
            )
        if not np.isfinite(values).all():
            raise NothingToDraw(f"{panel.title}: {name!r} has values that are NaN or infinite.")
        label = f"{name} (n={len(values)})"
        methods[label] = name
        data += _points(label, np.arange(values.shape[1]), values)
    if panel.ticks:
        data = [row | {"x": panel.ticks[int(row["x"])], "marked": 1} for row in data]
    layers = _layers(
        data, Labels(methods, among), panel.x, panel.y, legend=first, ticks=panel.ticks
    )
    head = alt.TitleParams(panel.title, fontSize=13)
    width = max(200, 90 * len(panel.ticks)) if panel.ticks else 360
    return alt.layer(*layers).properties(width=width, height=280, title=head)
