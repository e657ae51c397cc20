"""The tables of people's ids that the lineages of a store began with, one file each.

A file `ids-0123456789abcdef.csv` is named by the digest of its table, which the record of every
version of the lineage holds: a file that was changed is refused.
"""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

from mu_jax import _files as files
from mu_jax.data.id_table import IdTable, load_id_table, require_same
from mu_jax.store.digests import Damaged


def place(directory: Path, digest: str) -> Path:
    """The file of the table of this digest."""
    return directory / f"ids-{digest[:16]}.csv"


def read(directory: Path, digest: str | None) -> IdTable | None:
    """The table of this digest; None for a lineage that has none.

    Raises:
        Damaged: it is not there, or not the one that was kept.
    """
    if digest is None:
        return None
    path = place(directory, digest)
    try:
        table = load_id_table(path)
    except FileNotFoundError:
        found = "no such file"
    except ValueError as error:
        raise Damaged(str(error)) from error
    else:
        if table.digest == digest:
            return table
        found = "another one"
    raise Damaged(
        f"expected the table of ids with which the lineage began at {path}, found {found}; copy "
        "it there from a backup"
    )


def keep(
    directory: Path,
    digest: str | None,
    given: IdTable | None,
    forgotten: np.ndarray | None,
    own: np.ndarray,
) -> tuple[str | None, dict[str, np.ndarray]]:
    """Keep the table of a new version, unless its lineage has one.

    Args:
        digest: of the table of its parent. given: of the data as they are now.
        forgotten: numbers of all that its lineage has forgotten; None where they are not known.
        own: those of this version.

    Returns:
        The digest of its table, and by name the ids that people have of `forgotten`.

    Raises:
        ValueError: `given` is not the table with which the lineage began, or comes after the
            lineage has forgotten somebody, or lacks a number that is forgotten; nothing was
            written.
    """
    table = read(directory, digest)
    if table is None:
        table = given
        if given is not None and (forgotten is None or np.setdiff1d(forgotten, own).size):
            raise ValueError(
                "expected a lineage that began with a table of ids, found one that has forgotten "
                "examples by number alone; train and publish again with ids="
            )
    elif given is not None:
        require_same(table, given, () if forgotten is None else forgotten)
    if table is None:
        return None, {}
    names = {} if forgotten is None else {"forgotten_ids": table.names(forgotten)}
    path = place(directory, table.digest)
    if jax.process_index() == 0 and not files.is_file(path):
        table.save(path)
    return table.digest, names
