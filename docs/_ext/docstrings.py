"""Docstrings as Markdown: sections become headings in bold type, examples become code.

The docstrings of mu_jax are Markdown already but for two things: sections ("Args:", "Cost: ...")
and examples that begin with `>>>`. Nothing here needs Sphinx.
"""

from __future__ import annotations

import re
import textwrap

# Paragraphs that begin with one of these have it in bold type.
_LABELS = "Cost|Memory|Direction|Note|Classes|Reference|References|Warns|Differences[^:`]*"
_INLINE = re.compile(rf"^({_LABELS}): (?=\S)")
_SECTION = re.compile(r"^([A-Z][^:.]*(?:`[^`]*`[^:.]*)*):$")
_ITEM = re.compile(
    r"^((?:\*{0,2}[\w.]+(?:\[[^]]*\])?)(?:(?:, | or | and )\*{0,2}[\w.]+)*): +(?=\S)"
)
_KNOWN = re.compile(rf"^(Args|Attributes|Raises|Returns|Yields|Example|Examples|{_LABELS})$")
# Sections of named things, each with a text.
_OF_ITEMS = ("Args", "Attributes", "Raises", "Returns", "Warns", "Yields", "Classes")


def to_markdown(lines: list[str]) -> list[str]:
    """The lines of a docstring as Markdown."""
    found: list[str] = []
    rest = [_bars_escaped(line) for line in joined(lines)]
    while rest:
        line = rest.pop(0)
        section = _SECTION.match(line)
        if section and rest and _begins(section[1], rest[0]):
            inside = _indented(rest)
            del rest[: len(inside)]
            found += _section(section[1], inside)
        else:
            found.append(_INLINE.sub(r"**\1:** ", line))
    return fenced(found)


def joined(lines: list[str]) -> list[str]:
    """Lines of which code runs on into the next as one, since that may begin like an item."""
    found: list[str] = []
    for line in lines:
        if found and line.strip() and _is_open(found[-1]):
            found[-1] += " " + line.strip()
        else:
            found.append(line)
    return found


def _is_open(line: str) -> bool:
    is_example = line.lstrip().startswith((">>>", "..."))
    return not is_example and line.count("`") % 2 == 1


def _bars_escaped(line: str) -> str:
    """A row of a table with the bars inside code told apart from those between cells."""
    if not line.lstrip().startswith("| "):
        return line
    return re.sub(r"`[^`]*`", lambda match: match[0].replace("|", r"\|"), line)


def first_sentence(text: str) -> str:
    """The first sentence of a docstring, for a cell of a table."""
    text = " ".join(text.partition("\n\n")[0].split()).rstrip(":")
    ends = (match.end() for match in re.finditer(r"\.(?=\s|$)", text))
    end = next((end for end in ends if text[:end].count("`") % 2 == 0), len(text))
    return text[:end].replace("|", r"\|")


def _begins(title: str, line: str) -> bool:
    """Whether a line begins a section: four spaces are code, unless the title is known."""
    depth = len(line) - len(line.lstrip()) if line else 0
    return depth >= 2 and (depth < 4 or bool(_KNOWN.match(title)))


def _indented(lines: list[str]) -> list[str]:
    """The lines up to the first that is not indented."""
    for count, line in enumerate(lines):
        if line and not line.startswith(" "):
            return lines[:count]
    return lines[:]


def _section(title: str, inside: list[str]) -> list[str]:
    text = textwrap.dedent("\n".join(inside)).split("\n")
    if title in _OF_ITEMS:
        text = items(text)
    return ["", f"**{title}**", "", *text, ""]


def items(lines: list[str]) -> list[str]:
    """`name: text` as items of a list; what belongs to one is indented below it already."""
    found = []
    for line in lines:
        match = _ITEM.match(line)
        if match:
            names = re.sub(r"[^,\s]+(?=,|\s|$)", _code, match[1])
            found.append(f"* {names}: {line[match.end() :]}")
        else:
            found.append(line)
    return found


def _code(match: re.Match[str]) -> str:
    return match[0] if match[0] in ("or", "and") else f"`{match[0]}`"


def fenced(lines: list[str]) -> list[str]:
    """Examples that begin with `>>>` in fences; a paragraph that has begun ends there."""
    found: list[str] = []
    indentation = None
    for line in lines:
        if indentation is None and line.lstrip().startswith(">>>"):
            indentation = line[: len(line) - len(line.lstrip())]
            found += ["", f"{indentation}```python"]
        elif indentation is not None and not line.strip():
            found.append(f"{indentation}```")
            indentation = None
        found.append(line)
    return found if indentation is None else [*found, f"{indentation}```"]
