"""Sphinx: the tables of the pages of the methods, made when the pages are built.

Directives: `needs`, what a method needs, on its page; `tuned` and `measured`, its settings and what
was measured of it; `methods`, the table of all methods.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import measured
import method_facts as facts
import tuned


class Made(SphinxDirective):
    """A directive whose content is Markdown that is made of files of the repository."""

    optional_arguments = 1

    def markdown(self) -> str:
        """The content."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """The nodes of the content."""
        for path in [*measured.sources(), *(facts.ROOT / "mu_jax/transforms").rglob("*.py")]:
            self.env.note_dependency(str(path))
        parent = nodes.container()
        lines = StringList(self.markdown().splitlines(), source=self.get_source_info()[0])
        self.state.nested_parse(lines, self.content_offset, parent)
        for found in parent.findall(nodes.table):
            found["classes"].append(f"mu-{self.name}")  # for the style sheet
        return parent.children


class Measured(Made):
    """`{measured} NAME`: rows of the records of a method."""

    def markdown(self) -> str:
        """The rows of the method that is named."""
        return measured.markdown(self.arguments[0])


class Tuned(Made):
    """`{tuned} NAME`: settings of a method."""

    def markdown(self) -> str:
        """The settings of the method that is named."""
        return tuned.markdown(self.arguments[0])


class Needs(Made):
    """`{needs}` with the fields of `method_facts.Needs`, on the page of a method."""

    option_spec: ClassVar[Any] = dict.fromkeys(facts.Needs._fields, directives.unchanged_required)

    def markdown(self) -> str:
        """The table of the method whose page it is."""
        name = Path(self.env.docname).name
        return facts.needs_table(name, facts.needs(self.options, self.env.docname))


class Methods(Made):
    """`{methods}`: one line for each method."""

    def markdown(self) -> str:
        """The table of all methods."""
        for name in facts.names():
            self.env.note_dependency(str(facts.PAGES / f"{name}.md"))
        return facts.index_table()


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    for name, directive in (
        ("measured", Measured),
        ("tuned", Tuned),
        ("needs", Needs),
        ("methods", Methods),
    ):
        app.add_directive(name, directive)
    app.add_css_file("methods.css")
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
