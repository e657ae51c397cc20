"""Two small files of a store: which version serves, and the highest number ever given."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import jax

from mu_jax.store import commits as durable


def read_pointer(path: Path) -> dict[str, Any] | None:
    """What serves and what served before; None before the first swap.

    Raises:
        Damaged: the file is not a pointer.
    """
    try:
        pointer = json.loads(path.read_text())
        if type(pointer["version"]) is int and type(pointer["previous"]) in (int, type(None)):
            return pointer
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise durable.Damaged(
        f"expected the number of the serving version in {path}, found the file damaged; call swap "
        "with the version that shall serve"
    )


def read_highest(path: Path, folder: Path, pointer: Path) -> int:
    """The highest number ever given, even if its version was deleted by other hands."""
    found = [0, *durable.taken(folder)]
    # In an earlier store, or where a file is damaged, the versions that are there must do.
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        found.append(int(json.loads(path.read_text())["highest"]))
    with contextlib.suppress(durable.Damaged):
        served = read_pointer(pointer) or {}
        found += [served.get("version") or 0, served.get("previous") or 0]
    return max(found)


def replace_on_first(path: Path, value: dict[str, Any]) -> None:
    """Process 0 replaces a JSON file, and the others wait until it has."""
    if jax.process_index() == 0:
        durable.replace_json(path, value)
    durable.synchronize(f"mu_jax.store.pointers.{path.name}.{next(iter(value.values()))}")
