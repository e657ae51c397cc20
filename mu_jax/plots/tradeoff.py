"""Forgetting against utility, with the place of retrained models as bands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mu_jax.plots._altair import ChartType, alt
from mu_jax.plots._data import inline, one_each, ordered, spread, words
from mu_jax.plots._finishing import band, finish
from mu_jax.plots.looks import Labels, color, shape
from mu_jax.plots.nothing import NothingToDraw
from mu_jax.plots.theme import HEIGHT, INK, WIDTH
from mu_jax.reporting.arrays import Arrays
from mu_jax.reporting.grouping import Setting, by_setting
from mu_jax.reporting.records import Metric, Record
from mu_jax.scoring.rows import CONSTANT, RETRAIN

UTILITY = ("test accuracy", "retain accuracy", "test ", "retain ")
FORGETTING = ("forget accuracy", "forget ")
_SCALE = alt.Scale(zero=False, nice=True, padding=10)  # so that no sign is cut by the frame


class Ends(NamedTuple):
    """A number with its interval, and in words what the interval is."""

    value: float
    low: float
    high: float
    what: str


def tradeoff(
    records: Sequence[Record],
    arrays: Arrays | None = None,
    *,
    forgetting: str | None = None,
    utility: str | None = None,
) -> ChartType:
    """How much a method forgets against what remains useful, each seed a faint point.

    Each setting of a method is a sign at its mean over seeds, with the 95 % interval of the mean
    (of one record that over its models; of few seeds their range). The two bands span what
    retrained models have: the goal is where they cross, neither above nor below. Rows that
    collapsed or failed are named beneath the title and not drawn.

    Args:
        records: of one forget set.
        arrays: of the same forget set. A row whose one record is over N models has a faint point
            for each of them where both metrics are accuracies, else for each record.
        forgetting, utility: names of the metrics; None takes the accuracy on the forget set and on
            test examples (else retained ones), or what else is measured there.

    Returns:
        An Altair chart.

    Raises:
        NothingToDraw: no record has both numbers.

    Example:
        >>> from mu_jax.reporting import ForgetSet, Metric, Oracle
        >>> metrics = {"forget accuracy": Metric(0.6, oracle=Oracle(0.5, 0.4, 0.6)),
        ...            "test accuracy": Metric(0.9, oracle=Oracle(0.92, 0.9, 0.94))}
        >>> chart = tradeoff([Record("ssd", ForgetSet("class 3", 125), 0, metrics=metrics)])
        >>> chart.to_dict()["title"]["text"]
        'Forgetting against utility'
    """
    utility = utility or _first(records, UTILITY)
    forgetting = forgetting or _first(records, FORGETTING)
    names = utility, forgetting
    settings = [s for s in by_setting(records) if s.method != CONSTANT]
    drawn = [s for s in settings if _usable(s, names)]
    if not drawn:
        raise NothingToDraw(
            f"No trade-off: no row that has neither collapsed nor failed has {utility} and "
            f"{forgetting}."
        )
    methods = {s.label: s.method for s in _in_order(drawn)}
    labels = Labels(methods, (r.method for r in records))
    scales = [_scale(records, name) for name in names]
    data = inline(_mean_row(s, names, scales) for s in drawn)
    layers = _target(records, names, scales)
    notes = [
        "The bands are the range of retrained models: the goal is where they cross."
        if layers
        else "No retrained models: nothing says where a point should lie.",
        *one_each((len(_runs(s, names)) for s in drawn if not _has_ends(s, names)), "seed"),
        *_left_out([s for s in settings if s not in drawn], names),
    ]
    layers += [_seeds(drawn, arrays, names, scales, labels), *_means(data, labels, names, scales)]
    chart = alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)
    described = f"Scatter of {forgetting} against {utility} for {len(drawn)} rows: {words(labels)}."
    return finish(chart, "Forgetting against utility", described, notes)


def _first(records: Iterable[Record], wanted: Sequence[str]) -> str:
    names = list(dict.fromkeys(name for record in records for name in record.metrics))
    for start in wanted:
        for name in names:
            if name.startswith(start):
                return name
    raise NothingToDraw(
        f"No trade-off: no record has a number of {wanted[0]!r} or the like; name the metrics."
    )


def _scale(records: Iterable[Record], name: str) -> float:
    units = {r.metrics[name].unit for r in records if name in r.metrics}
    return 100.0 if units == {"fraction"} else 1.0


def _usable(setting: Setting, names: Sequence[str]) -> bool:
    return not setting.collapsed and bool(_runs(setting, names))


def _runs(setting: Setting, names: Sequence[str]) -> list[Record]:
    """The runs that have a value of all the metrics."""
    return [
        run
        for run in setting.runs
        if all(name in run.metrics and run.metrics[name].value is not None for name in names)
    ]


def _has_ends(setting: Setting, names: Sequence[str]) -> bool:
    """Whether its only run brings intervals with it."""
    runs = _runs(setting, names)
    return len(runs) == 1 and all(runs[0].metrics[name].low is not None for name in names)


def _in_order(settings: Sequence[Setting]) -> list[Setting]:
    place = {name: k for k, name in enumerate(ordered(s.method for s in settings))}
    return sorted(settings, key=lambda s: place[s.method])


def ends(metrics: Sequence[Metric], scale: float) -> Ends:
    """The mean over the metrics of several runs with its interval; of one, that which it brings."""
    values = np.array([metric.value for metric in metrics], float)
    if len(metrics) == 1 and metrics[0].low is not None and metrics[0].high is not None:
        low, high = metrics[0].low, metrics[0].high
        return Ends(values[0] * scale, low * scale, high * scale, "95 % interval over models")
    found = spread(values, fraction=metrics[0].unit == "fraction", models="seeds")
    return Ends(found.mean * scale, found.low * scale, found.high * scale, found.what)


def _mean_row(setting: Setting, names: Sequence[str], scales: Sequence[float]) -> dict[str, Any]:
    runs = _runs(setting, names)
    row: dict[str, Any] = {"row": setting.label, "seeds": len(runs)}
    for axis, name, scale in zip("xy", names, scales):
        found = ends([run.metrics[name] for run in runs], scale)
        row |= {axis: found.value, f"{axis}0": found.low, f"{axis}1": found.high}
        row |= {f"{axis}_what": found.what}
    return row


def _seeds(
    settings: Sequence[Setting],
    arrays: Arrays | None,
    names: Sequence[str],
    scales: Sequence[float],
    labels: Labels,
) -> Any:
    rows = []
    for setting in settings:
        runs = _runs(setting, names)
        points: list[tuple] = [
            (r.seed, *(r.metrics[name].value or 0.0 for name in names)) for r in runs
        ]
        if arrays is not None and len(runs) == 1 and len(_same(settings, setting)) == 1:
            points = _models(arrays, setting.method, names) or points
        rows += [
            {"row": setting.label, "seed": seed, "x": x * scales[0], "y": y * scales[1]}
            for seed, x, y in points
        ]
    marks = alt.Chart(inline(rows)).mark_point(filled=True, size=22, opacity=0.3, aria=False)
    return marks.encode(
        x="x:Q",
        y="y:Q",
        color=color(labels),
        shape=shape(labels),
        tooltip=[alt.Tooltip("row:N"), alt.Tooltip("seed:O"), *_tips(names)],
    )


def _same(settings: Sequence[Setting], setting: Setting) -> list[Setting]:
    return [other for other in settings if other.method == setting.method]


def _models(arrays: Arrays, row: str, names: Sequence[str]) -> list[tuple[int, float, float]]:
    """Number and both accuracies of every model of a row; none where they are no accuracies."""
    found = [_accuracies(arrays, row, name) for name in names]
    if any(values is None for values in found):
        return []
    return [(k, float(x), float(y)) for k, (x, y) in enumerate(zip(*found))]  # type: ignore[arg-type]


def _accuracies(arrays: Arrays, row: str, name: str) -> np.ndarray | None:
    """f64[N] of "forget accuracy" and the like: on test examples over retained classes alone."""
    where, _, kind = name.partition(" ")
    parts = arrays.examples.get(row, {})
    if kind != "accuracy" or where not in parts or parts[where].predictions is None:
        return None
    targets, said = np.asarray(parts[where].targets), np.asarray(parts[where].predictions)
    if targets.ndim != 1 or said.ndim != 2 or not np.issubdtype(targets.dtype, np.integer):
        return None
    counted = np.ones(targets.size, bool)
    if where == "test" and "retain" in parts:
        counted = np.isin(targets, np.unique(parts["retain"].targets))
    return (said == targets)[:, counted].mean(axis=1) if counted.any() else None


def _tips(names: Sequence[str]) -> list[Any]:
    return [alt.Tooltip(f"{a}:Q", title=n) for a, n in zip("xy", names)]


def _means(data: Any, labels: Labels, names: Sequence[str], scales: Sequence[float]) -> list[Any]:
    titles = [f"{name}{', %' if scale == 100 else ''}" for name, scale in zip(names, scales)]
    aim = "(closer to the band of retrained models is better)"
    x = alt.X("x:Q", title=[titles[0], aim], scale=_SCALE)
    y = alt.Y("y:Q", title=[titles[1], aim], scale=_SCALE)
    base = alt.Chart(data)
    tips = [alt.Tooltip("row:N"), alt.Tooltip("seeds:Q")]
    for axis, title in zip("xy", titles):
        tips += [
            alt.Tooltip(f"{axis}:Q", title=title),
            alt.Tooltip(f"{axis}0:Q", title="from"),
            alt.Tooltip(f"{axis}1:Q", title="to"),
            alt.Tooltip(f"{axis}_what:N", title="which is"),
        ]
    rules = base.mark_rule(strokeWidth=1.5, aria=False)
    return [
        rules.encode(x=alt.X("x0:Q"), x2="x1", y="y:Q", color=color(labels)),
        rules.encode(x="x:Q", y=alt.Y("y0:Q"), y2="y1", color=color(labels)),
        base.mark_point(filled=True, size=110, opacity=1).encode(
            x=x, y=y, color=color(labels), shape=shape(labels), tooltip=tips
        ),
    ]


def _target(records: Sequence[Record], names: Sequence[str], scales: Sequence[float]) -> list[Any]:
    """The bands of retrained models in both directions, with lines at their means."""
    layers = []
    for axis, name, scale in zip("xy", names, scales):
        found = retrained_band(records, name)
        if found is None:
            continue
        mean, low, high = (scale * end for end in found)
        data = inline([{f"{axis}0": low, f"{axis}1": high, axis: mean}])
        layers.append(band(data, **{axis: (f"{axis}0", f"{axis}1")}))
        rule = alt.Chart(data).mark_rule(color=INK, strokeDash=[4, 3], aria=False)
        layers.append(rule.encode(**{axis: f"{axis}:Q"}))
    return layers


def retrained_band(records: Iterable[Record], name: str) -> tuple[float, float, float] | None:
    """Mean, least and greatest value of retrained models; None where nobody knows it.

    What the metrics of the other rows name as the oracles' values, over all records, as each seed
    may have oracles of its own; else what those of the retrained rows name, else their own values.
    """
    with_name = [r for r in records if name in r.metrics]
    others = [r for r in with_name if r.method != RETRAIN]
    for named in (others, with_name):
        oracles = [o for r in named if (o := r.metrics[name].oracle) is not None]
        means = [o.mean for o in oracles if o.mean is not None]
        if means:
            ends = [end for o in oracles for end in (o.low, o.high) if end is not None]
            return float(np.mean(means)), min(ends + means), max(ends + means)
    values = [r.metrics[name].value for r in with_name if r.method == RETRAIN]
    known = [value for value in values if value is not None]
    return (float(np.mean(known)), min(known), max(known)) if known else None


def _left_out(settings: Sequence[Setting], names: Sequence[str]) -> list[str]:
    """A sentence on each row that is not drawn, with the reason."""
    notes = []
    for setting in settings:
        broken = [*setting.collapsed, *setting.failed]
        if broken:
            reason = f"{broken[0].status}, {broken[0].reason}"
        else:
            absent = {
                (run.metrics[name].reason if name in run.metrics else "") or f"no {name}"
                for run in setting.runs
                for name in names
                if name not in run.metrics or run.metrics[name].value is None
            }
            reason = "; ".join(sorted(absent))
        notes.append(f"Not drawn: {setting.label} ({reason}).")
    return notes[:6] + ([f"Not drawn: {len(notes) - 6} more."] if len(notes) > 6 else [])
