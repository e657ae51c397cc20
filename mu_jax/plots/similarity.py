"""Layer by layer: how alike the representations are to those before and those of retraining."""

from __future__ import annotations

from typing import Any

import numpy as np

from mu_jax.plots._altair import ChartType, alt
from mu_jax.plots._data import constant, inline, one_each, spread, words
from mu_jax.plots._finishing import finish
from mu_jax.plots.nothing import NothingToDraw
from mu_jax.plots.theme import GRAY, INK
from mu_jax.reporting.arrays import Arrays, Similarity

TO_ORIGINAL, TO_ORACLE = "to the original", "to retrained models"


def similarity(arrays: Arrays, row: str) -> ChartType:
    """Linear CKA of every layer to the original and to retrained models, a panel a set.

    The band spans what retrained models have among themselves: in it a layer is as like to a
    retrained model as another retrained model is. Bars are the 95 % interval over models, of few
    models their range.

    Args:
        arrays: of one forget set, with `similarity` of the row. row: of models.

    Returns:
        An Altair chart with two points for every layer and set.

    Raises:
        NothingToDraw: no similarities of the row, or none that are finite.
    """
    sets = arrays.similarity.get(row, {})
    if not sets:
        raise NothingToDraw(f"No similarity of layers: none was measured for {row!r}.")
    panels: list[Any] = []
    notes, said = [], []
    known = False
    for name, found in sets.items():
        points, bands, lost = _rows(found)
        if lost:
            notes.append(f"{name} set: no finite similarity of {words(lost)}.")
        known = known or bool(bands)
        if points:
            panels.append(_panel(name, points, bands, list(found.layers), first=not panels))
            least = min(points, key=lambda p: p["y"])
            said.append(f"{name} set: least {least['y']:.2f} {least['to']} in {least['layer']}.")
    if not panels:
        raise NothingToDraw(f"No similarity of layers of {row!r}: no value is finite.")
    notes = [
        "Band: retrained models among themselves, the goal of the line to retrained models."
        if known
        else "No band: fewer than two retrained models say how like to one another layers are.",
        *notes,
        *one_each(len(found.to_original) for found in sets.values()),
        *constant(arrays, [row]),
    ]
    described = f"Linear CKA of the layers of {row}. {' '.join(said)}"
    chart = alt.hconcat(*panels, spacing=20).resolve_scale(y="shared")
    title = f"Similarity of layers: {row}"
    return finish(chart, title, described, notes, width=260 * len(panels) + 100)


def _rows(found: Similarity) -> tuple[list[dict], list[dict], list[str]]:
    points: list[dict[str, Any]] = []
    bands, lost = [], []
    for k, layer in enumerate(found.layers):
        for to, values in ((TO_ORIGINAL, found.to_original), (TO_ORACLE, found.to_oracle)):
            own = np.asarray(values, np.float64)[:, k]
            own = own[np.isfinite(own)]
            if not own.size:
                lost.append(f"{layer} {to}")
                continue
            one = spread(own)
            points.append(
                {
                    "layer": layer,
                    "to": to,
                    "y": one.mean,
                    "low": one.low,
                    "high": one.high,
                    "what": one.what,
                }
            )
        low, high = float(found.low[k]), float(found.high[k])
        if np.isfinite([low, high]).all():
            bands.append({"layer": layer, "low": low, "high": high})
    return points, bands, lost


def _panel(
    name: str, points: list[dict], bands: list[dict], layers: list[str], *, first: bool
) -> Any:
    x = alt.X(
        "layer:N",
        sort=layers,
        title="layer, from input to output",
        axis=alt.Axis(labelAngle=-40, grid=False, labelOverlap=False),
    )
    title = ["linear CKA", "(the band of retrained models is the goal)"] if first else None
    y = alt.Y("y:Q", title=title, scale=alt.Scale(zero=False))
    domain = [TO_ORIGINAL, TO_ORACLE]
    hue = alt.Color("to:N", scale=alt.Scale(domain=domain, range=[GRAY, INK]), title="similarity")
    sign = alt.Shape(
        "to:N", scale=alt.Scale(domain=domain, range=["square", "circle"]), title="similarity"
    )
    tips = [
        alt.Tooltip("layer:N"),
        alt.Tooltip("to:N", title="similarity"),
        alt.Tooltip("y:Q", title="linear CKA", format=".3f"),
        alt.Tooltip("low:Q", title="from", format=".3f"),
        alt.Tooltip("high:Q", title="to", format=".3f"),
        alt.Tooltip("what:N", title="which is"),
    ]
    base = alt.Chart(inline(points))
    return alt.layer(
        alt.Chart(inline(bands))
        .mark_bar(color=INK, opacity=0.16, width={"band": 1.0}, aria=False)
        .encode(x=x, y=alt.Y("low:Q"), y2="high"),
        base.mark_line(aria=False).encode(x=x, y=y, color=hue),
        base.mark_rule(aria=False).encode(x=x, y=alt.Y("low:Q"), y2="high", color=hue),
        base.mark_point(filled=True, size=60, opacity=1).encode(
            x=x, y=y, color=hue, shape=sign, tooltip=tips
        ),
    ).properties(
        width=max(120, 34 * len(layers)),
        height=240,
        title=alt.TitleParams(f"{name} set", fontSize=12, offset=4),
    )
