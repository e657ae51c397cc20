"""One look of all figures, light and dark: fonts, grid, background, and colors that suit either."""

from __future__ import annotations

from typing import Any

from mu_jax.plots._altair import alt

LIGHT, DARK = "#ffffff", "#15181c"  # backgrounds
WIDTH, HEIGHT = 460, 300  # of a figure with one panel
TEXT = {False: "#1d2126", True: "#e6e8ea"}
FAINT = {False: "#596068", True: "#a5adb5"}
GRID = {False: "#e3e6e9", True: "#2c3138"}


def adaptive(light: str, dark: str) -> Any:
    """One color on a light background and another on a dark one, chosen where the chart is drawn.

    A chart is declared once: what it looks like follows from the background of `theme`.
    """
    return alt.ExprRef(f"luminance(background) < 0.2 ? '{dark}' : '{light}'")


INK = adaptive("#000000", "#ffffff")  # retrained models
GRAY = adaptive("#707070", "#9a9a9a")  # the untouched model
SOFT = adaptive(FAINT[False], FAINT[True])  # remarks
PAPER = adaptive(LIGHT, DARK)


def theme(dark: bool = False) -> dict[str, Any]:
    """The configuration of Vega-Lite under which the figures are drawn.

    The colors of the marks follow the background that stands here, so that the same chart serves
    both: put this under "config" of its specification.

    Args:
        dark: light signs on a dark ground.

    Returns:
        The value of "config".

    Example:
        >>> theme(dark=True)["background"]
        '#15181c'
        >>> import altair
        >>> chart = altair.Chart(altair.InlineData([])).mark_point()
        >>> spec = chart.to_dict() | {"config": theme(dark=True)}
    """
    text, faint, grid = TEXT[dark], FAINT[dark], GRID[dark]
    return {
        "background": DARK if dark else LIGHT,
        "padding": 8,
        "font": "Helvetica, Arial, sans-serif",
        "view": {"stroke": grid, "continuousWidth": WIDTH, "continuousHeight": HEIGHT},
        "title": {
            "color": text,
            "subtitleColor": faint,
            "fontSize": 14,
            "subtitleFontSize": 11,
            "subtitlePadding": 4,
            "subtitleLineHeight": 14,
            "anchor": "start",
            "frame": "group",
            "offset": 10,
        },
        "axis": {
            "domainColor": faint,
            "tickColor": faint,
            "gridColor": grid,
            "labelColor": text,
            "titleColor": text,
            "titleFontWeight": "normal",
            "titleFontSize": 12,
            "labelFontSize": 11,
            "labelLimit": 260,
            "labelOverlap": "greedy",
            "labelSeparation": 4,
            "labelFlush": False,
        },
        "legend": {
            "labelColor": text,
            "titleColor": text,
            "titleFontWeight": "normal",
            "titleFontSize": 12,
            "labelFontSize": 11,
            "labelLimit": 260,
            "symbolLimit": 0,
            "symbolSize": 70,
        },
        "header": {
            "labelColor": text,
            "titleColor": text,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "labelLimit": 260,
        },
        "text": {"color": text, "fontSize": 11},
    }
