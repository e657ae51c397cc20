"""A certificate as a page that people read: text, Markdown or HTML."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mu_jax.service import envelopes, guarantees
from mu_jax.service.envelopes import Certificate
from mu_jax.service.guarantees import Guarantee

_SHOWN = 16  # digits of a digest


class _Part(NamedTuple):
    """A heading, and rows of cells, of which the first are the names of columns; or sentences."""

    heading: str
    rows: Sequence[tuple[str, ...]]
    sentences: tuple[str, ...] = ()


def render(certificate: Certificate, form: str = "text") -> str:
    """The page of a certificate. It says what the record says, and is signed by nobody.

    Args:
        form: `text`, `markdown` or `html`, a whole page without scripts and links.

    Raises:
        ValueError: another form, or a record that lacks what a certificate says.
    """
    forms: dict[str, Callable[[str, list[_Part]], str]] = {
        "text": _text,
        "markdown": _markdown,
        "html": _html,
    }
    if form not in forms:
        raise ValueError(f"expected a form among {', '.join(forms)}, found {form!r}; use one")
    try:
        parts = _parts(certificate)
    except (KeyError, TypeError, AttributeError):
        raise ValueError(
            f"expected the record of certificate {certificate.number} to be whole, found that "
            "parts of it are missing; verify it"
        ) from None
    return forms[form](f"Certificate {certificate.number}", parts)


def _parts(certificate: Certificate) -> list[_Part]:
    record, done = certificate.record, certificate.record["done"]
    guarantee = Guarantee(**done["guarantee"])
    about = [
        ("operator", record["operator"]),
        ("issued", record["issued"]),
        ("digest", _digest_of(certificate)),
        ("certificate before", record["previous"] or "none, this is the first"),
        ("key", certificate.key),
        *([("key from now on", record["next_key"])] if "next_key" in record else []),
    ]
    what = [
        ("method", done["method"]),
        ("aim", done["aim"]),
        ("guarantee", guarantee.kind),
        ("claim", guarantees.claimed(guarantee)),
        *((f"parameter {name}", _value(value)) for name, value in done["parameters"].items()),
        ("from version", _value(done["parent"])),
        ("to version", _value(done["version"])),
        ("examples forgotten", _value(done["forgotten"]["examples"])),
        ("digest of their ids", done["forgotten"]["ids"]),
    ]
    return [
        _Part("", about),
        _Part("What was asked", _asked(record["asked"])),
        _Part("What was done", what),
        _Part("What was measured", _measured(record["measured"], record["thresholds"])),
        _Part("What is not claimed", [], tuple(record["not_claimed"])),
        _Part("With which code", [(name, _value(each)) for name, each in record["code"].items()]),
        _Part("Inputs", _arrays(record["inputs"])),
        _Part("Outputs", _arrays(record["outputs"])),
    ]


def _digest_of(certificate: Certificate) -> str:
    line = envelopes.sealed(certificate.record, certificate.key, certificate.signature)
    return envelopes.digest(line)


def _asked(asked: Sequence[dict[str, Any]]) -> Sequence[tuple[str, ...]]:
    rows = [
        (_value(each["request"]), each["asked"], each["accepted"], _value(each["examples"]))
        for each in asked
    ]
    return [("request", "asked", "accepted", "examples"), *rows]


def _measured(measured: dict[str, Any], thresholds: dict[str, Any]) -> Sequence[tuple[str, ...]]:
    names = [*measured, *(name for name in thresholds if name not in measured)]
    rows = [
        (name, _value(measured.get(name, "not measured")), _value(thresholds.get(name, "")))
        for name in names
    ]
    return [("measure", "value", "asked of it"), *rows]


def _arrays(trees: dict[str, Any]) -> Sequence[tuple[str, ...]]:
    rows = [("array", "type", "SHA-256")]
    for name, tree in trees.items():
        count = len(tree["arrays"])
        rows.append((name, f"{count} array{'s' if count != 1 else ''}", tree["sha256"]))
        for path, one in tree["arrays"].items():
            kind = f"{one['dtype']}[{','.join(map(str, one['shape']))}]"
            rows.append((f"{name}: {path}", kind, f"{one['sha256'][:_SHOWN]}..."))
    return rows


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _plain(text: str) -> str:
    """One line that no terminal takes for a command."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def _text(title: str, parts: list[_Part]) -> str:
    lines = [title, "=" * len(title)]
    for part in parts:
        lines += ["", *([part.heading, "-" * len(part.heading)] if part.heading else [])]
        rows = [tuple(map(_plain, row)) for row in part.rows]
        widths = [max(map(len, column)) for column in zip(*rows)]
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths)]
            lines.append("  ".join(cells).rstrip())
        lines += [f"* {_plain(sentence)}" for sentence in part.sentences]
    return "\n".join(lines) + "\n"


def _markdown(title: str, parts: list[_Part]) -> str:
    lines = [f"# {title}"]
    for part in parts:
        lines += ["", *([f"## {part.heading}", ""] if part.heading else [])]
        for number, row in enumerate(_with_head(part)):
            cells = [_escaped(_plain(cell)) for cell in row]
            lines.append(f"| {' | '.join(cells)} |")
            if number == 0:
                lines.append("|" + "---|" * len(row))
        lines += [f"* {_escaped(_plain(sentence))}" for sentence in part.sentences]
    return "\n".join(lines) + "\n"


def _html(title: str, parts: list[_Part]) -> str:
    body = [f"<h1>{html.escape(title)}</h1>"]
    for part in parts:
        if part.heading:
            body.append(f"<h2>{html.escape(part.heading)}</h2>")
        if part.rows:
            head, *rows = _with_head(part)
            body.append(f"<table><thead>{_row(head, 'th')}</thead><tbody>")
            body += [*(_row(row, "td") for row in rows), "</tbody></table>"]
        if part.sentences:
            items = "".join(f"<li>{html.escape(each)}</li>" for each in part.sentences)
            body.append(f"<ul>{items}</ul>")
    return _PAGE.format(title=html.escape(title), body="\n".join(body))


def _with_head(part: _Part) -> Sequence[tuple[str, ...]]:
    """The rows with names of the columns first."""
    named = not part.rows or len(part.rows[0]) > 2
    return part.rows if named else [("what", "value"), *part.rows]


def _row(row: Sequence[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in row)}</tr>"


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    for mark in "\\`*_[]<>|#&":
        text = text.replace(mark, f"\\{mark}")
    return text


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; }}
th, td {{ border: 1px solid #8888; padding: 0.25rem 0.6rem; text-align: left; }}
td {{ font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""
