"""Class by class: how far the accuracy is from that of retrained models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mu_jax.plots._altair import ChartType, alt
from mu_jax.plots._data import finite_rows, inline, spread, words
from mu_jax.plots._finishing import finish
from mu_jax.plots.looks import Look, look_of
from mu_jax.plots.nothing import NothingToDraw
from mu_jax.plots.theme import INK
from mu_jax.reporting.arrays import Arrays, Examples
from mu_jax.scoring.rows import RETRAIN

MOST = 20  # classes
COLUMNS = 4


def classes(arrays: Arrays, set: str = "test", rows: Sequence[str] | None = None) -> ChartType:
    """The accuracy of every class minus that of retrained models, a panel a row of models.

    The zero line is the mean of the retrained models, the gray bar behind a class their range: what
    lies within it is no change. The rule is the 95 % interval over models (of few models their
    range; of one model the exact interval over its examples).

    Args:
        arrays: of one forget set, with predicted classes.
        set: "test", "forget" or "retain".
        rows: which rows; None for all but the retrained one.

    Returns:
        An Altair chart, classes sorted by their greatest change. Of more than 20 classes it has the
        20 that change most.

    Raises:
        NothingToDraw: no retrained models, or targets that are no classes.
    """
    where = set
    if RETRAIN not in arrays.examples:
        raise NothingToDraw("No change of classes: there are no retrained models to compare with.")
    found, notes = finite_rows(arrays, "losses", (where,), rows and [RETRAIN, *rows])
    parts = {row: part[where] for row, part in found.items()}
    if RETRAIN not in parts:
        raise NothingToDraw("No change of classes: no retrained model has finite losses.")
    labels = _labels(parts, where)
    names = np.unique(np.concatenate([labels, _all_classes(arrays)]))
    present = [int(name) for name in names if (labels == name).any()]
    absent = [int(name) for name in names if not (labels == name).any()]
    target = {c: accuracies(parts[RETRAIN], c) for c in present}
    others = [row for row in parts if row != RETRAIN]
    if not others:
        raise NothingToDraw("No change of classes: there is no row but the retrained one.")
    changes = [_change(row, parts[row], c, target[c]) for row in others for c in present]
    order = sorted(present, key=lambda c: -max(abs(r["x"]) for r in changes if r["class"] == c))
    shown = sorted(order[:MOST], key=order.index)
    bands = [
        {"class": c, "low": 100 * (v.min() - v.mean()), "high": 100 * (v.max() - v.mean())}
        for c, v in target.items()
        if c in shown
    ]
    panels = [
        _panel(row, look_of(arrays, row), changes, bands, shown, left=k % COLUMNS == 0)
        for k, row in enumerate(others)
    ]
    notes = [
        _goal(where, len(parts[RETRAIN].losses)),
        f"Of {len(present)} classes the {MOST} that change most." if len(present) > MOST else "",
        f"No examples in the {where} set, so nothing is drawn: class {words(absent)}."
        if absent
        else "",
        *notes,
    ]
    worst = max(changes, key=lambda r: abs(r["x"]))
    described = (
        f"Accuracy by class minus that of retrained models on the {where} set for {words(others)}. "
        f"Greatest change: {worst['row']} in class {worst['class']}, {worst['x']:+.1f} points."
    )
    chart = alt.concat(*panels, columns=COLUMNS, spacing=12).resolve_scale(x="shared")
    return finish(chart, "Accuracy by class, minus retrained", described, notes, width=720)


def _goal(where: str, retrained: int) -> str:
    if retrained == 1:
        return f"{where} set; the zero line is the only retrained model: its range is not known."
    return (
        f"{where} set; gray: the range of {retrained} retrained models around their mean, the goal."
    )


def _labels(parts: Mapping[str, Examples], where: str) -> np.ndarray:
    targets = np.asarray(parts[RETRAIN].targets)
    has_all = all(part.predictions is not None for part in parts.values())
    if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer) or not has_all:
        raise NothingToDraw(
            f"No change of classes: the targets on the {where} set are no classes, or nothing is "
            "predicted."
        )
    return targets


def _all_classes(arrays: Arrays) -> np.ndarray:
    """Every class that any set of the retrained row has."""
    return np.unique(
        np.concatenate([np.ravel(part.targets) for part in arrays.examples[RETRAIN].values()])
    )


def accuracies(part: Examples, name: int) -> np.ndarray:
    """The accuracy of every model on the examples of one class, f64[N]."""
    here = np.asarray(part.targets) == name
    return (np.asarray(part.predictions)[:, here] == name).mean(axis=1)


def _change(row: str, part: Examples, name: int, target: np.ndarray) -> dict[str, Any]:
    own = accuracies(part, name)
    examples = int((np.asarray(part.targets) == name).sum())
    found = spread(own, fraction=True)
    low, high, what = found.low, found.high, found.what
    if len(own) == 1:
        from mu_jax import evaluation

        low, high = evaluation.clopper_pearson(round(own[0] * examples), examples)[1:3]
        what = f"exact 95 % interval over {examples} examples"
    middle = target.mean()
    return {
        "row": row,
        "class": name,
        "x": 100 * (found.mean - middle),
        "low": 100 * (low - middle),
        "high": 100 * (high - middle),
        "own": 100 * found.mean,
        "retrained": 100 * middle,
        "n": examples,
        "what": what,
    }


def _panel(
    row: str,
    look: Look,
    changes: Sequence[Mapping[str, Any]],
    bands: Sequence[Mapping[str, Any]],
    shown: Sequence[int],
    *,
    left: bool,
) -> Any:
    axis = alt.Axis(title="class" if left else None, labels=left, ticks=False, grid=False)
    y = alt.Y("class:O", sort=list(shown), axis=axis)
    data = [r for r in changes if r["row"] == row and r["class"] in shown]
    base = alt.Chart(inline(data))
    tips = [
        alt.Tooltip("row:N"),
        alt.Tooltip("class:O"),
        alt.Tooltip("own:Q", title="accuracy, %", format=".1f"),
        alt.Tooltip("retrained:Q", title="retrained, %", format=".1f"),
        alt.Tooltip("x:Q", title="difference, points", format="+.1f"),
        alt.Tooltip("low:Q", title="from", format="+.1f"),
        alt.Tooltip("high:Q", title="to", format="+.1f"),
        alt.Tooltip("what:N", title="which is"),
        alt.Tooltip("n:Q", title="examples"),
    ]
    return alt.layer(
        alt.Chart(inline(bands))
        .mark_bar(color=INK, opacity=0.16, height={"band": 1.0}, aria=False)
        .encode(x=alt.X("low:Q"), x2="high", y=y),
        alt.Chart(inline([{"x": 0}])).mark_rule(color=INK, aria=False).encode(x="x:Q"),
        base.mark_bar(height={"band": 0.55}, color=look.color).encode(
            x=alt.X("x:Q", title="points against retrained"), y=y, tooltip=tips
        ),
        base.mark_rule(color=INK, strokeWidth=1.2, aria=False).encode(
            x=alt.X("low:Q"), x2="high", y=y
        ),
    ).properties(width=150, height=alt.Step(16), title=alt.TitleParams(row, fontSize=12, offset=4))
