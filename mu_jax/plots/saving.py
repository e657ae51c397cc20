"""Charts as files: PNG, SVG and PDF for papers, HTML for a browser, JSON for other programs."""

from __future__ import annotations

import json
import os
from typing import Any

from mu_jax import _files as files
from mu_jax._extras import extra
from mu_jax.plots._altair import ChartType
from mu_jax.plots.theme import theme

ENDINGS = (".png", ".svg", ".pdf", ".html", ".json")


def save(
    chart: ChartType, path: str | os.PathLike[str], *, dark: bool = False, scale: float = 2.0
) -> None:
    """Write a chart under the theme of this package; vl-convert draws it, without any network.

    Equal charts give equal bytes for a version of vl-convert. The HTML file holds Vega-Lite itself.

    Args:
        chart: of this package or any other Altair chart.
        path: ends in .png, .svg, .pdf, .html or .json (the specification with the theme); the file
            is written whole or not at all.
        dark: the dark theme. scale: pixels of a PNG for a pixel of the chart.

    Raises:
        ValueError: another ending.
        ModuleNotFoundError: without the extra `charts`.

    Example:
        >>> import tempfile, altair
        >>> chart = altair.Chart(altair.InlineData([{"x": 1}])).mark_point().encode(x="x:Q")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(chart, f"{folder}/chart.json")
        ...     os.listdir(folder)
        ['chart.json']
    """
    ending = check_ending(path)
    data = _drawn(specification(chart, dark=dark), ending, scale)
    with files.replacing(path) as file:
        file.write(data if isinstance(data, bytes) else data.encode())


def check_ending(path: str | os.PathLike[str]) -> str:
    """The ending of a file that `save` can write, such as ".svg".

    Raises:
        ValueError: another ending.
    """
    ending = os.path.splitext(os.fspath(path))[1].lower()
    if ending not in ENDINGS:
        raise ValueError(
            f"expected a path that ends in {', '.join(ENDINGS)}, found {os.fspath(path)!r}: name "
            "such a file"
        )
    return ending


def require() -> None:
    """Refuse to begin without the package that draws.

    Raises:
        ModuleNotFoundError: without the extra `charts`.
    """
    with extra("charts"):
        import vl_convert  # noqa: F401


def specification(chart: ChartType, *, dark: bool = False) -> dict[str, Any]:
    """The Vega-Lite specification of a chart, with the theme as its configuration."""
    return chart.to_dict() | {"config": theme(dark)}


def _drawn(spec: dict[str, Any], ending: str, scale: float) -> bytes | str:
    if ending == ".json":
        return json.dumps(spec, allow_nan=False)
    with extra("charts"):
        import vl_convert
    if ending == ".png":
        return vl_convert.vegalite_to_png(spec, scale=scale)
    if ending == ".svg":
        return vl_convert.vegalite_to_svg(spec)
    if ending == ".pdf":
        return vl_convert.vegalite_to_pdf(spec)
    return vl_convert.vegalite_to_html(spec, bundle=True)
