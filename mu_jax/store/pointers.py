"""Two small files of a store: which version serves, and the highest number ever given."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax

from mu_jax import _files as files
from mu_jax import _json
from mu_jax import _objects as objects
from mu_jax.store import commits
from mu_jax.store.records import Version, now


def read_pointer(path: Path) -> dict[str, Any] | None:
    """What serves and what served before; None before the first swap.

    Raises:
        Damaged: the file is not a pointer.
    """
    return look(path)[0]


def look(path: Path, *, damaged: bool = False) -> tuple[dict[str, Any] | None, int]:
    """The pointer, and its generation for `replace`.

    Args:
        damaged: take a pointer that cannot be read for none.

    Raises:
        Damaged: the file is not a pointer.
    """
    data, generation = _read(path)
    if data is None:
        return None, generation
    try:
        pointer = _json.parse(data)
        kinds = [type(pointer[name]) for name in ("version", "previous")]
        if set(kinds) <= {int, type(None)} and (kinds[0] is int or "pruned" in pointer):
            return pointer, generation
    except (ValueError, TypeError, KeyError):
        pass
    if damaged:
        return None, generation
    raise commits.Damaged(
        f"expected the number of the serving version in {path}, found the file damaged; call swap "
        "with the version that shall serve"
    )


def replace(path: Path, value: dict[str, Any], generation: int) -> bool:
    """Process 0 replaces the pointer, if it is still what `look` saw; all learn whether it was.

    On a file system the caller's lock sees to that, and the answer is always yes.
    """
    done = True
    if jax.process_index() == 0:
        if commits.in_bucket(path):
            data = files.as_text(value).encode()
            done = objects.write(path, data, generation=generation)
        else:
            commits.replace_json(path, value)
    return bool(commits.agree(int(done)))


def condemn(path: Path, pointer: dict[str, Any] | None, versions: list[int], seen: int) -> bool:
    """Say in the pointer of a bucket which versions are about to lose their arrays.

    A swap that has looked at the pointer before then fails and looks again: no pointer ever comes
    to stand on a version without arrays. On a file system the caller's lock sees to that.
    """
    if not commits.in_bucket(path) or not versions:
        return True
    before = pointer or {"version": None, "previous": None}
    condemned = sorted({*before.get("pruned", ()), *versions})
    return replace(path, {**before, "pruned": condemned}, seen)


def choose(
    path: Path, stored: list[int], keep: int, pinned: Collection[int]
) -> tuple[list[int], list[int]] | None:
    """Versions to prune, and what a killed `prune` left; None if the pointer was changed."""
    found, seen = look(path)
    pointer = found or {}
    left_over = list(pointer.get("pruned", ()))
    newest = stored[max(len(stored) - keep, 0) :]
    kept = {pointer.get("version"), pointer.get("previous"), *newest, *pinned}
    doomed = [version for version in stored if version not in kept or version in left_over]
    new = [version for version in doomed if version not in left_over]
    return (doomed, left_over) if condemn(path, found, new, seen) else None


def point_at(
    path: Path,
    record: Version,
    before: dict[str, Any] | None,
    seen: int,
    *,
    previous: int | None,
    withdrawn: list[int],
) -> bool:
    """Let a version serve, if the pointer is still what `look` saw; whether it was.

    Args:
        withdrawn: versions that somebody went back from.
    """
    pointer = {
        "version": record.version,
        "previous": previous,
        "since": now(),
        "method": record.method,
        "forget_digest": record.forget_digest,
        "metrics": record.metrics,
        "withdrawn": withdrawn,
    }
    if "pruned" in (before or {}):
        pointer["pruned"] = (before or {})["pruned"]
    return replace(path, pointer, seen)


def raise_highest(path: Path, number: int) -> None:
    """Record that `number` was given."""
    if jax.process_index() == 0:
        if commits.in_bucket(path):
            objects.update(path, lambda data: _highest_of(data, number))
        else:
            commits.replace_json(path, {"highest": number})
    commits.synchronize(f"mu_jax.store.pointers.{path.name}.{number}")


def read_highest(path: Path, folder: Path, pointer: Path) -> int:
    """The highest number ever given, even if its version was deleted by other hands."""
    found = [0, *commits.taken(folder)]
    # In an earlier store, or where a file is damaged, the versions that are there must do.
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, OverflowError):
        found.append(int(_json.parse(files.read_text(path))["highest"]))
    with contextlib.suppress(commits.Damaged):
        served = read_pointer(pointer) or {}
        found += [served.get("version") or 0, served.get("previous") or 0]
    return max(found)


def _read(path: Path) -> tuple[bytes | None, int]:
    if commits.in_bucket(path):
        return objects.read(path)
    try:
        return path.read_bytes(), 0
    except FileNotFoundError:
        return None, 0


def _highest_of(data: bytes | None, number: int) -> bytes:
    """The file of the highest number, after `number` was given by one of several writers."""
    with contextlib.suppress(ValueError, TypeError, KeyError, OverflowError):
        number = max(number, int(_json.parse(data or b"")["highest"]))
    return files.as_text({"highest": number}).encode()
