"""What a method costs: its run time against retraining, with precomputation stacked apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mu_jax.plots._altair import ChartType, alt
from mu_jax.plots._data import inline, one_each, spread, words
from mu_jax.plots._finishing import finish
from mu_jax.plots.looks import Labels, color
from mu_jax.plots.nothing import NothingToDraw
from mu_jax.plots.theme import INK, SOFT
from mu_jax.reporting.grouping import Setting, by_setting
from mu_jax.reporting.records import Record
from mu_jax.scoring.rows import CONSTANT, NOTHING, RETRAIN

RUN, BEFORE = "the run", "precomputation, shared by later requests"


def run_time(records: Sequence[Record]) -> ChartType:
    """Run time of every setting as a share of retraining, precomputation stacked apart.

    Compilation and evaluation are in neither. Where nobody measured retraining, seconds are drawn.

    Args:
        records: of one forget set.

    Returns:
        An Altair chart, shortest first: a bar for the mean over seeds, its range or 95 % interval,
        and the seconds in words.

    Raises:
        NothingToDraw: no run time of any method.
    """
    settings = [s for s in by_setting(records) if s.method not in (CONSTANT, NOTHING)]
    found = {s.label: (s, _seconds(s, "wall_s"), _seconds(s, "precompute_s")) for s in settings}
    timed = {label: each for label, each in found.items() if each[1].size}
    if not timed:
        raise NothingToDraw("No run times: no record of a method says how long it took.")
    whole = [each[1].mean() for each in timed.values() if each[0].method == RETRAIN]
    unit = float(whole[0]) if whole and whole[0] > 0 else None
    factor = 1.0 if unit is None else 100 / unit
    rows: list[dict[str, Any]] = []
    totals: list[dict[str, Any]] = []
    for label, (_, run, before) in timed.items():
        shared = float(before.mean()) if before.size else 0.0
        one = spread(run, models="seeds")
        fields = {"row": label, "seconds": one.mean, "shared": shared, "what": one.what}
        fields |= {"low": one.low * factor, "high": one.high * factor}
        rows += [
            fields | {"part": RUN, "a": 0.0, "b": one.mean * factor},
            *(
                [
                    fields
                    | {"part": BEFORE, "a": one.mean * factor, "b": (one.mean + shared) * factor}
                ]
                if shared
                else []
            ),
        ]
        end = max((one.mean + shared) * factor, one.high * factor)
        totals.append({"row": label, "end": end, "text": _text(one.mean, shared, unit)})
    order = [t["row"] for t in sorted(totals, key=lambda t: t["end"])]
    methods = {name: timed[name][0].method for name in order}
    labels = Labels(methods, (r.method for r in records))
    without = [label for label in found if label not in timed]
    fallen = [label for label, each in timed.items() if each[0].collapsed]
    devices = dict.fromkeys(r.cost.device for r in records if r.cost.device)
    notes = [
        "Without compilation and evaluation. Pale: precomputation that later requests share."
        + (f" Device: {words(devices)}." if devices else ""),
        "" if unit else "Nobody measured retraining: the axis has seconds.",
        f"Not measured: {words(without)}." if without else "",
        *one_each((each[1].size for each in timed.values()), "run"),
        f"Collapsed, so that their time bought nothing: {words(fallen)}." if fallen else "",
    ]
    described = (
        f"Run times of {len(timed)} rows, shortest first: "
        + "; ".join(f"{t['row']} {t['text']}" for t in sorted(totals, key=lambda t: t["end"])[:12])
        + "."
    )
    chart = alt.layer(*_layers(rows, totals, order, labels, unit)).properties(
        width=420, height=alt.Step(22)
    )
    return finish(chart, "Run time against retraining" if unit else "Run time", described, notes)


def _seconds(setting: Setting, name: str) -> np.ndarray:
    values = [getattr(run.cost, name) for run in setting.runs]
    return np.array([value for value in values if value is not None], float)


def _text(run: float, shared: float, unit: float | None) -> str:
    text = f"{run:.3g} s" + (f" + {shared:.3g} s" if shared else "")
    if unit is None:
        return text
    return f"{text}  ({100 * run / unit:.3g}{f' + {100 * shared / unit:.3g}' if shared else ''} %)"


def _layers(
    rows: list[dict[str, Any]],
    totals: list[dict[str, Any]],
    order: list[str],
    labels: Labels,
    unit: float | None,
) -> list[Any]:
    y = alt.Y("row:N", sort=order, axis=alt.Axis(title=None, ticks=False, grid=False))
    room = max(t["end"] for t in totals) * 1.6  # for the words behind the longest bar
    title = ["% of the run time of retraining" if unit else "s", "(less is better)"]
    x = alt.X("a:Q", title=title, scale=alt.Scale(domain=[0, room], nice=False))
    base = alt.Chart(inline(rows))
    tips = [
        alt.Tooltip("row:N"),
        alt.Tooltip("seconds:Q", title="the run, s", format=".3g"),
        alt.Tooltip("shared:Q", title="precomputation, s", format=".3g"),
        alt.Tooltip("low:Q", title="run, from", format=".3g"),
        alt.Tooltip("high:Q", title="to", format=".3g"),
        alt.Tooltip("what:N", title="which is"),
    ]
    faded = alt.Opacity(
        "part:N",
        scale=alt.Scale(domain=[RUN, BEFORE], range=[0.95, 0.35]),
        sort=[RUN, BEFORE],
        title=None,
        legend=alt.Legend(
            orient="bottom",
            symbolFillColor=SOFT,
            symbolStrokeWidth=0,
            symbolType="square",
        ),
    )
    layers = [
        base.mark_bar(height={"band": 0.62}).encode(
            x=x, x2="b", y=y, color=color(labels, legend=None), opacity=faded, tooltip=tips
        ),
        base.transform_filter(f"datum.part == '{RUN}'")
        .mark_rule(color=INK, strokeWidth=1.2, aria=False)
        .encode(x=alt.X("low:Q"), x2="high", y=y),
        alt.Chart(inline(totals))
        .mark_text(align="left", dx=6, color=INK)
        .encode(x=alt.X("end:Q"), y=y, text="text:N"),
    ]
    if unit:
        line = alt.Chart(inline([{"x": 100}])).mark_rule(color=INK, strokeDash=[4, 3], aria=False)
        layers.append(line.encode(x="x:Q"))
    return layers
