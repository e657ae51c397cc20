"""Histograms of losses: before, after, and of retrained models, on a logarithmic axis of counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mu_jax.plots._altair import ChartType, alt
from mu_jax.plots._data import finite_rows, inline, one_each, ordered, words
from mu_jax.plots._finishing import finish
from mu_jax.plots.looks import Look, look_of
from mu_jax.plots.theme import INK, SOFT
from mu_jax.reporting.arrays import Arrays, Examples
from mu_jax.scoring.rows import NOTHING, RETRAIN

BINS = 30
COLUMNS = 3


def losses(arrays: Arrays, rows: Sequence[str] | None = None) -> ChartType:
    """Losses on the forget set before, after and of retrained models, a panel a row of models.

    Bars count the forget examples of a model whose loss is in a bin, a mean over the models. The
    dashed line counts test examples, scaled to as many. The line with a band in every panel is the
    goal: the forget examples of retrained models, their mean and the 2.5th to the 97.5th percentile
    over models.

    Args:
        arrays: of one forget set, with losses on "forget".
        rows: which rows, in order; None takes the untouched model, the methods, then retrained.

    Returns:
        An Altair chart, three panels a line. Losses are binned to 30 bins that all panels share,
        equally spaced in `log(1 + loss / c)`, c the median loss; no number of an example is
        embedded.

    Raises:
        NothingToDraw: no row has finite losses.
    """
    if rows is None:
        rows = _before_after(arrays)
    sets = ["forget", "test"] if _has_test(arrays, rows) else ["forget"]
    found, notes = finite_rows(arrays, "losses", sets, rows)
    target = found.get(RETRAIN)
    if target is None and RETRAIN in arrays.examples:
        target = finite_rows(arrays, "losses", sets, [RETRAIN])[0][RETRAIN]
    shown = {row: found[row] for row in rows if row in found}
    everything = [
        part
        for parts in [*shown.values(), *([target] if target else [])]
        for part in parts.values()
    ]
    center = _center(everything)
    edges = _edges(everything, center)
    panels = [
        _panel(row, look_of(arrays, row), parts, target, edges, center, left=k % COLUMNS == 0)
        for k, (row, parts) in enumerate(shown.items())
    ]
    members = next(iter(shown.values()))["forget"].losses.shape[1]
    notes = [
        f"Bars: {members:,} forget examples, mean over models."
        + (" Dashed: test examples, scaled to as many." if "test" in sets else "")
        + (
            " Line with band: those of retrained models, the goal."
            if target is not None
            else " No retrained models: nothing says where the bars should be."
        ),
        *one_each(len(parts["forget"].losses) for parts in shown.values()),
        *notes,
    ]
    medians = ", ".join(
        f"{row} {np.median(parts['forget'].losses):.3g}" for row, parts in list(shown.items())[:12]
    )
    described = (
        f"Histograms of the loss on forget examples for {words(shown)}. Median losses: {medians}."
    )
    chart = alt.concat(*panels, columns=COLUMNS, spacing=14)
    return finish(chart, "Losses before, after and retrained", described, notes, width=720)


def _before_after(arrays: Arrays) -> list[str]:
    names = ordered(arrays.examples)
    methods = [name for name in names if name not in (RETRAIN, NOTHING)]
    ends = [name for name in (NOTHING, RETRAIN) if name in names]
    return [*ends[:1], *methods, *ends[1:]] if len(ends) == 2 else [*ends, *methods]


def _has_test(arrays: Arrays, rows: Sequence[str]) -> bool:
    return all("test" in arrays.examples.get(row, {}) for row in rows)


def _center(parts: Sequence[Examples]) -> float:
    middle = float(np.median(np.concatenate([np.abs(part.losses).ravel() for part in parts])))
    return float(f"{max(middle, 1e-3):.1g}")


def _edges(parts: Sequence[Examples], center: float) -> np.ndarray:
    values = [np.asarray(part.losses, np.float64) for part in parts]
    low, high = min(v.min() for v in values), max(v.max() for v in values)
    both = np.array([min(low, 0.0), high if high > low else low + 1.0])
    first, last = np.sign(both) * np.log1p(np.abs(both) / center)
    steps = np.linspace(first, last, BINS + 1)
    return np.sign(steps) * np.expm1(np.abs(steps)) * center


def _counts(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Counts of each model, i64[N, B]; what rounding puts beyond the ends is in the last bins."""
    clipped = np.clip(np.asarray(values, np.float64), edges[0], edges[-1])
    return np.stack([np.histogram(one, edges)[0] for one in clipped])


def _panel(
    row: str,
    look: Look,
    parts: Mapping[str, Examples],
    target: Mapping[str, Examples] | None,
    edges: np.ndarray,
    center: float,
    *,
    left: bool,
) -> Any:
    members = parts["forget"].losses.shape[1]
    least = 0.5 / max(len(parts["forget"].losses), 2)
    own = _counts(parts["forget"].losses, edges).mean(axis=0)
    bars = [
        {"from": a, "to": b, "count": count, "base": least}
        for a, b, count in zip(edges[:-1], edges[1:], own)
        if count > least
    ]
    scale_x = alt.Scale(type="symlog", constant=center, domain=[edges[0], edges[-1]], nice=False)
    scale_y = alt.Scale(type="log", domain=[least, members * 1.15], nice=False)
    axis_x = alt.Axis(values=_ticks(edges), format="~g", grid=False, labelOverlap="greedy")
    axis_y = alt.Axis(values=[0.01, 0.1, 1, 10, 100, 1000, 10_000, 100_000], format="~g")
    x = alt.X("from:Q", scale=scale_x, axis=axis_x, title="loss")
    title = "forget examples" if left else None
    y = alt.Y("count:Q", scale=scale_y, axis=axis_y, title=title)
    tips = [
        alt.Tooltip("from:Q", title="loss from", format=".3g"),
        alt.Tooltip("to:Q", title="to", format=".3g"),
        alt.Tooltip("count:Q", title="forget examples of a model", format=".3g"),
    ]
    layers = [
        alt.Chart(inline(bars))
        .mark_bar(color=look.color, opacity=0.75 if target is None else 0.6)
        .encode(x=x, x2="to", y=y, y2="base", tooltip=tips)
    ]
    if target is not None:
        goal = _counts(target["forget"].losses, edges)
        low, high = np.percentile(goal, [2.5, 97.5], axis=0)
        rows = _steps(edges, {"low": low, "high": high, "mean": goal.mean(axis=0)}, least)
        base = alt.Chart(inline(rows)).encode(x=alt.X("x:Q", scale=scale_x))
        layers += [
            base.mark_area(color=INK, opacity=0.15, aria=False).encode(y="low:Q", y2="high"),
            base.mark_line(color=INK, strokeWidth=1.3, aria=False).encode(y="mean:Q"),
        ]
    if "test" in parts:
        test = parts["test"].losses
        scaled = _counts(test, edges).mean(axis=0) * members / test.shape[1]
        rows = _steps(edges, {"count": scaled}, least)
        line = alt.Chart(inline(rows)).mark_line(
            color=SOFT, strokeDash=[3, 2], strokeWidth=1.2, aria=False
        )
        layers.append(line.encode(x=alt.X("x:Q", scale=scale_x), y=y))
    head = alt.TitleParams(row, fontSize=12, offset=4)
    return alt.layer(*layers).properties(width=190, height=130, title=head)


def _steps(edges: np.ndarray, columns: Mapping[str, np.ndarray], least: float) -> list[dict]:
    """The corners of a staircase, two a bin, not below the end of the axis."""
    names = list(columns)
    return [
        {"x": end} | {name: max(float(columns[name][k]), least) for name in names}
        for k in range(len(edges) - 1)
        for end in (edges[k], edges[k + 1])
    ]


def _ticks(edges: np.ndarray) -> list[float]:
    tens = [a * 10.0**k for k in range(-3, 7) for a in (1, 3)]
    ticks = [0.0, *tens, *(-ten for ten in tens)]
    return [tick for tick in sorted(ticks) if edges[0] <= tick <= edges[-1]]
