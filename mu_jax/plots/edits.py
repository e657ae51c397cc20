"""Where a method has touched the network: leaf by leaf, and by what its threshold looked at."""

from __future__ import annotations

from typing import Any

import numpy as np

from mu_jax.plots._altair import ChartType, alt
from mu_jax.plots._data import constant, inline, one_each, spread, words
from mu_jax.plots._finishing import finish, powers
from mu_jax.plots.looks import Look, look_of
from mu_jax.plots.nothing import NothingToDraw
from mu_jax.plots.theme import INK
from mu_jax.reporting.arrays import Arrays, Edits, Histogram

MOST = 40  # leaves
CHANGED, MOVED, TOWARD = "changed", "moved", "toward"
TITLES = {
    CHANGED: "entries that changed, %",
    MOVED: "move / norm before, %",
    TOWARD: "cosine to the way to retraining (1 is best)",
}


def edits(arrays: Arrays, row: str) -> ChartType:
    """How many entries of every leaf changed, how far, and whether toward a retrained model.

    Args:
        arrays: of one forget set, with `edits` of the row. row: of models.

    Returns:
        An Altair chart, a leaf a line, with its mean over models and the 95 % interval (of few
        models their range). Of more than 40 leaves it has the 40 that moved most.

    Raises:
        NothingToDraw: no edits of the row, or none that are finite.
    """
    if row not in arrays.edits:
        raise NothingToDraw(f"No edits: it was not measured which parameters {row!r} changed.")
    found = arrays.edits[row]
    columns = {CHANGED: 100 * np.asarray(found.changed, np.float64)}
    columns[MOVED] = 100 * np.asarray(found.moved, np.float64)
    if found.toward_oracle is not None:
        columns[TOWARD] = np.asarray(found.toward_oracle, np.float64)
    rows, lost = _rows(found, columns)
    if not rows:
        raise NothingToDraw(f"No edits of {row!r}: no number is finite.")
    order = [leaf for leaf in found.leaves if any(r["leaf"] == leaf for r in rows)]
    moves = {r["leaf"]: r["x"] for r in rows if r["what"] == MOVED}
    shown = set(sorted(order, key=lambda leaf: -moves.get(leaf, 0.0))[:MOST])
    leaves = [leaf for leaf in order if leaf in shown]
    rows = [r for r in rows if r["leaf"] in shown]
    kinds = [kind for kind in columns if any(r["what"] == kind for r in rows)]
    panels = [
        _panel(look_of(arrays, row), kind, rows, leaves, first=kind == kinds[0]) for kind in kinds
    ]
    notes = [
        f"Of {len(order)} leaves the {MOST} that moved most." if len(order) > MOST else "",
        "" if TOWARD in kinds else "No retrained model to say whether the way is the right one.",
        f"No finite number of {words(lost)}." if lost else "",
        *one_each([len(found.changed)]),
        *constant(arrays, [row]),
    ]
    described = f"Changes of {len(leaves)} leaves by {row}."
    if moves:
        most = max(moves, key=lambda leaf: moves[leaf])
        described += f" Moved most: {most}, {moves[most]:.2g} % of its norm."
    chart = alt.hconcat(*panels, spacing=14)
    return finish(chart, f"Where {row} touched the network", described, notes, width=680)


def _rows(found: Edits, columns: dict[str, np.ndarray]) -> tuple[list[dict[str, Any]], list[str]]:
    rows, lost = [], []
    for kind, values in columns.items():
        for k, leaf in enumerate(found.leaves):
            own = values[:, k][np.isfinite(values[:, k])]
            if not own.size:
                lost.append(f"{leaf} ({kind})")
                continue
            one = spread(own)
            rows.append(
                {
                    "leaf": leaf,
                    "what": kind,
                    "x": one.mean,
                    "low": one.low,
                    "high": one.high,
                    "over": one.what,
                    "size": int(found.sizes[k]),
                }
            )
    return rows, lost


def _panel(
    look: Look, kind: str, rows: list[dict[str, Any]], leaves: list[str], *, first: bool
) -> Any:
    axis = alt.Axis(title=None, labels=first, ticks=False, grid=True)
    y = alt.Y("leaf:N", sort=leaves, axis=axis)
    zero = alt.Scale(domain=[-1, 1]) if kind == TOWARD else alt.Scale(zero=True)
    x = alt.X("x:Q", title=TITLES[kind], scale=zero)
    base = alt.Chart(inline(r for r in rows if r["what"] == kind))
    tips = [
        alt.Tooltip("leaf:N"),
        alt.Tooltip("x:Q", title=TITLES[kind], format=".3g"),
        alt.Tooltip("low:Q", title="from", format=".3g"),
        alt.Tooltip("high:Q", title="to", format=".3g"),
        alt.Tooltip("over:N", title="which is"),
        alt.Tooltip("size:Q", title="entries"),
    ]
    bar = base.mark_bar(height={"band": 0.6}, color=look.color, tooltip=True)
    return alt.layer(
        bar.encode(x=x, y=y, tooltip=tips),
        base.mark_rule(color=INK, strokeWidth=1.2, aria=False).encode(
            x=alt.X("low:Q"), x2="high", y=y
        ),
    ).properties(width=180, height=alt.Step(16))


def ratios(arrays: Arrays, row: str) -> ChartType:
    """The histogram of what a method looks at, with the threshold beyond which it acts.

    Args:
        arrays: of one forget set, with `ratios` of the row. row: of models.

    Returns:
        An Altair chart with the bins of `Histogram` as they are; bins without counts are left out.
        The axis is logarithmic where all edges are positive and span more than a factor of 100.

    Raises:
        NothingToDraw: no histogram of the row, nothing counted, or numbers that are not finite.
    """
    if row not in arrays.ratios:
        raise NothingToDraw(f"No histogram: none was recorded for {row!r}.")
    found = arrays.ratios[row]
    edges, counts = (np.asarray(x, np.float64) for x in (found.edges, found.counts))
    if not np.isfinite(edges).all() or not np.isfinite(counts).all() or counts.sum() <= 0:
        raise NothingToDraw(f"No histogram of {row!r}: no counts, or numbers that are not finite.")
    beyond, total = _beyond(found), counts.sum()
    is_log = edges[0] > 0 and edges[-1] / edges[0] > 100
    scale = alt.Scale(type="log", nice=False) if is_log else alt.Scale(zero=False)
    least = 0.5
    rows = [
        {"from": a, "to": b, "count": c, "base": least}
        for a, b, c in zip(edges[:-1], edges[1:], counts)
        if c > 0
    ]
    ticks = {"values": powers(edges[0], edges[-1])} if is_log else {}
    axis = alt.Axis(format="~g", grid=False, **ticks)
    look = look_of(arrays, row)
    x = alt.X("from:Q", title=found.title, scale=scale, axis=axis)
    y = alt.Y(
        "count:Q",
        title="entries (logarithmic)",
        scale=alt.Scale(type="log", nice=False, domain=[least, float(counts.max()) * 1.3]),
        axis=alt.Axis(format="~s", values=powers(least, float(counts.max()) * 1.3)),
    )
    tips = [
        alt.Tooltip("from:Q", format=".3g"),
        alt.Tooltip("to:Q", format=".3g"),
        alt.Tooltip("count:Q", title="entries", format=","),
    ]
    bars = alt.Chart(inline(rows)).mark_bar(color=look.color, opacity=0.8, binSpacing=0)
    layers = [bars.encode(x=x, x2="to", y=y, y2="base", tooltip=tips)]
    note = "No threshold was recorded."
    if np.isfinite(found.threshold):
        line = alt.Chart(
            inline([{"x": found.threshold, "text": f"threshold {found.threshold:.3g}"}])
        )
        layers += [
            line.mark_rule(color=INK, strokeWidth=2, aria=False).encode(x="x:Q"),
            line.mark_text(color=INK, align="left", dx=5, dy=6, baseline="top").encode(
                x="x:Q", y=alt.value(0), text="text:N"
            ),
        ]
        note = (
            f"About {100 * beyond / total:.2g} % of {total:,.0f} entries lie beyond the threshold."
        )
    described = f"Histogram of {found.title} for {row}."
    chart = alt.layer(*layers).properties(width=460, height=240)
    notes = [note, *constant(arrays, [row])]
    return finish(chart, f"What {row} looks at: {found.title}", described, notes)


def _beyond(found: Histogram) -> float:
    """Counts beyond the threshold; of the bin that it cuts the part that lies beyond."""
    edges, counts = (np.asarray(x, np.float64) for x in (found.edges, found.counts))
    part = np.clip((edges[1:] - found.threshold) / np.diff(edges), 0, 1)
    return float((counts * part).sum())
