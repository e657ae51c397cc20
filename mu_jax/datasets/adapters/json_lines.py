"""JSON lines: one record a line, with values of any form."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mu_jax import _files as files
from mu_jax import _json
from mu_jax.datasets.adapters.columns import Where
from mu_jax.datasets.adapters.rows import Rows, rows_of


def from_json_lines(
    path: str | os.PathLike[str],
    *,
    inputs: Where,
    target: Where,
    ids: Any,
    subjects: Mapping[str, Any] | None = None,
) -> Rows:
    """Rows of a file with one JSON object a line, in UTF-8; empty lines are passed over.

    Args:
        path: the file.
        inputs, target, ids, subjects: as in `from_records`, where records are dictionaries.

    Raises:
        ValueError: a line that is no object; a column that is not there.

    Cost: reads the file into memory.

    Example:
        >>> import pathlib, tempfile, mu_jax as mu
        >>> folder = tempfile.TemporaryDirectory()
        >>> file = pathlib.Path(folder.name, "people.jsonl")
        >>> lines = ['{"id": "a", "x": [1, 2], "y": 0}', '{"id": "b", "x": [3, 4], "y": 1}']
        >>> _ = file.write_text("\\n".join(lines))
        >>> rows = mu.datasets.from_json_lines(file, inputs="x", target="y", ids="id")
        >>> rows.read().inputs.tolist(), rows.ids.ids.tolist()
        ([[1, 2], [3, 4]], ['a', 'b'])
        >>> folder.cleanup()
    """
    records = _read(files.absolute(path))
    return rows_of(records, inputs=inputs, target=target, ids=ids, subjects=subjects)


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        text = files.read_text(path).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"expected JSON lines in UTF-8 at {path}, found other binary data: write one object "
            "a line"
        ) from error
    # Only line ends part lines: other separators of Unicode may stand inside the texts.
    lines = text.replace("\r\n", "\n").split("\n")
    return [_object(line, f"{path}:{n}") for n, line in enumerate(lines, 1) if line.strip()]


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        found = _json.parse(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(
            f"expected a JSON object at {where}, found {line.strip()[:60]!r}: write one record a "
            "line"
        )
    return found
