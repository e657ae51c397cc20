"""The settings of a sweep: how hard it is to find a good one, and which number decides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mu_jax.plots._altair import ChartType, alt
from mu_jax.plots._data import inline, ordered, words
from mu_jax.plots._finishing import finish, powers
from mu_jax.plots.looks import Labels, Look, color, looks, shape
from mu_jax.plots.nothing import NothingToDraw
from mu_jax.plots.theme import INK, SOFT
from mu_jax.reporting.floors import gap_to_oracles
from mu_jax.reporting.grouping import Setting, by_setting
from mu_jax.reporting.records import Record
from mu_jax.scoring.rows import CONSTANT, NOTHING, RETRAIN

COLUMNS = 4
MOST = 24  # strips
FAR = 100.0  # points: what nothing is beyond


class Trial(NamedTuple):
    """A setting: its method and hyper-parameters, its mean gap over seeds, or why it has none."""

    method: str
    label: str
    point: Mapping[str, Any]
    gap: float | None
    low: float | None
    high: float | None
    why: str


def landscape(records: Sequence[Record], metrics: Sequence[str] | None = None) -> ChartType:
    """The average gap to retraining of every setting: as a profile, and over each hyper-parameter.

    The profile has, for every method, the share of its settings whose gap is at most that on the
    axis, settings that collapsed or failed among those that never get there: a method whose curve
    rises late is found by luck. A strip is a hyper-parameter with more than one value; a line is
    the range over seeds. Dashed: the floor, which is the gap of retrained models to others.

    Args:
        records: of one forget set, many settings a method.
        metrics: the names that `reporting.gap_to_oracles` averages; None takes its default.

    Returns:
        An Altair chart, no more than 24 strips, those of the methods with most settings first.

    Raises:
        NothingToDraw: no method has two settings, or no setting a gap.
    """
    settings = by_setting(records)
    floor = _gaps(next((s for s in settings if s.method == RETRAIN), None), metrics)
    special = (RETRAIN, NOTHING, CONSTANT)
    trials = [_trial(s, metrics) for s in settings if s.method not in special]
    by_method = {m: [t for t in trials if t.method == m] for m in ordered(t.method for t in trials)}
    by_method = {m: each for m, each in by_method.items() if len(each) > 1}
    if not by_method:
        raise NothingToDraw("No landscape: no method has several settings; draw a sweep.")
    if not any(t.gap is not None for each in by_method.values() for t in each):
        lost = dict.fromkeys(t.why for each in by_method.values() for t in each)
        raise NothingToDraw(f"No landscape: no setting has an average gap: {words(lost, 3)}.")
    level = float(np.mean(floor)) if floor else None
    among = [record.method for record in records]
    styles = looks(among)
    strips = [
        _strip(method, name, each, level, styles[method])
        for method, each in sorted(by_method.items(), key=lambda item: -len(item[1]))
        for name in _varying(each)
    ]
    notes = _notes(by_method, level, len(strips))
    profile = _profile(by_method, level, among)
    below = alt.concat(*strips[:MOST], columns=COLUMNS, spacing=14)
    chart = alt.vconcat(profile, below, spacing=24) if strips else profile
    best = [
        min((t.gap for t in each if t.gap is not None), default=None) for each in by_method.values()
    ]
    said = ", ".join(f"{m} {b:.2f}" for m, b in list(zip(by_method, best))[:12] if b is not None)
    described = f"Gaps to retraining over settings of {words(by_method)}. Smallest, points: {said}."
    return finish(chart, "The settings of the sweep", described, notes, width=680)


def _gaps(setting: Setting | None, metrics: Sequence[str] | None) -> list[float]:
    found = [gap_to_oracles(run, metrics) for run in setting.runs] if setting else []
    return [gap for gap in found if gap is not None]


def _trial(setting: Setting, metrics: Sequence[str] | None) -> Trial:
    gaps = _gaps(setting, metrics)
    broken = [*setting.collapsed, *setting.failed]
    point = (setting.runs or setting.failed)[0].hyperparameters
    if broken or not gaps:
        why = (
            f"{broken[0].status}: {broken[0].reason}"
            if broken
            else "a value or retrained models are missing"
        )
        return Trial(setting.method, setting.label, point, None, None, None, why)
    mean = float(np.mean(gaps))
    return Trial(setting.method, setting.label, point, mean, min(gaps), max(gaps), "")


def _varying(trials: Sequence[Trial]) -> list[str]:
    names = dict.fromkeys(name for trial in trials for name in trial.point)
    return [n for n in names if len({repr(trial.point.get(n)) for trial in trials}) > 1]


def _notes(by_method: Mapping[str, Sequence[Trial]], floor: float | None, strips: int) -> list[str]:
    broken = {m: sum(t.gap is None for t in each) for m, each in by_method.items()}
    lost = [f"{m} {k} of {len(by_method[m])}" for m, k in broken.items() if k]
    return [
        "Average gap to retraining, points: lower is better, down to the floor."
        + (
            f" Dashed: the floor, {floor:.2f}."
            if floor is not None
            else " The floor is not known: no retrained row has other retrained models beside it."
        ),
        f"Collapsed, failed or without a gap (crosses): {words(lost)}." if lost else "",
        f"Of {strips} strips the first {MOST}." if strips > MOST else "",
    ]


def _profile(
    by_method: Mapping[str, Sequence[Trial]], floor: float | None, among: Sequence[str]
) -> Any:
    rows = []
    for method, trials in by_method.items():
        gaps = sorted(t.gap for t in trials if t.gap is not None)
        steps = [(gap, (k + 1) / len(trials)) for k, gap in enumerate(gaps)]
        if steps:
            kept = np.unique(
                np.linspace(0, len(steps) - 1, min(64, len(steps))).round().astype(int)
            )
            rows += [
                {
                    "row": method,
                    "gap": steps[k][0],
                    "share": 100 * steps[k][1],
                    "settings": len(trials),
                }
                for k in kept
            ]
    labels = Labels({method: method for method in by_method}, among)
    x = alt.X("gap:Q", title="average gap to retraining, points", scale=alt.Scale(type="symlog"))
    y = alt.Y("share:Q", title="% of its settings at or below", scale=alt.Scale(domain=[0, 100]))
    base = alt.Chart(inline(rows))
    tips = [
        alt.Tooltip("row:N"),
        alt.Tooltip("gap:Q", format=".2f"),
        alt.Tooltip("share:Q", format=".0f"),
        alt.Tooltip("settings:Q"),
    ]
    layers = [
        base.mark_line(interpolate="step-after", aria=False).encode(x=x, y=y, color=color(labels)),
        base.mark_point(filled=True, size=34, opacity=1).encode(
            x=x, y=y, color=color(labels), shape=shape(labels), tooltip=tips
        ),
    ]
    if floor is not None:
        layers.append(_floor(floor, "x"))
    return alt.layer(*layers).properties(width=440, height=220)


def _floor(floor: float, axis: str) -> Any:
    line = alt.Chart(inline([{"floor": floor}]))
    return line.mark_rule(color=INK, strokeDash=[4, 3], aria=False).encode(
        **{axis: alt.Y("floor:Q") if axis == "y" else alt.X("floor:Q")}
    )


def _strip(method: str, name: str, trials: Sequence[Trial], floor: float | None, look: Look) -> Any:
    known = [t.gap for t in trials if t.gap is not None]
    top = max(known, default=FAR)
    rows: list[dict[str, Any]] = [
        {
            "value": _value(t.point.get(name)),
            "gap": top if t.gap is None else t.gap,
            "low": t.low,
            "high": t.high,
            "setting": t.label,
            "why": t.why or "ok",
            "sign": "broken" if t.gap is None else "ok",
        }
        for t in trials
    ]
    numbers = [row["value"] for row in rows if isinstance(row["value"], float)]
    if len(numbers) == len(rows):
        is_log = min(numbers) > 0 and max(numbers) / min(numbers) >= 30
        ticks = {"values": powers(min(numbers), max(numbers))} if is_log else {"tickCount": 4}
        kind = {"type": "log"} if is_log else {"zero": False}
        scale = alt.Scale(nice=False, padding=8, **kind)
        axis = alt.Axis(format="~g", grid=False, **ticks)
        x = alt.X("value:Q", title=name, scale=scale, axis=axis)
    else:
        rows = [row | {"value": str(row["value"])} for row in rows]
        x = alt.X("value:N", title=name, axis=alt.Axis(labelAngle=-40, grid=False))
    y = alt.Y(
        "gap:Q", title="gap, points", scale=alt.Scale(type="symlog"), axis=alt.Axis(tickCount=4)
    )
    tips = [
        alt.Tooltip("setting:N"),
        alt.Tooltip("gap:Q", title="gap, points", format=".2f"),
        alt.Tooltip("low:Q", title="least seed", format=".2f"),
        alt.Tooltip("high:Q", title="greatest seed", format=".2f"),
        alt.Tooltip("why:N", title="state"),
    ]
    base = alt.Chart(inline(rows))
    fine, broken = (base.transform_filter(f"datum.sign == '{s}'") for s in ("ok", "broken"))
    layers = [
        fine.mark_rule(color=look.color, opacity=0.5, aria=False).encode(
            x=x, y=alt.Y("low:Q"), y2="high"
        ),
        fine.mark_point(
            filled=True, size=34, opacity=0.8, color=look.color, shape=look.shape
        ).encode(x=x, y=y, tooltip=tips),
        broken.mark_point(size=34, color=SOFT, shape="M-.5,-.5L.5,.5M-.5,.5L.5,-.5").encode(
            x=x, y=y, tooltip=tips
        ),
    ]
    if floor is not None:
        layers.append(_floor(floor, "y"))
    head = alt.TitleParams(f"{method}: {name}", fontSize=12, offset=4)
    return alt.layer(*layers).properties(width=130, height=120, title=head)


def _value(value: Any) -> float | str:
    """A number as float; all else, and None, as text."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else str(value)
