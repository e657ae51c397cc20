"""Numbered directories on a file system: a rename commits, and a lock keeps writers apart.

A directory is written under another name, its files and folders are fsynced, and only then it is
renamed and its parent fsynced. The caller holds `exclusive` wherever something is changed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mu_jax import _files as files

_NUMBER = re.compile(r"\d{8,}")
_SCRAP = re.compile(r"\d{8,}\.(staging|discarded).*")


def place(folder: Path, number: int) -> Path:
    """Directory with the files of `number`."""
    return folder / f"{number:08d}"


def taken(folder: Path) -> list[int]:
    """Numbers that a name in `folder` has, ascending, whatever it is the name of."""
    if not folder.is_dir():
        return []
    names = (entry.name for entry in folder.iterdir())
    return sorted(int(name) for name in names if _NUMBER.fullmatch(name))


def numbers(folder: Path) -> list[int]:
    """Numbers of the complete directories in `folder`, ascending."""
    return [number for number in taken(folder) if place(folder, number).is_dir()]


def has_item(folder: Path, number: int, item: str) -> bool:
    """Whether an item of a complete directory has not been discarded."""
    return (place(folder, number) / item).is_dir()


def staging(folder: Path, number: int, token: int) -> Path:
    """Where `number` is written before it is committed."""
    return place(folder, number).with_suffix(".staging")


def commit(staged: Path, folder: Path, number: int, *, renumber: bool) -> int:
    """Give a staged directory its number; returns the number when all is on stable storage."""
    for directory, _, names in os.walk(staged):
        for name in names:
            files.fsync(Path(directory, name))
        files.fsync(Path(directory))
    os.rename(staged, place(folder, number))
    files.fsync(folder)
    return number


def discard(folder: Path, number: int, item: str = "") -> None:
    """Delete directory `number`, or one `item` of it.

    The rename that comes first is atomic: a killed process leaves all of it or nothing.
    """
    sweep(folder)
    scrap = place(folder, number).with_suffix(".discarded")
    os.rename(place(folder, number) / item, scrap)
    files.discard(scrap)


def sweep(folder: Path) -> None:
    """Delete what killed writers and deleters left behind; makes the folder."""
    files.make_directory(folder)
    for entry in folder.iterdir():
        if _SCRAP.fullmatch(entry.name):
            files.discard(entry)
