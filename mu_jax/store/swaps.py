"""Moves of the pointer of a store: to another version, and back; refused where others moved it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import EllipsisType
from typing import Any

from mu_jax.store import commits, pointers
from mu_jax.store.catalog import Catalog
from mu_jax.store.records import named

_Expected = int | EllipsisType | None


class Overtaken(RuntimeError):
    """Another version began to serve while this one was made."""


def swap(path: Path, catalog: Catalog, version: int, expected: _Expected) -> bool:
    """Swap, unless another writer changes the pointer meanwhile; whether that worked."""
    pointer, seen = pointers.look(path, damaged=expected is ...)
    serving = commits.agree((pointer or {}).get("version") or 0)
    # Another process may have pruned it meanwhile.
    catalog.require_restorable(version, condemned=(pointer or {}).get("pruned", ()))
    if expected is not ... and serving not in (expected or 0, version):
        raise _overtaken(catalog, expected, serving, f"make version {version} again from that one")
    if version == serving:
        return True
    return _point_at(path, catalog, version, pointer, seen, previous=serving or None)


def roll_back(path: Path, catalog: Catalog, expected: _Expected) -> int:
    """The number that serves again, or 0 if another writer changed the pointer meanwhile."""
    pointer, seen = pointers.look(path)
    serving = commits.agree((pointer or {}).get("version") or 0)
    if expected is not ... and serving != (expected or 0):
        raise _overtaken(catalog, expected, serving, "look at that one, and decide again")
    previous = commits.agree((pointer or {}).get("previous") or 0)
    if not previous:
        raise FileNotFoundError(
            f"expected a previous version to roll back to in {catalog.directory}, found "
            "none; call swap with the version that shall serve"
        )
    catalog.require_restorable(previous)
    catalog.require_intact(previous)
    return previous if _point_at(path, catalog, previous, pointer, seen, previous=None) else 0


def _point_at(
    path: Path,
    catalog: Catalog,
    version: int,
    before: dict[str, Any] | None,
    seen: int,
    *,
    previous: int | None,
) -> bool:
    record, withdrawn = catalog.record(version, version), _withdrawn(catalog, before or {}, version)
    return pointers.point_at(path, record, before, seen, previous=previous, withdrawn=withdrawn)


def _withdrawn(catalog: Catalog, before: dict[str, Any], version: int) -> list[int]:
    """The versions that somebody went back from, once `version` serves.

    Where the way back leads over ancestors of what served, these are withdrawn with it.
    """
    found, serving = set(before.get("withdrawn", ())), before.get("version") or 0
    if serving > version:
        found.add(serving)
        with contextlib.suppress(OSError, ValueError):  # of damaged records
            lineage = catalog.lineage(serving, None)
            found |= {each.version for each in lineage if each.version > version}
    return sorted(found - {version})


def _overtaken(catalog: Catalog, expected: int | None, serving: int, advice: str) -> Overtaken:
    return Overtaken(
        f"expected that {named(expected or 0)} still serves in {catalog.directory}, found "
        f"{named(serving)}; {advice}"
    )
