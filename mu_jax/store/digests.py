"""SHA-256 of every file of a numbered directory, so that a damaged one is not read.

`DIGESTS.json` holds the number of the directory and the digest of each of its files: a flipped bit,
a file cut short, and the files of another number put in place are all told. The record of the
directory says that it has digests (`PROMISE`), so that a lost `DIGESTS.json` is told too.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np

from mu_jax import _files as files
from mu_jax import _json, _progress

PROMISE = {"digests": True}  # part of the record beside digests
_NAME = "DIGESTS.json"
_RECORD = "metadata/metadata"  # where orbax writes the JSON item "metadata"


class Damaged(ValueError):
    """Stored files are not those that were written."""


def write(directory: Path, number: int) -> None:
    """Record the digests of all files in `directory`, which is to be directory `number`."""
    names = files.below(directory)
    found = {"number": number, "files": dict(zip(names, _digests(directory, names)))}
    files.replace_json(directory / _NAME, found)


def require_intact(directory: Path, item: str = "", *, shared: bool = False) -> None:
    """Refuse a directory of which files are not those that were written.

    Directories of stores that kept no digests pass: their record does not promise any.

    Args:
        directory: its name is its number.
        item: first part of the names of the files to check, such as `arrays`; "" checks all files.
        shared: several processes call this together: each checks a part, and all of them raise.

    Raises:
        Damaged: names the first file that differs.

    Cost: reads the files once, in pieces.
    """
    expected = _expected(directory)
    names = [name for name in expected if item in ("", name.split("/")[0])]
    share = names[jax.process_index() :: jax.process_count()] if shared else names
    found = _digests(directory, share)
    bad = [names.index(name) for name, one in zip(share, found) if one != expected[name]]
    first = min(bad, default=len(names))
    if shared and jax.process_count() > 1:
        from jax.experimental import multihost_utils

        first = int(multihost_utils.process_allgather(np.int32(first)).min())
    if first < len(names):
        raise Damaged(
            f"expected {directory} as it was written, found {names[first]} of another SHA-256"
        )


def _expected(directory: Path) -> dict[str, str]:
    """The recorded digests by name of the file; none where none were kept."""
    try:
        record = _json.parse(files.read_text(directory / _NAME))
        number, expected = int(record["number"]), dict(record["files"])
    except FileNotFoundError:
        if _promised(directory):
            raise Damaged(
                f"expected the digests of {directory} as its record promises, found no {_NAME}"
            ) from None
        return {}
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise Damaged(
            f"expected the digests of {directory} as they were written, found {_NAME} unreadable"
        ) from error
    if number != int(directory.name.split(".")[0]):
        raise Damaged(
            f"expected the files of {directory.name} in {directory}, found those of {number}"
        )
    return expected


def _promised(directory: Path) -> bool:
    """Whether the record of a directory says that digests were written beside it."""
    try:
        record = _json.parse(files.read_text(directory / _RECORD))
        return all(record.get(name) == value for name, value in PROMISE.items())
    except FileNotFoundError:
        return False
    except (ValueError, AttributeError) as error:
        raise Damaged(f"expected the record of {directory}, found {_RECORD} unreadable") from error


def _digests(directory: Path, names: list[str]) -> list[str]:
    """Digests of files, a missing one having none; several are read at a time."""
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda name: _digest(directory / name), names)
        return list(_progress.each(found, "digests", "file", total=len(names)))


def _digest(path: Path) -> str:
    try:
        with files.reading(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""
