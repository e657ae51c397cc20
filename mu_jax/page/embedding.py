"""What stands inside the page: packed data, scripts, style, and the library that draws."""

from __future__ import annotations

import base64
import functools
import gzip
import importlib.resources
import json
from typing import Any

import vl_convert

SCRIPTS = ("pack.js", "looks.js", "tables.js", "charts.js", "cards.js", "explorer.js")


def pack(value: Any) -> str:
    """JSON as gzip in base64: a sixth of its size, and no sign of it is markup.

    Example:
        >>> import base64, gzip
        >>> gzip.decompress(base64.b64decode(pack([1, "</script>"]))).decode()
        '[1,"</script>"]'
    """
    return pack_text(json.dumps(value, separators=(",", ":"), allow_nan=False))


def pack_text(text: str) -> str:
    """Text as `pack` packs JSON; equal text gives equal signs."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def asset(name: str) -> str:
    """The text of a script or style sheet of the page."""
    return importlib.resources.files("mu_jax.page").joinpath("assets", name).read_text("utf-8")


@functools.cache
def drawing_library() -> str:
    """Vega, Vega-Lite and vega-embed as one script, from the files of vl-convert."""
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    if "</script" in script.lower() or "<!--" in script:
        raise ValueError(
            "expected a drawing library that can stand in a page, found the end of a script in it: "
            "install another version of vl-convert-python"
        )
    return script
