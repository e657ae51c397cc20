"""The table of what each method means to do: its `aim`, and the first sentence of its docstring.

A page says {aims} in a fence of its own.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from reference import first_sentence
from sphinx.application import Sphinx

import mu_jax as mu

_TABLE = re.compile(r"^```\{aims\}\n```$", re.MULTILINE)
_PAGES = Path(__file__).resolve().parents[1] / "methods"


def methods() -> dict[str, str]:
    """The aim of every method of `mu.transforms`, by its name."""
    found = {name: getattr(mu.transforms, name) for name in mu.transforms.__all__}
    return {
        name: getattr(thing, "aim", "removal")
        for name, thing in found.items()
        if inspect.isfunction(thing)
    }


def table() -> str:
    """The methods as Markdown, those that hide first."""
    rows = sorted(methods().items(), key=lambda row: (row[1] == "removal", row[0]))
    lines = [f"| {_link(name)} | {aim} | {_what(name)} |" for name, aim in rows]
    return "\n".join(["| method | aim | what it does |", "|---|---|---|", *lines])


def _link(name: str) -> str:
    page = _PAGES / f"{name}.md"
    return f"[`mu.{name}`](../methods/{name}.md)" if page.exists() else f"`mu.{name}`"


def _what(name: str) -> str:
    return first_sentence(getattr(mu.transforms, name))


def fill(app: Sphinx, document: str, source: list[str]) -> None:
    """Puts the table in its place on a page."""
    source[0] = _TABLE.sub(lambda match: table(), source[0])


def setup(app: Sphinx) -> dict[str, Any]:
    """Connects the table."""
    app.connect("source-read", fill)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
