"""What every figure has: a title, remarks beneath it, a description for who does not see it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

from mu_jax.plots._altair import alt
from mu_jax.plots.theme import INK

SIGN = 6.0  # pixels of a letter of a remark, about


def finish(
    chart: Any, title: str, description: str, notes: Iterable[str] = (), *, width: float = 620
) -> Any:
    """The chart with its title, remarks broken into lines of that many pixels, and description."""
    letters = max(int(width / SIGN), 30)
    lines = [line for note in notes if note for line in textwrap.wrap(note, letters)]
    heading = alt.TitleParams(text=title, **({"subtitle": lines} if lines else {}))
    said = " ".join([description, *(note for note in notes if note)])
    return chart.properties(title=heading, description=said)


def band(data: Any, *, x: tuple[str, str] | None = None, y: tuple[str, str] | None = None) -> Any:
    """The band of retrained models, across the whole panel, from one field to another."""
    places = {}
    if x is not None:
        places |= {"x": alt.X(f"{x[0]}:Q"), "x2": x[1]}
    if y is not None:
        places |= {"y": alt.Y(f"{y[0]}:Q"), "y2": y[1]}
    return alt.Chart(data).mark_rect(color=INK, opacity=0.12, aria=False).encode(**places)
