"""KLoM of every example, per set and method, against the floor of a perfect unlearner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mu_jax import evaluation
from mu_jax.plots._altair import ChartType, alt
from mu_jax.plots._data import ORACLES, finite_rows, inline, words
from mu_jax.plots._finishing import band, finish
from mu_jax.plots.looks import color, looks
from mu_jax.plots.nothing import NothingToDraw
from mu_jax.plots.theme import INK
from mu_jax.reporting.arrays import Arrays
from mu_jax.reporting.records import Record
from mu_jax.scoring.ensembles import FEWEST
from mu_jax.scoring.rows import RETRAIN

QUANTILES = (50, 95, 99)
LEAST = 0.01  # nats: what is below is drawn here, as an axis of logarithms has no 0
EDGES = np.geomspace(LEAST, 13.0, 31)  # nats: KLoM is never above 12
SETS = ("forget", "retain", "test")


class Sides(NamedTuple):
    """What KLoM compares. oracles: f32[N, n] by set. rows: f32[N, n] by row and set.

    floor: retrained models that are none of the oracles.
    """

    oracles: Mapping[str, np.ndarray]
    rows: Mapping[str, Mapping[str, np.ndarray]]
    floor: str = RETRAIN


def klom(records: Sequence[Record], arrays: Arrays) -> ChartType:
    """The distribution of KLoM over examples on every set, beside that of retrained models.

    A strip is a row of models: darker where more of its examples lie, with its 50th, 95th and 99th
    percentile. The dashed line is the 95th percentile of the row of retrained models, the floor:
    what a perfect unlearner scores with as many models, which is not 0. The interval of the 95th
    percentile over models and examples is that of the records, and so is the band of the floor.

    The retrained models are parted as in `evaluation.score`: of R the last `min(M, R // 2)` are the
    row of the floor, the others the oracles, M the number of models of the other rows, of which as
    many are compared. Where there is a row "oracles", it is compared with, and the last
    `min(M, R)` of the retrained ones are the floor.

    Args:
        records: of one forget set, for the intervals.
        arrays: of the same forget set, with the margins of retrained models.

    Returns:
        An Altair chart, a panel a set. A strip is binned to 30 bins of equal width in logarithms;
        examples below 0.01 nats are drawn at 0.01. No number of a single example is embedded.

    Raises:
        NothingToDraw: no retrained models, no margins, or too few models: below 20 KLoM is noise.

    Cost: `evaluation.klom` for every row and set.
    """
    sets = [s for s in SETS if any(s in found for found in arrays.examples.values())]
    sides, notes = divide(arrays, sets)
    number = len(next(iter(sides.rows[sides.floor].values())))
    strips: list[dict[str, Any]] = []
    marks: list[dict[str, Any]] = []
    floors = []
    for one in sets:
        for row, margins in sides.rows.items():
            values = np.asarray(evaluation.klom(sides.oracles[one], margins[one]), np.float64)
            strips += _strip(one, row, values)
            marks.append(_marks(one, row, values, records))
        floors.append(next(m for m in marks if m["set"] == one and m["row"] == sides.floor))
    panels = [
        _panel(one, list(sides.rows), strips, marks, floor, first=one == sets[0])
        for one, floor in zip(sets, floors)
    ]
    notes = [
        f"{number} models of each row against {len(sides.oracles[sets[0]])} retrained ones; "
        "dashed: the 95th percentile of other retrained models, the floor. "
        "Signs: | 50th, filled 95th, hollow 99th percentile.",
        *notes,
    ]
    best = {m["row"]: m["p95"] for m in marks if m["set"] == sets[0] and m["row"] != sides.floor}
    said = ", ".join(f"{row} {value:.2f}" for row, value in list(best.items())[:12])
    described = (
        f"KLoM in nats over examples, {len(sides.rows)} rows, sets {words(sets)}. 95th percentile "
        f"on the {sets[0]} set: {said}; floor {floors[0]['p95']:.2f}."
    )
    return finish(
        alt.hconcat(*panels, spacing=12),
        "KLoM over examples, against its floor",
        described,
        notes,
        width=760,
    )


def divide(arrays: Arrays, sets: Sequence[str]) -> tuple[Sides, list[str]]:
    """Oracles, and of every row as many models as the floor has, with remarks.

    Raises:
        NothingToDraw: as `klom`.
    """
    if RETRAIN not in arrays.examples:
        raise NothingToDraw("No KLoM: it compares with retrained models, and there are none.")
    found, notes = finite_rows(arrays, "margins", sets)
    given = finite_rows(arrays, "margins", sets, [ORACLES])[0] if ORACLES in arrays.examples else {}
    if RETRAIN not in found:
        raise NothingToDraw(
            "No KLoM: all retrained models have margins that are missing or not finite."
        )
    sizes = {name: len(found[name][sets[0]].losses) for name in found}
    retrained = sizes.pop(RETRAIN)
    number = min([*sizes.values(), retrained if given else retrained // 2])
    if number < FEWEST:
        raise NothingToDraw(
            f"No KLoM: it needs {FEWEST} models of every row and twice as many retrained ones, "
            f"found {min(sizes.values(), default=0)} and {retrained}."
        )
    margins = {name: {s: _margins(part[s]) for s in sets} for name, part in found.items()}
    oracles = {
        s: _margins(given[ORACLES][s]) if given else margins[RETRAIN][s][:-number] for s in sets
    }
    rows = {name: {s: m[s][:number] for s in sets} for name, m in margins.items()}
    rows[RETRAIN] = {s: margins[RETRAIN][s][-number:] for s in sets}
    return Sides(oracles, rows), notes


def _margins(part: Any) -> np.ndarray:
    return np.asarray(part.margins, np.float32)


def _strip(one: str, row: str, values: np.ndarray) -> list[dict[str, Any]]:
    counts, _ = np.histogram(np.clip(values, EDGES[0], EDGES[-1]), EDGES)
    return [
        {"set": one, "row": row, "from": low, "to": high, "share": count / values.size}
        for low, high, count in zip(EDGES[:-1], EDGES[1:], counts)
        if count
    ]


def _marks(one: str, row: str, values: np.ndarray, records: Sequence[Record]) -> dict[str, Any]:
    found = {f"p{q}": float(np.percentile(values, q)) for q in QUANTILES}
    own = [r.metrics.get(f"KLoM {one} p95") for r in records if r.method == row]
    metric = own[0] if len(own) == 1 else None
    low, high = (None, None) if metric is None else (metric.low, metric.high)
    known = low is not None and high is not None
    return {
        "set": one,
        "row": row,
        "n": values.size,
        **found,
        **{f"x{q}": max(value, LEAST) for q, value in zip(QUANTILES, found.values())},
        "low": max(low or 0.0, LEAST) if known else None,
        "high": max(high or 0.0, LEAST) if known else None,
        "interval": f"{low:.2f} to {high:.2f}" if known else "no interval in the records",
    }


def _panel(
    one: str,
    rows: list[str],
    strips: list[dict[str, Any]],
    marks: list[dict[str, Any]],
    floor: dict[str, Any],
    *,
    first: bool,
) -> Any:
    labels = {row: row for row in rows}
    axis = alt.Axis(title=None, labels=first, ticks=False, domain=False, grid=False)
    y = alt.Y("row:N", sort=rows, axis=axis)
    scale = alt.Scale(type="log", domain=[LEAST, float(EDGES[-1])], nice=False)
    ticks = alt.Axis(values=[0.01, 0.1, 1, 10], format="~g", labelOverlap=False)
    x = alt.X("from:Q", scale=scale, title="KLoM, nats (as low as the floor is best)", axis=ticks)
    hue = color(labels, legend=None)
    own = alt.Chart(inline(m for m in marks if m["set"] == one))
    tips = [
        alt.Tooltip("row:N"),
        alt.Tooltip("set:N"),
        alt.Tooltip("n:Q", title="examples"),
        *(alt.Tooltip(f"p{q}:Q", title=f"{q}th percentile", format=".3f") for q in QUANTILES),
        alt.Tooltip("interval:N", title="95th: 95 % interval"),
    ]
    layers = []
    if floor["low"] is not None:
        layers.append(band(inline([{"a": floor["low"], "b": floor["high"]}]), x=("a", "b")))
    line = alt.Chart(inline([{"x": floor["x95"]}])).mark_rule(
        color=INK, strokeDash=[4, 3], aria=False
    )
    layers += [
        line.encode(x="x:Q"),
        alt.Chart(inline(s for s in strips if s["set"] == one))
        .mark_bar(height={"band": 0.62}, aria=False)
        .encode(
            x=x,
            x2="to",
            y=y,
            color=hue,
            opacity=alt.Opacity(
                "share:Q", scale=alt.Scale(type="sqrt", range=[0.06, 0.75]), legend=None
            ),
        ),
        own.mark_rule(strokeWidth=1.5, color=INK, aria=False).encode(
            x=alt.X("low:Q"), x2="high", y=y
        ),
        own.mark_tick(color=INK, thickness=2, height=13, aria=False).encode(x="x50:Q", y=y),
        own.mark_point(filled=False, size=45, color=INK, aria=False).encode(x="x99:Q", y=y),
        own.mark_point(filled=True, size=75, opacity=1, stroke=INK, strokeWidth=0.8).encode(
            x="x95:Q", y=y, color=hue, shape=_shapes(labels), tooltip=tips
        ),
    ]
    title = f"{one} set ({floor['n']:,} examples)"
    return alt.layer(*layers).properties(
        width=220, height=alt.Step(22), title=alt.TitleParams(title, fontSize=12, offset=4)
    )


def _shapes(labels: Mapping[str, str]) -> Any:
    found = looks(labels)
    scale = alt.Scale(domain=list(labels), range=[found[row].shape for row in labels])
    return alt.Shape("row:N", scale=scale, legend=None)
