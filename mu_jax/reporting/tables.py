"""Tables of results as plain text, as Markdown and for a terminal with colors."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mu_jax._extras import extra
from mu_jax.reporting.records import Record
from mu_jax.reporting.summary import GAP, Cell, Column, Row, Table, summarize

if TYPE_CHECKING:
    from rich.console import Group

MISSING = "-"


class _Grid(NamedTuple):
    """A table as text: a title and a note per column, and the body row by row."""

    titles: list[str]
    notes: list[str]
    body: list[list[str]]


def render(
    items: Iterable[Record | Table],
    *,
    width: int = 100,
    markdown: bool = False,
    **options: Any,
) -> str:
    """Writes results as text: methods down, metrics across, sentences beneath.

    Every title carries the unit and the direction. Collapsed methods and those with a value better
    than a perfect unlearner's are marked in their row and the reason stands beneath; the smallest
    average gap has a star; a missing value is "-", an interval that would not cover is "[-]", and a
    sentence says why. A table wider than `width` continues in a further block with the methods
    repeated.

    Args:
        items: records, or tables from `summarize`.
        width: characters a line, for plain text.
        markdown: write Markdown, which is not broken into blocks.
        **options: options of `summarize`, for records.

    Returns:
        The text, without a line end; tables of several forget sets follow one another.

    Raises:
        ValueError: as `summarize`, or a width under 40.

    Example:
        >>> from mu_jax.reporting.records import ForgetSet, Metric
        >>> accuracy = lambda value: {"retain accuracy": Metric(value, unit="fraction")}
        >>> forget_set = ForgetSet("class 3", 125)
        >>> print(render([Record("retrain", forget_set, 0, accuracy(0.95)),
        ...               Record("ssd", forget_set, 0, accuracy(0.91))]))
        Forget set: class 3, 125 examples
        ...
        retrain         1          95.00            -
        do nothing      0              -            -
        ssd             1          91.00       4.00 *
        ...
    """
    tables = _tables(items, options)
    if markdown:
        return "\n\n".join(_markdown(table) for table in tables)
    return "\n\n".join(_plain(table, _check_width(width)) for table in tables)


def to_rich(items: Iterable[Record | Table], *, width: int = 100, **options: Any) -> Group:
    """Returns the same tables for `rich.print`: collapsed rows dim, the smallest gap bold.

    Args:
        items: records, or tables from `summarize`.
        width: characters a line, `console.width` of the console that prints it.
        **options: options of `summarize`, for records.

    Returns:
        A rich renderable.

    Raises:
        ValueError: as `render`.
    """
    with extra("tables"):
        from rich.console import Group

    width = _check_width(width)
    return Group(*(part for table in _tables(items, options) for part in _rich(table, width)))


def _tables(items: Iterable[Record | Table], options: dict[str, Any]) -> list[Table]:
    items = list(items)
    tables = [item for item in items if isinstance(item, Table)]
    records = [item for item in items if isinstance(item, Record)]
    if len(tables) not in (0, len(items)) or len(records) not in (0, len(items)):
        raise ValueError(
            f"expected records alone or tables alone, found {len(records)} and {len(tables)} among "
            f"{len(items)} items: summarize the records first"
        )
    return tables or summarize(records, **options)


def _check_width(width: int) -> int:
    if width < 40:
        raise ValueError(f"expected a width of at least 40, found {width}: widen the terminal")
    return width


def decimals_of(column: Column, means: Sequence[float]) -> int | None:
    """Decimals of a column: four digits of its largest mean and two of its smallest; None: %g."""
    sizes = [abs(mean) for mean in means if mean]
    if column.decimals is not None or not sizes:
        return column.decimals or 2
    if max(sizes) >= 1e6 or min(sizes) < 1e-4:
        return None
    return max(3 - math.floor(math.log10(max(sizes))), 1 - math.floor(math.log10(min(sizes))), 0)


def _cell_text(cell: Cell, column: Column, decimals: int | None, row: Row) -> str:
    if cell.mean is None:
        return MISSING
    refused = column.name in row.refused
    form = ".3g" if decimals is None else f".{decimals}f"
    text = f"{cell.mean * column.scale:{form}}"
    if cell.std is not None:
        text += f" ± {cell.std * column.scale:{form}}"
    if cell.low is not None and cell.high is not None:
        text += f" [{cell.low * column.scale:{form}}, {cell.high * column.scale:{form}}]"
    elif refused:
        text += f" [{MISSING}]"
    return text if cell.n == row.seeds else f"{text} (n={cell.n})"


def _mark(row: Row) -> str:
    """What makes a row one not to be ranked; empty for others."""
    if row.collapsed:
        return " [collapsed]"
    return " [better than perfect]" if row.doubtful else ""


def _grid(table: Table) -> _Grid:
    body = [[f"{row.label}{_mark(row)}", str(row.seeds)] for row in table.rows]
    for i, column in enumerate(table.columns):
        means = [row.cells[i].mean for row in table.rows]
        decimals = decimals_of(column, [column.scale * mean for mean in means if mean is not None])
        for line, row in zip(body, table.rows):
            text = _cell_text(row.cells[i], column, decimals, row)
            line.append(f"{text} *" if row.best and column == GAP else text)
    titles = ["method", "seeds", *(column.name for column in table.columns)]
    return _Grid(titles, ["", "", *(column.note for column in table.columns)], body)


def _markdown(table: Table) -> str:
    grid = _grid(table)
    heads = [f"{title} ({note})" if note else title for title, note in zip(*grid[:2])]
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *grid.body]
    rows = ["| " + " | ".join(map(_escape, line)) + " |" for line in lines]
    notes = [f"- {_escape(note)}" for note in table.notes]
    return "\n".join([f"**{_escape(table.title)}**", "", *rows, "", *notes])


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


def _head(title: str, note: str, cells: Sequence[str]) -> list[str]:
    """Lines of a column's head, wrapped to the width that its cells need anyway."""
    words = f"{title} {note}".split()
    width = max(12 if note else 6, *(len(text) for text in (*cells, *words)))
    return textwrap.wrap(title, width) + textwrap.wrap(note, width)


def _blocks(widths: Sequence[int], width: int, gap: int) -> list[list[int]]:
    """Column numbers of each block of a table: the first column, and as many others as fit."""
    blocks = [[0]]
    used = widths[0]
    for i in range(1, len(widths)):
        if used + gap + widths[i] > width and len(blocks[-1]) > 1:
            blocks.append([0])
            used = widths[0]
        blocks[-1].append(i)
        used += gap + widths[i]
    return blocks


def _wrapped(table: Table, width: int) -> tuple[list[list[str]], list[list[list[str]]]]:
    """Heads and body with every entry as lines; only heads and methods take more than one."""
    grid = _grid(table)
    heads = [
        _head(title, note, [line[i] for line in grid.body] if i else [])
        for i, (title, note) in enumerate(zip(grid.titles, grid.notes))
    ]
    label_width = max(16, width // 3)
    body = [
        [textwrap.wrap(line[0], label_width), *([cell] for cell in line[1:])] for line in grid.body
    ]
    return heads, body


def _widths(heads: list[list[str]], body: list[list[list[str]]]) -> list[int]:
    columns = [[head, *(row[i] for row in body)] for i, head in enumerate(heads)]
    return [max(len(line) for lines in column for line in lines) for column in columns]


def _plain(table: Table, width: int) -> str:
    heads, body = _wrapped(table, width)
    widths = _widths(heads, body)
    parts = [table.title]
    for block in _blocks(widths, width, gap=2):
        rule = [["-" * widths[i]] for i in range(len(widths))]
        rows = [heads, rule, *body]
        lines = [line for row in rows for line in _lines(row, block, widths)]
        parts.append("\n".join(lines))
    notes = [textwrap.fill(note, width, subsequent_indent="  ") for note in table.notes]
    return "\n\n".join([*parts, "\n".join(notes)])


def _lines(row: list[list[str]], block: Sequence[int], widths: Sequence[int]) -> list[str]:
    """The lines of one row: methods to the left, numbers to the right, on the first line."""
    lines = []
    for k in range(max(len(row[i]) for i in block)):
        entries = [(row[i][k] if k < len(row[i]) else "", widths[i]) for i in block]
        (label, label_width), *cells = entries
        text = [label.ljust(label_width), *(cell.rjust(size) for cell, size in cells)]
        lines.append("  ".join(text).rstrip())
    return lines


def _rich(table: Table, width: int) -> list[Any]:
    with extra("tables"):
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

    heads, body = _wrapped(table, width)
    parts: list[Any] = [Text(table.title, style="bold")]
    for block in _blocks(_widths(heads, body), width - 2, gap=3):
        shown = RichTable(box=box.SIMPLE_HEAD)
        for i in block:
            head = Text("\n".join(heads[i]))
            shown.add_column(head, justify="right" if i else "left", no_wrap=True)
        for row, lines in zip(table.rows, body):
            style = "dim" if row.collapsed else "bold" if row.best else ""
            shown.add_row(*(Text("\n".join(lines[i])) for i in block), style=style)
        parts.append(shown)
    return [*parts, Text("\n".join(table.notes)), Text("")]
