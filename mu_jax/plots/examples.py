"""Two rows of models side by side, example by example."""

from __future__ import annotations

from typing import Any

import numpy as np

from mu_jax.plots._altair import ChartType, alt
from mu_jax.plots._data import finite_rows, inline
from mu_jax.plots._finishing import finish
from mu_jax.plots.nothing import NothingToDraw
from mu_jax.plots.theme import INK, SOFT, adaptive
from mu_jax.plots.verdicts import AS_RETRAINED, OVER, UNDER, VERDICTS, verdicts
from mu_jax.reporting.arrays import Arrays, Examples
from mu_jax.scoring.rows import RETRAIN

MOST = 1500  # examples in a cloud
COLORS = {
    UNDER: adaptive("#b94125", "#dd5337"),
    AS_RETRAINED: adaptive("#707070", "#9a9a9a"),
    OVER: adaptive("#3786ff", "#9dd4ee"),
}
SIGNS = {UNDER: "triangle-up", AS_RETRAINED: "circle", OVER: "triangle-down"}


def examples(arrays: Arrays, first: str, second: str, set: str = "forget") -> ChartType:
    """Every example as a point: the mean margin of one row of models against that of another.

    The color is the verdict on the second row, `verdicts`: as retrained models (forgotten), under-
    or over-forgotten. Drag a rectangle in the cloud to
    choose examples (the parameter "brush"), click one to pick it ("picked"); what is chosen stays
    in full color. The bars below count the verdicts among the chosen ones.

    Args:
        arrays: of one forget set, with margins and retrained models.
        first, second: rows of models. set: "forget", "retain" or "test".

    Returns:
        An Altair chart. Of more than 1,500 examples it has 1,500: all that are not as retrained, as
        far as there is room, then others drawn without repetition, always the same ones.

    Raises:
        NothingToDraw: one of the rows has no finite margins, or fewer than two retrained models.
    """
    for name in (first, second, RETRAIN):
        if name not in arrays.examples:
            why = "are no retrained models" if name == RETRAIN else f"is no row {name!r}"
            raise NothingToDraw(f"No cloud of examples: there {why}.")
    names = list(dict.fromkeys([first, second, RETRAIN]))
    found, notes = finite_rows(arrays, "margins", (set,), names)
    for name in names:
        if name not in found:
            raise NothingToDraw(
                f"No cloud of examples: {name} has no finite margins on the {set} set."
            )
    parts = {name: part[set] for name, part in found.items()}
    rows, total = _points(parts, first, second)
    counts = {v: sum(r["verdict"] == v for r in rows) for v in VERDICTS}
    notes = [
        f"Color: {second} against the spread of {len(_margins(parts[RETRAIN]))} retrained models "
        f"(2.5th to 97.5th percentile). {set} set.",
        f"Of {total:,} examples {len(rows):,}: those not as retrained first."
        if total > len(rows)
        else "",
        *notes,
    ]
    described = (
        f"{len(rows)} examples of the {set} set, margin of {second} against {first}. {second}: "
        + ", ".join(f"{count} {name}" for name, count in counts.items())
        + "."
    )
    chart = alt.vconcat(*_views(rows, first, second), spacing=16)
    return finish(chart, f"{first} and {second}, example by example", described, notes)


def _margins(part: Examples) -> np.ndarray:
    return np.asarray(part.margins, np.float64)


def _points(
    parts: dict[str, Examples], first: str, second: str
) -> tuple[list[dict[str, Any]], int]:
    oracle = _margins(parts[RETRAIN])
    verdict = {name: verdicts(_margins(parts[name]), oracle) for name in (first, second)}
    means = {name: _margins(part).mean(axis=0) for name, part in parts.items()}
    low, high = np.percentile(oracle, [2.5, 97.5], axis=0)
    ids, targets = np.asarray(parts[first].ids), np.asarray(parts[first].targets)
    kept = _thin(verdict[second] != AS_RETRAINED)
    said = {name: _said(part) for name, part in parts.items()}
    rows = [
        {
            "id": int(ids[k]),
            "label": _label(targets, k),
            "x": float(means[first][k]),
            "y": float(means[second][k]),
            "verdict": str(verdict[second][k]),
            "other": str(verdict[first][k]),
            "oracle": float(means[RETRAIN][k]),
            "low": float(low[k]),
            "high": float(high[k]),
            "first": said[first][k],
            "second": said[second][k],
        }
        for k in kept
    ]
    return rows, len(ids)


def _thin(apart: np.ndarray) -> np.ndarray:
    """Places of no more than `MOST` examples, those apart first; sorted."""
    if apart.size <= MOST:
        return np.arange(apart.size)
    order = np.random.default_rng(0).permutation(apart.size)
    return np.sort(order[np.argsort(~apart[order], kind="stable")][:MOST])


def _label(targets: np.ndarray, k: int) -> Any:
    return targets[k].item() if targets.ndim == 1 else str(np.asarray(targets[k]).tolist())


def _said(part: Examples) -> list[str]:
    """The prediction that most models of a row make, with their share; "" where there is none."""
    said = part.predictions
    if said is None or np.ndim(said) != 2:
        return [""] * len(part.ids)
    found = []
    for column in np.asarray(said).T:
        values, counts = np.unique(column, return_counts=True)
        top = int(np.argmax(counts))
        found.append(f"{values[top]} ({100 * counts[top] / column.size:.0f} % of models)")
    return found


def _views(rows: list[dict[str, Any]], first: str, second: str) -> list[Any]:
    brush = alt.selection_interval(name="brush")
    picked = alt.selection_point(name="picked", fields=["id"], empty=False)
    scale = alt.Scale(domain=list(VERDICTS), range=[COLORS[v] for v in VERDICTS])
    hue = alt.Color("verdict:N", scale=scale, title=f"{second} is")
    signs = alt.Scale(domain=list(VERDICTS), range=[SIGNS[v] for v in VERDICTS])
    base = alt.Chart(inline(rows))
    tips = [
        alt.Tooltip("id:Q", format="d"),
        alt.Tooltip("label:N"),
        alt.Tooltip("first:N", title=f"{first} says"),
        alt.Tooltip("second:N", title=f"{second} says"),
        alt.Tooltip("x:Q", title=f"margin, {first}", format=".2f"),
        alt.Tooltip("y:Q", title=f"margin, {second}", format=".2f"),
        alt.Tooltip("oracle:Q", title="margin, retrained", format=".2f"),
        alt.Tooltip("low:Q", title="retrained from", format=".2f"),
        alt.Tooltip("high:Q", title="to", format=".2f"),
        alt.Tooltip("other:N", title=f"{first} is"),
        alt.Tooltip("verdict:N", title=f"{second} is"),
    ]
    ends = [min(min(r["x"], r["y"]) for r in rows), max(max(r["x"], r["y"]) for r in rows)]
    axis = alt.Scale(zero=False, nice=True)
    x = alt.X(
        "x:Q", title=f"margin of {first} (mean over models; surer of the label →)", scale=axis
    )
    y = alt.Y("y:Q", title=[f"margin of {second}", "(mean over models; surer ↑)"], scale=axis)
    faded = alt.condition(brush, alt.value(0.85), alt.value(0.12))
    cloud = (
        base.mark_point(filled=True, size=38)
        .encode(
            x=x,
            y=y,
            color=hue,
            shape=alt.Shape("verdict:N", scale=signs, title=f"{second} is"),
            opacity=faded,
            tooltip=tips,
        )
        .add_params(brush, picked)
    )
    ring = base.transform_filter(picked).mark_point(size=130, color=INK, aria=False)
    line = alt.Chart(inline([{"a": end} for end in ends]))
    same = line.mark_line(color=SOFT, strokeDash=[3, 3], aria=False).encode(x="a:Q", y="a:Q")
    counts = (
        base.transform_filter(brush)
        .mark_bar()
        .encode(
            x=alt.X("count():Q", title="examples chosen"),
            y=alt.Y("verdict:N", scale=alt.Scale(domain=list(VERDICTS)), title=None),
            color=hue,
            tooltip=[alt.Tooltip("verdict:N"), alt.Tooltip("count():Q", title="examples")],
        )
        .properties(width=420, height=alt.Step(22))
    )
    return [
        alt.layer(same, cloud, ring.encode(x="x:Q", y="y:Q")).properties(width=420, height=360),
        counts,
    ]
