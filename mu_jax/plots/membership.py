"""The membership attack by the loss: ROC on logarithmic axes, and what it reaches when careful."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mu_jax.plots._altair import ChartType, alt
from mu_jax.plots._data import finite_rows, inline, words
from mu_jax.plots._finishing import band, finish
from mu_jax.plots.looks import Labels, color, shape
from mu_jax.plots.theme import SOFT
from mu_jax.reporting.arrays import Arrays
from mu_jax.scoring.rows import RETRAIN

RATES = (1e-3, 1e-2)
POINTS = 32  # of a curve
MARKED = 5  # points of a curve that carry the shape of their method


class Roc(NamedTuple):
    """fpr: allowed rates f64[P]. tpr: mean over models f64[P]; low, high: its exact band."""

    fpr: np.ndarray
    tpr: np.ndarray
    low: np.ndarray
    high: np.ndarray


def membership(arrays: Arrays, rows: Sequence[str] | None = None) -> ChartType:
    """How well the loss tells forget examples from test examples, for every row of models.

    An example is taken for a member where its loss is below a threshold. A curve is the mean over
    models of the true positive rate at each false positive rate; equal losses fall on one side, and
    nothing is interpolated (`evaluation.tpr_at_fpr`). What matters is the left end, where an
    attacker is sure of those that are named, so both axes are logarithmic. The goal is the curve of
    retrained models, not the diagonal: they too lose more or less on these examples than on others.

    The band is the interval of Clopper and Pearson for the forget examples of *one* model, which
    covers with 95 % at least, and so for the mean of several. It is drawn around the retrained row,
    and around another one that is chosen in the legend; the panels on the right have all of them
    where the rate is 0.1 % and 1 %.

    Args:
        arrays: of one forget set, with losses on "forget" and "test".
        rows: which rows; None for all.

    Returns:
        An Altair chart. A curve has 32 points equally spaced in logarithms.

    Raises:
        NothingToDraw: no row has finite losses on both sets.
    """
    found, notes = finite_rows(arrays, "losses", ("forget", "test"), rows)
    first = next(iter(found.values()))
    members, others = (first[name].losses.shape[1] for name in ("forget", "test"))
    grid = np.geomspace(1 / others, 1.0, POINTS)
    labels = Labels({row: row for row in found}, arrays.examples)
    curves = {
        row: roc(part["forget"].losses, part["test"].losses, grid) for row, part in found.items()
    }
    shown = [rate for rate in RATES if rate * others >= 1 - 1e-9]
    points = {
        row: roc(part["forget"].losses, part["test"].losses, np.array(shown))
        for row, part in found.items()
    }
    panels = [_curves(curves, labels)]
    panels += [_rate(rate, k, points, labels) for k, rate in enumerate(shown)]
    notes = [
        f"{members:,} forget and {others:,} test examples; mean over models. "
        + (
            "Bands: exact 95 % intervals; gray: chance; the goal is the retrained curve."
            if RETRAIN in found
            else "No retrained models: nothing says what to reach."
        ),
        *(
            f"A rate of {_percent(rate)} needs {1 / rate:,.0f} test examples, there are {others:,}."
            for rate in RATES
            if rate not in shown
        ),
        *notes,
    ]
    said = (
        ", ".join(f"{row} {100 * value.tpr[-1]:.1f} %" for row, value in points.items())
        if shown
        else ""
    )
    described = f"ROC curves of a membership attack on {len(found)} rows: {words(found)}." + (
        f" True positive rate at a false positive rate of {_percent(shown[-1])}: {said}."
        if said
        else ""
    )
    own = {"color": "independent", "shape": "independent"}  # the legend is that of the curves
    chart = alt.hconcat(*panels, spacing=24).resolve_scale(**own)
    return finish(chart, "Membership attack by the loss", described, notes, width=760)


def _percent(rate: float) -> str:
    return f"{100 * rate:g} %"


def roc(forget_losses: np.ndarray, test_losses: np.ndarray, fpr: np.ndarray) -> Roc:
    """True positive rates f64[P] at the allowed false positive rates, with their exact band.

    Args:
        forget_losses: f32[N, m]. test_losses: f32[N, n]. fpr: f64[P], at least 1 / n each.
    """
    others = test_losses.shape[1]
    allowed = np.minimum((others * fpr * (1 + 1e-12)).astype(int), others)
    tpr = np.mean(
        [_one(mine, theirs, allowed) for mine, theirs in zip(forget_losses, test_losses)], axis=0
    )
    return Roc(np.asarray(fpr), tpr, *exact_band(tpr, forget_losses.shape[1]))


def _one(members: np.ndarray, others: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Of one model: the share of members with a loss below the first that is not allowed in."""
    barrier = np.append(np.sort(others), np.inf)[allowed]
    return np.searchsorted(np.sort(members), barrier, side="left") / members.size


def exact_band(share: np.ndarray, trials: int, level: float = 0.95) -> tuple[Any, Any]:
    """The ends of Clopper and Pearson, of a mean of shares as for one model, rounded outwards.

    Args:
        share: f64[P], of `trials` examples each. trials: number of examples.

    Example:
        >>> low, high = exact_band(np.array([1.0]), 10)
        >>> round(float(low[0]), 3), float(high[0])
        (0.692, 1.0)
    """
    from scipy.stats import beta

    successes = np.round(np.asarray(share, np.float64) * trials, 9)
    least, most = np.floor(successes), np.ceil(successes)
    tail = (1 - level) / 2
    low = np.where(least == 0, 0.0, beta.ppf(tail, least, trials - least + 1))
    high = np.where(most == trials, 1.0, beta.ppf(1 - tail, most + 1, trials - most))
    return low, high


def _curves(curves: dict[str, Roc], labels: Labels) -> Any:
    least = min(float(found.fpr[0]) for found in curves.values())
    bottom = least / 2  # a rate of 0 has no place on an axis of logarithms
    rows = []
    for row, found in curves.items():
        marked = set(np.linspace(0, POINTS - 1, MARKED).round().astype(int).tolist())
        for k in range(len(found.fpr)):
            rows.append(
                {
                    "row": row,
                    "fpr": found.fpr[k] * 100,
                    "tpr": found.tpr[k] * 100,
                    "y": max(found.tpr[k], bottom) * 100,
                    "low": max(found.low[k], bottom) * 100,
                    "high": found.high[k] * 100,
                    **({"marked": 1} if k in marked else {}),
                }
            )
    scale = alt.Scale(type="log", domain=[bottom * 100, 100], nice=False)
    axis = alt.Axis(format="~g", values=[0.01, 0.1, 1, 10, 100], labelOverlap=False)
    x = alt.X("fpr:Q", scale=scale, axis=axis, title="false positive rate, % of test examples")
    y = alt.Y(
        "y:Q",
        scale=scale,
        axis=axis,
        title=["true positive rate, % of forget examples", "(closer to retrained is better)"],
    )
    chosen = alt.selection_point(fields=["row"], bind="legend", name="chosen", empty=False)
    base = alt.Chart(inline(rows))
    tips = [
        alt.Tooltip("row:N"),
        alt.Tooltip("fpr:Q", title="false positive rate, %", format=".3~g"),
        alt.Tooltip("tpr:Q", title="true positive rate, %", format=".3~g"),
        alt.Tooltip("low:Q", title="from", format=".3~g"),
        alt.Tooltip("high:Q", title="to", format=".3~g"),
    ]
    diagonal = alt.Chart(inline([{"a": bottom * 100}, {"a": 100}]))
    bands = base.mark_area(opacity=0.14, aria=False).encode(
        x=x, y=alt.Y("low:Q", scale=scale), y2="high", color=color(labels)
    )
    return (
        alt.layer(
            bands.transform_filter(f"datum.row == '{RETRAIN}'"),
            bands.transform_filter(chosen),
            diagonal.mark_line(color=SOFT, strokeDash=[2, 3], aria=False).encode(x="a:Q", y="a:Q"),
            base.mark_line(strokeWidth=1.8, aria=False).encode(x=x, y=y, color=color(labels)),
            base.transform_filter("datum.marked")
            .mark_point(filled=True, size=48, opacity=1)
            .encode(x=x, y=y, color=color(labels), shape=shape(labels), tooltip=tips),
        )
        .add_params(chosen)
        .properties(width=340, height=340)
    )


def _rate(rate: float, place: int, points: dict[str, Roc], labels: Labels) -> Any:
    rows = [
        {
            "row": row,
            "tpr": found.tpr[place] * 100,
            "low": found.low[place] * 100,
            "high": found.high[place] * 100,
        }
        for row, found in points.items()
    ]
    names = list(labels)
    axis = alt.Axis(title=None, ticks=False, domain=False, grid=False, labelPadding=8)
    y = alt.Y("row:N", sort=names, axis=axis)
    x = alt.X("tpr:Q", title="true positive rate, %", scale=alt.Scale(padding=8))
    base = alt.Chart(inline(rows))
    layers = [
        alt.Chart(inline([{"x": rate * 100}]))
        .mark_rule(color=SOFT, strokeDash=[2, 3], aria=False)
        .encode(x="x:Q")
    ]
    if RETRAIN in points:
        target = next(row for row in rows if row["row"] == RETRAIN)
        layers.append(band(inline([{"a": target["low"], "b": target["high"]}]), x=("a", "b")))
    tips = [
        alt.Tooltip("row:N"),
        alt.Tooltip("tpr:Q", title=f"true positive rate at {_percent(rate)}, %", format=".3~g"),
        alt.Tooltip("low:Q", title="from", format=".3~g"),
        alt.Tooltip("high:Q", title="to", format=".3~g"),
    ]
    layers += [
        base.mark_rule(strokeWidth=1.5, aria=False).encode(
            x=alt.X("low:Q"), x2="high", y=y, color=color(labels, legend=None)
        ),
        base.mark_point(filled=True, size=70, opacity=1).encode(
            x=x,
            y=y,
            color=color(labels, legend=None),
            shape=shape(labels, legend=None),
            tooltip=tips,
        ),
    ]
    title = alt.TitleParams(f"at a false positive rate of {_percent(rate)}", fontSize=12, offset=4)
    return alt.layer(*layers).properties(width=130, height=alt.Step(20), title=title)
