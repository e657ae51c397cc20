"""What the pages of the methods read off docstrings, transforms and their own blocks of needs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import mu_jax as mu

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "methods"
# What a docstring has to say, and how it begins.
SAID = {
    "cost": r"^Cost: ",
    "memory": r"^Cost: (?:.+\n)*?.*\b[Mm]emory\b",
    "when it fails": r"\bIt fails\b",
    "differences": r"^Differences from ",
    "references": r"^References:$",
    "example": r"^  >>> ",
}


def names() -> list[str]:
    """The methods: every function of `mu_jax.transforms.__all__`."""
    found = mu.transforms.__all__
    return [name for name in found if inspect.isfunction(getattr(mu.transforms, name))]


def docstring(name: str) -> str:
    """The docstring of a method, without its indentation."""
    return inspect.getdoc(getattr(mu.transforms, name)) or ""


def unsaid(name: str) -> list[str]:
    """What a docstring does not say of `SAID`."""
    text = docstring(name)
    return [what for what, begins in SAID.items() if not re.search(begins, text, re.MULTILINE)]


def passes(name: str) -> str:
    """The cost of a method in passes: up to the first stop, or to what it says of memory."""
    ends = r"(?:; (?:with )?memory\b|\.(?=\s)|\.\Z)"
    found = re.search(rf"^Cost: (.*?){ends}", docstring(name), re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"expected a paragraph 'Cost: ...' in the docstring of {name}: add it")
    return " ".join(found[1].split())


def published(name: str) -> str:
    """Venue and year of the first of a method's references."""
    text = docstring(name).partition("\nReferences:\n")[2]
    found = re.match(r"(.*?\b(?:19|20)\d\d(?: \([^)]*\))?)\.(?=\s|\Z)", " ".join(text.split()))
    if found is None:
        raise ValueError(
            f"expected 'Authors. Title. Venue year.' below 'References:' in the docstring of "
            f"{name}, found {text[:60]!r}: write the reference so"
        )
    return found[1].rpartition(". ")[2]


class Needs(NamedTuple):
    """What a method needs, in the words of its page; behind a semicolon stands a remark.

    tasks: among `TASKS`. forget, retain: what is read of either set, among `READ`. gradients: what
    is differentiated. models: further models, a teacher or others.
    """

    tasks: str
    forget: str
    retain: str
    gradients: str
    models: str


TASKS = ("classification", "regression", "language", "any")
READ = ("inputs", "labels", "tokens", "nothing")
TITLES = Needs("tasks", "forget set", "retain set", "gradients", "other models")


def words(text: str) -> list[str]:
    """The words of a field of `Needs`, without its remark."""
    return [word.strip() for word in text.partition(";")[0].split(",")]


def needs(options: Mapping[str, str], where: str) -> Needs:
    """The fields of a block of needs.

    Raises:
      ValueError: a field that is missing, or a word that is none.
    """
    if set(options) != set(Needs._fields):
        raise ValueError(
            f"expected the fields {', '.join(Needs._fields)} in the needs of {where}, found "
            f"{', '.join(options) or 'none'}: correct them"
        )
    found = Needs(**options)
    for field, known in (("tasks", TASKS), ("forget", READ), ("retain", READ)):
        for word in words(getattr(found, field)):
            if word not in known:
                raise ValueError(
                    f"expected words among {', '.join(known)} for {field} in the needs of {where}, "
                    f"found {word!r}: put remarks behind a semicolon"
                )
    return found


def needs_of_page(name: str) -> Needs:
    """The needs that the page of a method states."""
    text = (PAGES / f"{name}.md").read_text()
    block = re.search(r"^```\{needs\}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    options = re.findall(r"^:(\w+): (.+)$", block[1] if block else "", re.MULTILINE)
    return needs(dict(options), f"{name}.md")


def aim(name: str) -> str:
    """Removal or suppression, as every transform of the method says."""
    return getattr(getattr(mu.transforms, name), "aim", "removal")


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def needs_table(name: str, found: Needs) -> str:
    """What a method needs and does, one line each."""
    rows = [[title, text] for title, text in zip(TITLES, found)]
    rows += [["passes", passes(name)], ["aim", aim(name)], ["published", published(name)]]
    return table(["what", f"`mu.{name}`"], rows)


def index_table() -> str:
    """All methods, one line each, without the remarks of their pages."""
    head = ["method", "aim", *TITLES, "passes", "published"]
    rows = []
    for name in names():
        short = [", ".join(words(text)) for text in needs_of_page(name)]
        cost = re.sub(r", (?:each|those|without|whose) .*", "", passes(name)).replace("`", "")
        rows.append([f"[{name}]({name}.md)", aim(name), *short, cost, published(name)])
    return table(head, rows)
