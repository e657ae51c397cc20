"""Pictures: means of several runs with their intervals, as SVG."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mu_jax import _files as files
from mu_jax import evaluation
from mu_jax._extras import extra


class Panel(NamedTuple):
    """One diagram.

    title: above it. x, y: words at the axes. curves: by name, float [runs, points]. ticks: words
    in place of the numbers 0, 1, ... below the points.
    """

    title: str
    x: str
    y: str
    curves: Mapping[str, ArrayLike]
    ticks: tuple[str, ...] = ()


def require() -> None:
    """Refuse to begin without the package that draws.

    Raises:
        ModuleNotFoundError: without the extra `charts`.
    """
    with extra("charts"):
        import matplotlib  # noqa: F401


def draw_panels(path: str | os.PathLike[str], panels: Sequence[Panel]) -> None:
    """Draw diagrams beside one another: the mean over runs, and a band around it.

    A name has one color in all of them; the legend stands in the first.

    The band is the 95 % interval of the mean (`evaluation.t_interval`), and for fewer than eight
    runs the range of the runs. Equal input gives equal bytes.

    Args:
        path: of the file, written whole or not at all; it ends in `.svg`.
        panels: at least one.

    Raises:
        ValueError: another ending, no panels, no curves, or curves that are not [runs, points].
        ModuleNotFoundError: without the extra `charts`.
    """
    if os.path.splitext(os.fspath(path))[1] != ".svg":
        raise ValueError(
            f"expected a path that ends in .svg, found {os.fspath(path)!r}: name such a file"
        )
    if not panels or not all(panel.curves for panel in panels):
        raise ValueError("expected at least one curve in every panel, found none: leave it out")
    with extra("charts"):
        import matplotlib
        from matplotlib.figure import Figure

    names = dict.fromkeys(name for panel in panels for name in panel.curves)
    colors = {name: f"C{place}" for place, name in enumerate(names)}
    with matplotlib.rc_context({"svg.hashsalt": "mu_jax", "svg.fonttype": "none"}):
        figure = Figure(figsize=(4.8 * len(panels), 3.6), layout="constrained")
        for place, panel in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), place + 1)
            _draw(axes, panel, colors, legend=place == 0)
        with files.replacing(path) as file:
            figure.savefig(file, format="svg", metadata={"Date": None})


def _draw(axes: Any, panel: Panel, colors: Mapping[str, str], *, legend: bool) -> None:
    for name, given in panel.curves.items():
        values = np.asarray(given, np.float64)
        if values.ndim != 2 or not values.size:
            raise ValueError(
                f"expected values [runs, points] of {name!r}, found shape {values.shape}: stack "
                "the runs on the first axis"
            )
        mean, low, high = np.transpose([_band(column) for column in values.T])
        place = np.arange(values.shape[1])
        style = {"color": colors[name], "marker": "o" if panel.ticks else ""}
        axes.plot(place, mean, label=f"{name} (n={len(values)})", **style)
        if panel.ticks:
            sides = np.array([mean - low, high - mean])
            axes.errorbar(place, mean, sides, color=colors[name], capsize=3, linestyle="")
        else:
            axes.fill_between(place, low, high, color=colors[name], alpha=0.2, linewidth=0)
    axes.set_title(panel.title, fontsize=10)
    axes.set_xlabel(panel.x)
    axes.set_ylabel(panel.y)
    if panel.ticks:
        axes.set_xticks(range(len(panel.ticks)), panel.ticks)
        axes.margins(x=0.2)
    if legend:
        axes.legend(fontsize=8)


def _band(values: np.ndarray) -> tuple[float, float, float]:
    try:
        found = evaluation.t_interval(values)
    except ValueError:  # too few, or equal: the range is all there is
        return float(values.mean()), float(values.min()), float(values.max())
    return found.estimate, found.low, found.high
