"""The API reference: pages of rooms from docstrings, and links from code to what it names.

A page says `{room} mu_jax.transforms` in a fence of its own, and gets every public name of that
room, grouped by the file that defines it. Docstrings are Markdown (`docstrings.to_markdown`). Code
in single backticks that names something public (`mu.ssd(model, alpha)`) links to it, on every page.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
from typing import Any

import docstrings
import public_names
from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.utils import new_document
from jax.typing import ArrayLike
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.addnodes import desc, pending_xref
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode
from sphinx.util.typing import stringify_annotation

from mu_jax.transforms._shared.transform import Unlearn

_ROOM = re.compile(r"^```\{room\} (\S+)\n```$", re.MULTILINE)
_NAME = re.compile(r"^(?:mu|mu_jax)((?:\.\w+)+)(?=$|\()|^([a-z]\w*\.\w+)(?=$|\()|^(\w+)$")


class Markdown(Directive):
    """Its content as Markdown, inside reStructuredText."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """The nodes of the content."""
        settings = self.state.document.settings
        document = new_document(self.state.document.current_source or "docstring", settings)
        MystParser().parse("\n".join(self.content), document)
        return document.children


def markdown_docstring(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Hands a docstring to `Markdown`."""
    text = [] if what == "data" else docstrings.to_markdown(lines)  # data have that of their type
    lines[:] = [".. markdown::", "", *(f"   {line}".rstrip() for line in text), ""]


def skip(app: Sphinx, what: str, name: str, thing: Any, skipped: bool, options: Any) -> bool | None:
    """Leaves out what has no text of its own, such as the fields of tuples."""
    text = inspect.getdoc(thing) or ""
    return True if text.startswith("Alias for field number") or not text else None


def plain_defaults(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str, returned: str
) -> tuple[str, str] | None:
    """Unions by their names; defaults that have no spelling, such as functions, as three dots."""
    if signature is None:
        return None
    for long, short in _aliases().items():
        signature, returned = signature.replace(long, short), (returned or "").replace(long, short)
    return re.sub(r"= <.*?>(?=, \w+\b|, \*|\)$)", "= ...", signature), returned


@functools.cache
def _aliases() -> dict[str, str]:
    """Types that signatures would spell out, and what to call them."""
    return {
        stringify_annotation(ArrayLike, "smart"): "~jax.typing.ArrayLike",
        stringify_annotation(Unlearn, "smart"): "~mu_jax.Transform",
    }


def fill_rooms(app: Sphinx, document: str, source: list[str]) -> None:
    """Puts the names of a room in its place on a page."""
    source[0] = _ROOM.sub(lambda match: room_text(match[1]), source[0])


def room_text(room: str) -> str:
    """A room as Markdown: a table of its names, then each with its docstring."""
    entries = public_names.of_room(room)
    parts = [_docstring(importlib.import_module(room)), "", *_table(entries)]
    for group in dict.fromkeys(sorted((e.group for e in entries), key=lambda g: g.strip("_"))):
        parts += ["", f"## {group.strip('_')}", "", "```{eval-rst}"]
        parts += [line for entry in entries if entry.group == group for line in _directive(entry)]
        parts += ["```"]
    return "\n".join(parts)


def _docstring(module: Any) -> str:
    return "\n".join(docstrings.to_markdown((inspect.getdoc(module) or "").split("\n")))


def _table(entries: list[public_names.Entry]) -> list[str]:
    rows = [f"| {_link(entry)} | {first_sentence(_thing(entry))} |" for entry in entries]
    return ["| name | what it is |", "|---|---|", *rows] if rows else []


def _link(entry: public_names.Entry) -> str:
    room, _, last = entry.name.rpartition(".")
    shown = last if room == entry.room != public_names.ROOT else f"mu.{last}"
    return f"[`{shown}`](#{entry.name})"


def _thing(entry: public_names.Entry) -> Any:
    module, _, name = entry.name.rpartition(".")
    return getattr(importlib.import_module(module), name)


def first_sentence(thing: Any) -> str:
    """The first sentence of a docstring, for a cell of a table; the value of what has none."""
    if not _has_own_text(thing):
        return f"`{thing!r}`".replace("|", r"\|")
    return docstrings.first_sentence(inspect.getdoc(thing) or "")


def _has_own_text(thing: Any) -> bool:
    return inspect.isclass(thing) or inspect.isroutine(thing) or hasattr(thing, "__wrapped__")


def _directive(entry: public_names.Entry) -> list[str]:
    thing = _thing(entry)
    kind = "class" if inspect.isclass(thing) else "function" if _has_own_text(thing) else "data"
    if kind == "class" and issubclass(thing, BaseException):
        kind = "exception"
    lines = [f".. auto{kind}:: {entry.name}"]
    if kind in ("class", "exception"):
        lines += ["   :members:", "   :special-members: __call__"]
    if kind == "data":
        lines += ["   :no-value:", "", f"   ``{thing!r}``"]
    return [*lines, ""]


@functools.cache
def places() -> dict[str, public_names.Entry]:
    """Entries by every name."""
    found = {}
    for entry in public_names.entries():
        for name in (*entry.aliases, entry.name):
            found[name] = entry
    return found


def resolve(app: Sphinx, env: Any, node: pending_xref, content: nodes.Element) -> nodes.Node | None:
    """Links a type to where it is documented, and leaves a private type of a signature without."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    entry = places().get(target) or classes().get(target)
    if entry is not None:
        return _reference(app, node["refdoc"], entry, content)
    is_expression = any(
        mark in target for mark in "[|("
    )  # a generic type that Python gives as text
    return content if is_expression or target in private_names() else None


@functools.cache
def private_names() -> frozenset[str]:
    """What signatures may name though no page has it: types and aliases of modules of mu_jax."""
    found = set()
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == public_names.ROOT:
            found.update(each for key in vars(module) for each in (key, f"{name}.{key}"))
    return frozenset(found)


def _reference(app: Sphinx, document: str, entry: Any, content: nodes.Node) -> nodes.Node:
    place = public_names.page(entry.room)
    return make_refnode(app.builder, document, place, entry.name, content, entry.name)


class LinkCode(SphinxPostTransform):
    """Links code that names something public."""

    default_priority = 20

    def run(self, **kwargs: Any) -> None:
        """Looks at every piece of code in a line that is no link yet."""
        document = self.env.current_document.docname
        for node in list(self.document.findall(nodes.literal)):
            if _in_link(node):
                continue
            entry, room = named(node.astext()), named_room(node.astext())
            if entry and entry.name not in self._around(node):
                node.replace_self(_reference(self.app, document, entry, node.deepcopy()))
            elif room and public_names.page(room) != document:
                place = self.app.builder, document, public_names.page(room), ""
                node.replace_self(make_refnode(*place, node.deepcopy(), room))

    def _around(self, node: nodes.Node) -> list[str]:
        """The names whose own text this is: a docstring does not link to itself."""
        found: list[str] = []
        while node is not None:
            if isinstance(node, desc):
                found += node[0].get("ids", ())
            node = node.parent
        return found


class SameRoom(SphinxPostTransform):
    """A type by its last name is first looked for in the room of the page."""

    default_priority = 5

    def run(self, **kwargs: Any) -> None:
        """Gives such links their whole name."""
        document = self.env.current_document.docname
        room = f"{public_names.ROOT}.{document.removeprefix('api/')}"
        for node in self.document.findall(pending_xref):
            entry = places().get(f"{room}.{node['reftarget']}")
            if entry is not None and node.get("refdomain") == "py":
                node["reftarget"] = entry.name


def _in_link(node: nodes.Node) -> bool:
    while node is not None:
        if isinstance(node, nodes.reference | nodes.title | pending_xref):
            return True
        node = node.parent
    return False


def named(code: str) -> public_names.Entry | None:
    """What a piece of code names: `mu.ssd(model, alpha)`, `evaluation.klom`, `SSDInfo`."""
    match = _NAME.match(code)
    if match is None:
        return None
    if match[1] or match[2]:
        return places().get(f"{public_names.ROOT}.{(match[1] or match[2]).lstrip('.')}")
    return classes().get(code)


def named_room(code: str) -> str | None:
    """The room that a piece of code is the name of, such as `mu.evaluation`."""
    name = re.sub(r"^mu(?=\.)", public_names.ROOT, code)
    return name if name != public_names.ROOT and name in public_names.rooms() else None


@functools.cache
def classes() -> dict[str, public_names.Entry]:
    """Public classes by their last names, where these are unique."""
    found: dict[str, list[public_names.Entry]] = {}
    for entry in public_names.entries():
        name = entry.name.rpartition(".")[2]
        if name[0].isupper() and any(letter.islower() for letter in name):
            found.setdefault(name, []).append(entry)
    return {name: each[0] for name, each in found.items() if len(each) == 1}


def trim_code(app: Sphinx, document: nodes.document) -> None:
    """Takes the empty line off with which an example ends for doctest."""
    for block in document.findall(nodes.literal_block):
        text = block.astext().rstrip()
        block.rawsource = text
        block.children = [nodes.Text(text)]


def add_aliases(app: Sphinx) -> list[Any]:
    """Puts the other names of everything into the inventory, when all links are made."""
    domain = app.env.get_domain("py")
    for entry in public_names.entries():
        known = domain.objects.get(entry.name)
        if known is None:
            continue
        for name in entry.aliases:
            if name not in domain.objects and "._" not in name:
                domain.objects[name] = known._replace(aliased=True)
    return []


def setup(app: Sphinx) -> dict[str, Any]:
    """Connects the parts."""
    app.add_directive("markdown", Markdown)
    app.add_post_transform(SameRoom)
    app.add_post_transform(LinkCode)
    app.connect("source-read", fill_rooms)
    app.connect("autodoc-process-docstring", markdown_docstring)
    app.connect("autodoc-process-signature", plain_defaults)
    app.connect("autodoc-skip-member", skip)
    app.connect("missing-reference", resolve)
    app.connect("doctree-read", trim_code)
    app.connect("html-collect-pages", add_aliases)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
