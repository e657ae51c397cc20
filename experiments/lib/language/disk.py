"""Files of benchmarks on disk: JSON lists, JSON lines, plain texts; refused by name if wrong."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]


def folder(data_dir: str | None, *below: str) -> pathlib.Path:
    """A folder of the data directory.

    Raises:
      ValueError: no data directory. FileNotFoundError: no such folder.
    """
    if not data_dir:
        raise ValueError(
            "expected a directory of the benchmark's files in data_dir, found none; add "
            "--config.data_dir=..."
        )
    path = pathlib.Path(data_dir, *below)
    if not path.is_dir():
        raise FileNotFoundError(
            f"expected a folder of the benchmark at {path}, found none; check data_dir and the "
            "names in the configuration"
        )
    return path


def records(path: pathlib.Path, *fields: str, optional: bool = False) -> list[Record]:
    """The objects of a JSON list or of JSON lines, each with these fields.

    Args:
      path: of the file. fields: that every record must have. optional: [] where there is no file.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a damaged file, no records, a record without one of the fields.
    """
    if optional and not path.is_file():
        return []
    found = _parsed(path)
    for number, record in enumerate(found):
        missing = [name for name in fields if not isinstance(record, Mapping) or name not in record]
        if missing:
            raise ValueError(
                f"expected records with {', '.join(fields)} in {path}, found none of "
                f"{', '.join(missing)} in record {number}; mend the file"
            )
    if not found:
        raise ValueError(f"expected at least one record in {path}, found none; copy it again")
    return found


def texts(path: pathlib.Path, field: str = "text") -> list[str]:
    """Texts: of a `.txt` the whole, of JSON the strings, or one field of the objects."""
    if path.suffix == ".txt":
        return [_read(path)]
    found = [one if isinstance(one, str) else one.get(field) for one in _parsed(path)]
    if not found or not all(isinstance(one, str) and one.strip() for one in found):
        raise ValueError(
            f"expected texts, or objects with {field!r}, in {path}, found others or none; mend the "
            "file"
        )
    return found


def first_of(where: pathlib.Path, *names: str) -> pathlib.Path:
    """The first of several names under which a file is spread; the first where there is none."""
    return next((where / name for name in names if (where / name).is_file()), where / names[0])


def _read(path: pathlib.Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(
            f"expected a file of the benchmark at {path}, found none; see the configuration for "
            "the layout"
        )
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"expected text in UTF-8 in {path}, found other bytes; copy the file again"
        ) from error


def _parsed(path: pathlib.Path) -> Sequence[Any]:
    """A JSON list, or the objects of JSON lines."""
    text = _read(path).lstrip()
    try:
        if text.startswith("["):
            return json.loads(text)
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"expected a JSON list or JSON lines in {path}, found a damaged file "
            f"({' '.join(str(error).split())[:80]}); copy it again"
        ) from error
