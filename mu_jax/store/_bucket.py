"""Numbered directories in a bucket: one conditional write commits, and nobody waits for a lock.

The files of a number lie under a name of their own, `00000007.1f00c3a2/`, that no reader looks for.
The object `00000007` names that folder. It is written last and only if there is none, so that a
number belongs to one writer and readers see all of it or nothing. A killed writer leaves a folder
that no object names; the first writer a day later deletes the folder (no lock tells the dead from
the slow).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mu_jax import _json
from mu_jax import _objects as objects
from mu_jax.store.digests import Damaged

_NUMBER = re.compile(r"\d{8,}")
_FOLDER = re.compile(r"\d{8,}\.[0-9a-f]{8}")
_DAY = 86_400.0


def place(folder: Path, number: int) -> Path:
    """Folder with the files of `number`.

    Raises:
        FileNotFoundError: there is no such number.
        Damaged: the object of that number cannot be read.
    """
    entry = _entry(folder, number)
    if entry is None:
        raise FileNotFoundError(
            f"expected number {number} in {folder}, found it deleted; read the numbers again"
        )
    return folder / entry["folder"]


def taken(folder: Path) -> list[int]:
    """Numbers of the complete directories in `folder`, ascending."""
    names = objects.children(folder)[0]
    return sorted(int(name) for name in names if _NUMBER.fullmatch(name))


numbers = taken


def has_item(folder: Path, number: int, item: str) -> bool:
    """Whether an item of a complete directory has not been discarded.

    Of one whose object cannot be read it has not: who then reads it is told.
    """
    try:
        entry = _entry(folder, number)
    except Damaged:
        return True
    return entry is not None and item not in entry["discarded"]


def staging(folder: Path, number: int, token: int) -> Path:
    """Where `number` is written before it is committed; `token` is nobody else's."""
    return folder / f"{number:08d}.{token:08x}"


def commit(staged: Path, folder: Path, number: int, *, renumber: bool) -> int:
    """Give a staged folder its number, or the next free one; returns the number.

    Raises:
        FileExistsError: another writer was faster, and `renumber` is False.
    """
    entry = json.dumps({"folder": staged.name, "discarded": []}).encode()
    while not objects.write(_name(folder, number), entry, generation=0):
        if not renumber:
            objects.delete(staged)
            raise FileExistsError(
                f"expected number {number} to be free in {folder}, found that another process "
                "has written it; let one process at a time write there"
            )
        number = max(number, *taken(folder)) + 1
    return number


def discard(folder: Path, number: int, item: str = "") -> None:
    """Delete directory `number`, or one `item` of it; nothing happens where it is deleted.

    The object that readers look at goes or changes first: a killed process leaves scrap only.
    """
    entry = _entry(folder, number)
    if entry is None:
        return
    if item:
        objects.update(_name(folder, number), lambda data: _without(item, data or b"{}"))
    else:
        objects.delete(_name(folder, number))
    objects.delete(folder / entry["folder"] / item)


def sweep(folder: Path) -> None:
    """Delete the folders that killed writers and deleters left behind a day ago or more."""
    names, folders = objects.children(folder)
    committed = [name for name in names if _NUMBER.fullmatch(name)]
    staged = [name for name in folders if _FOLDER.fullmatch(name)]
    if len(staged) <= len(committed):
        return
    try:
        entries = [_entry(folder, int(name)) for name in committed]
    except Damaged:  # whose folder may be any of these
        return
    named = {entry["folder"] for entry in entries if entry}
    for name in staged:
        if name not in named and objects.age(folder / name) >= _DAY:
            objects.delete(folder / name)


def _name(folder: Path, number: int) -> Path:
    return folder / f"{number:08d}"


def _entry(folder: Path, number: int) -> dict[str, Any] | None:
    data, _ = objects.read(_name(folder, number))
    return None if data is None else _parsed(data, _name(folder, number))


def _parsed(data: bytes, path: Path) -> dict[str, Any]:
    try:
        entry = _json.parse(data)
        if isinstance(entry["folder"], str) and isinstance(entry["discarded"], list):
            return entry
    except (ValueError, TypeError, KeyError):
        pass
    raise Damaged(f"expected {path} to name the folder of its files, found it unreadable")


def _without(item: str, data: bytes) -> bytes:
    entry = json.loads(data)
    return json.dumps({**entry, "discarded": sorted({*entry["discarded"], item})}).encode()
