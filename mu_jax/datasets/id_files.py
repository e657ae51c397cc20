"""Files that name examples: CSV, JSON lines and Parquet, by number, by id or by subject."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mu_jax import _files as files
from mu_jax import _json
from mu_jax._extras import extra
from mu_jax.data.id_table import IdTable
from mu_jax.datasets.selectors import integer, join


class _Named(NamedTuple):
    """One value of a file: `kind` is `id`, `index`, a kind of subject, or "" without a header."""

    kind: str
    value: Any
    where: str


def read_ids(path: Path, table: IdTable | None) -> list[int]:
    """The numbers of the examples that a file names, in its order.

    A column `id` holds the ids of the table, or numbers where there is no table; `index` holds
    numbers; a column of a kind of subject names all examples that these own. Of several columns the
    first of these counts. Files without a header hold ids.

    Raises:
        ValueError: a malformed line; an id, number or subject that the table lacks.
    """
    kinds = ["id", "index", *(table.subjects if table else ())]
    rows = list(_rows(path, kinds, table))
    if table is None:
        return [_number(row) for row in rows]
    numbers: list[int] = []
    for kind in dict.fromkeys(row.kind for row in rows):
        values = [row.value for row in rows if row.kind == kind]
        if kind == "index":
            numbers.extend(_number(row) for row in rows if row.kind == kind)
            continue
        try:
            found = table.numbers(values) if kind in ("id", "") else table.owned(kind, values)
        except ValueError as error:
            raise ValueError(f"{error}; found in {str(path)!r}") from None
        numbers.extend(found.tolist())
    return numbers


def _rows(path: Path, kinds: list[str], table: IdTable | None) -> Iterator[_Named]:
    with files.reading(path) as file:
        data = file.read()
    if data[:4] == b"PAR1":
        return _from_parquet(data, path, kinds)
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"expected a CSV, JSON-lines or Parquet file of ids, found other binary data in "
            f"{str(path)!r}; write the ids as text, one a line"
        ) from error
    lines = re.split(r"\r\n|\n|\r", text)
    if any(line.lstrip().startswith("{") for line in lines):
        return _from_json(lines, path, kinds, int if table is None else int | str)
    return _from_csv(text, path, kinds, table)


def _from_csv(text: str, path: Path, kinds: list[str], table: IdTable | None) -> Iterator[_Named]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    kind, column = None, 0
    while True:
        where = f"{path}:{reader.line_num + 1}"
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(
                f"expected comma-separated cells at {where}, found a line that cannot be read "
                f"({error}); correct the line"
            ) from None
        if not any(cells):
            continue
        if kind is None:
            kind, column = _header(cells, kinds)
            if kind:
                continue
        if not kind:
            _require_one(cells, where, table)
        value = cells[column] if column < len(cells) else ""
        if not value and kind:
            raise _no_value(kind, where, f"{value!r}")
        yield _Named(kind, value, where)


def _header(cells: list[str], kinds: list[str]) -> tuple[str, int]:
    """Which kind of value stands in which column; "" where the line is no header."""
    names = [cell.lower() for cell in cells]
    for kind in kinds:
        if kind.lower() in names:
            return kind, names.index(kind.lower())
    return "", 0


def _require_one(cells: list[str], where: str, table: IdTable | None) -> None:
    """Refuse several ids on a line without a header: all may be meant, or one of them."""
    others = [cell for cell in cells[1:] if cell]
    if table is not None:
        several = bool(np.isin(others, table.ids).any()) if others else False
        what = "ids"
    else:
        several = len(cells) > 1 and all(re.fullmatch(r"[+-]?\d+", cell) for cell in others)
        what = "whole numbers"
    if several:
        raise ValueError(
            f"expected one id a line, or a header that names the column of the ids, at {where}, "
            f"found {len(cells)} {what} and no header; write each id on a line of its own"
        )


def _from_json(lines: list[str], path: Path, kinds: list[str], allowed: Any) -> Iterator[_Named]:
    for number, line in enumerate(lines, 1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            value = _json.parse(line)
        except ValueError:  # of digits beyond any number, or nested too deep
            value = None
        named = [(kind, value[kind]) for kind in kinds if isinstance(value, dict) and kind in value]
        kind, found = named[0] if named else ("", None if isinstance(value, dict) else value)
        if isinstance(found, bool) or not isinstance(found, allowed):
            what = "INTEGER" if allowed is int else "ID"
            raise ValueError(
                f'expected {{"id": {what}}} at {where}, found {line.strip()[:60]!r}; correct the '
                "line"
            )
        yield _Named(kind, found, where)


def _from_parquet(data: bytes, path: Path, kinds: list[str]) -> Iterator[_Named]:
    with extra("datasets"):
        import pyarrow
        import pyarrow.parquet

    try:
        names = pyarrow.parquet.read_schema(pyarrow.BufferReader(data)).names
        kind, column = _header(names, kinds)
        if kind:
            table = pyarrow.parquet.read_table(pyarrow.BufferReader(data), columns=[names[column]])
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(
            f"expected a Parquet file in {str(path)!r}, found one that is damaged; write it again"
        ) from error
    if not kind:
        raise ValueError(
            f"expected a column among {join(kinds)} in {str(path)!r}, found {join(names)}; rename "
            "the column of the ids"
        )
    for row, value in enumerate(table.column(0).to_pylist()):
        yield _Named(kind, value, f"row {row} of {path}")


def _number(row: _Named) -> int:
    """A whole number, or a sentence that says where there is none."""
    if isinstance(row.value, str):
        return integer(row.value, row.where)
    if isinstance(row.value, bool) or not isinstance(row.value, int):
        raise _no_value(row.kind, row.where, repr(row.value))
    return row.value


def _no_value(kind: str, where: str, found: str) -> ValueError:
    what = "an integer" if kind in ("", "id", "index") else f"a {kind}"
    return ValueError(f"expected {what} at {where}, found {found}; correct it")
