"""A version and its ancestors: who they are, and what they have forgotten together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mu_jax.data import forget_retain, ids
from mu_jax.data.id_table import IdTable, require_same
from mu_jax.store import commits
from mu_jax.store.records import Version

Data = TypeVar("Data")


def walk(version: int, record: Callable[[int], Version]) -> list[Version]:
    """Records from `version` to the model trained from scratch.

    Raises:
        ValueError: a version is its own ancestor.
    """
    found: list[Version] = []
    ancestor: int | None = version
    while ancestor is not None:
        if ancestor in (each.version for each in found):
            raise ValueError(
                "expected a lineage that ends at a model trained from scratch, found that version "
                f"{ancestor} descends from itself; its records were changed by other hands"
            )
        found.append(record(ancestor))
        ancestor = found[-1].parent
    return found


def forgotten(folder: Path, lineage: Iterable[Version]) -> np.ndarray:
    """All ids that a lineage, newest first, has forgotten; int64 [m], sorted.

    Raises:
        ValueError: of a version only a digest was kept.
    """
    for each in lineage:
        kept = commits.read_beside(folder, each.version, "forgotten")
        if kept is not None:
            return kept
        if each.forget_digest is not None:
            raise ValueError(
                f"expected the ids that version {each.version} in {folder} has forgotten, found "
                "only their digest; publish it again with forgotten=ids"
            )
    return np.zeros(0, np.int64)


def forgotten_ids(folder: Path, lineage: Iterable[Version]) -> np.ndarray:
    """People's ids of all that a lineage, newest first, has forgotten; text [m].

    Raises:
        ValueError: the lineage has no table of ids, or only a digest was kept.
    """
    numbers = forgotten(folder, lineage := list(lineage))
    kept = commits.read_beside(folder, lineage[0].version, "forgotten_ids")
    if kept is None and numbers.size:
        raise ValueError(
            f"expected a lineage that was published with ids=, found that version "
            f"{lineage[0].version} in {folder} knows numbers only; ask for these by forgotten"
        )
    return np.zeros(0, np.str_) if kept is None else kept


def split(
    examples: Data, forget_ids: Any, gone: np.ndarray, kept: IdTable | None, given: IdTable | None
) -> tuple[Data, Data]:
    """`mu.split` where the ids `gone` are in neither set; refuses a request that is all gone.

    Args:
        kept: the table of ids with which the lineage began. given: that of the data.

    Example:
        >>> import mu_jax as mu
        >>> examples = mu.batches(np.ones((4, 1)), np.arange(4), batch_size=2)
        >>> forget, retain = split(examples, [1, 2], np.array([2]), None, None)
        >>> forget.index.tolist(), retain.index.tolist()
        ([1], [0, 3])
    """
    if kept is not None and given is not None:
        require_same(kept, given, gone)
    index = np.asarray(examples.index)  # type: ignore[attr-defined]
    for table in (kept, given):
        if table is not None:
            table.names(index)  # the numbers of the data are those of the table
    if given is not None:
        known = given if kept is None else kept
        here = np.union1d(index, np.intersect1d(gone, known.index))
        forget_ids = known.only(here).find(forget_ids)
    wanted = ids.sorted_unique(forget_ids)
    left = np.setdiff1d(wanted, gone)
    if wanted.size and not left.size:
        raise ValueError(
            f"expected ids that are not forgotten yet, found that all {wanted.size} are; nothing "
            "has to be done"
        )
    forget, retain = forget_retain.split(examples, left)
    back = np.intersect1d(np.asarray(retain.index), gone)  # type: ignore[attr-defined]
    return forget, forget_retain.split(retain, back)[1] if back.size else retain


def newest_intact(folder: Path, versions: Iterable[int]) -> int | None:
    """The first of these versions whose files are all as they were written."""
    for version in versions:
        try:
            commits.require_intact(folder, version)
        except commits.Damaged:
            continue
        return version
    return None
