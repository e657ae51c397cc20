"""What the forget set is taken for, and how surely."""

from __future__ import annotations

from typing import Any

import numpy as np

from mu_jax.plots._altair import ChartType, alt
from mu_jax.plots._data import finite_rows, inline, one_each, spread
from mu_jax.plots._finishing import finish
from mu_jax.plots.nothing import NothingToDraw
from mu_jax.plots.theme import SOFT
from mu_jax.reporting.arrays import Arrays, Examples
from mu_jax.scoring.rows import RETRAIN


def confusion(arrays: Arrays, row: str, set: str = "forget") -> ChartType:
    """The classes predicted for the forget set, beside those that retrained models predict.

    A disk is a pair of true and predicted class. Its area is the share of the class's examples,
    over all models; its color the mean probability that the models give to the *true* class of
    these examples, `exp(-loss)`: on the diagonal the confidence of the prediction.

    Args:
        arrays: of one forget set, with predictions and losses, cross-entropies. row: of models.
        set: "forget", "retain" or "test".

    Returns:
        An Altair chart: one panel, and one of the retrained models where there are any. It has a
        number for every pair that occurs, with its interval over models.

    Raises:
        NothingToDraw: no such row, or targets that are no classes.
    """
    where = set
    if row not in arrays.examples:
        raise NothingToDraw(f"No confusion: there are no arrays of {row!r}.")
    found, notes = finite_rows(arrays, "losses", (where,), list(dict.fromkeys([row, RETRAIN])))
    if row not in found:
        raise NothingToDraw(f"No confusion: {' '.join(notes)}")
    cells = {name: _cells(name, part[where]) for name, part in found.items()}
    labels = sorted({cell["label"] for rows in cells.values() for cell in rows})
    said = sorted({cell["said"] for rows in cells.values() for cell in rows} | {*labels})
    panels = [
        _panel(name, cells[name], labels, said, first=name == row)
        for name in (row, RETRAIN)
        if name in cells
    ]
    notes = [
        f"{where} set. Area: share of a class's examples. Color: probability of the true class.",
        "" if RETRAIN in cells else "No retrained models to compare with.",
        *one_each(len(part[where].losses) for part in found.values()),
        *(note for note in notes if not note.startswith("Without losses")),
    ]
    top = max(cells[row], key=lambda cell: cell["share"])
    described = (
        f"Predictions of {row} on the {where} set. Most common: {top['share']:.0f} % of class "
        f"{top['label']} taken for class {top['said']}."
    )
    chart = alt.hconcat(*panels, spacing=24).resolve_scale(size="shared", color="shared")
    return finish(chart, f"What the {where} set is taken for", described, notes, width=640)


def _cells(row: str, part: Examples) -> list[dict[str, Any]]:
    targets = np.asarray(part.targets)
    if (
        targets.ndim != 1
        or not np.issubdtype(targets.dtype, np.integer)
        or part.predictions is None
        or np.ndim(part.predictions) != 2
    ):
        raise NothingToDraw("No confusion: the targets are no classes, or nothing is predicted.")
    said, sure = np.asarray(part.predictions), np.exp(-np.asarray(part.losses, np.float64))
    cells = []
    for label in np.unique(targets):
        here = targets == label
        for other in np.unique(said[:, here]):
            chosen = said[:, here] == other
            found = spread(chosen.mean(axis=1), fraction=True)
            cells.append(
                {
                    "row": row,
                    "label": int(label),
                    "said": int(other),
                    "share": 100 * found.mean,
                    "low": 100 * found.low,
                    "high": 100 * found.high,
                    "what": found.what,
                    "sure": float(sure[:, here][chosen].mean()),
                    "n": int(here.sum()),
                }
            )
    return cells


def _panel(
    row: str, cells: list[dict[str, Any]], labels: list[int], said: list[int], *, first: bool
) -> Any:
    tips = [
        alt.Tooltip("row:N"),
        alt.Tooltip("label:O", title="class"),
        alt.Tooltip("said:O", title="taken for"),
        alt.Tooltip("share:Q", title="share, %", format=".1f"),
        alt.Tooltip("low:Q", title="from", format=".1f"),
        alt.Tooltip("high:Q", title="to", format=".1f"),
        alt.Tooltip("what:N", title="which is"),
        alt.Tooltip("sure:Q", title="probability of the true class", format=".2f"),
        alt.Tooltip("n:Q", title="examples of the class"),
    ]
    step = 26
    color = alt.Color(
        "sure:Q",
        scale=alt.Scale(scheme="viridis", domain=[0, 1]),
        title=["probability", "of the true class"],
    )
    size = alt.Size(
        "share:Q",
        scale=alt.Scale(domain=[0, 100], range=[4, 0.8 * step**2]),
        title=["share of the", "class, %"],
        legend=alt.Legend(values=[5, 25, 50, 100], symbolFillColor=SOFT, symbolStrokeWidth=0),
    )
    return (
        alt.Chart(inline(cells))
        .mark_circle(opacity=1)
        .encode(
            x=alt.X(
                "said:O",
                title="predicted class",
                axis=alt.Axis(labelAngle=0),
                scale=alt.Scale(domain=said),
            ),
            y=alt.Y("label:O", title="class" if first else None, scale=alt.Scale(domain=labels)),
            color=color,
            size=size,
            tooltip=tips,
        )
        .properties(
            width=alt.Step(step),
            height=alt.Step(step),
            title=alt.TitleParams(row, fontSize=12, offset=4),
        )
    )
