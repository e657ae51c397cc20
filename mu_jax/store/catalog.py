"""Which versions a store has: their records, lineages, and whether their arrays are there."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

from mu_jax.store import commits, lineages
from mu_jax.store.commits import Damaged
from mu_jax.store.records import Version, as_version, listed


class Catalog:
    """The versions in a folder, as readers see them; it takes no lock and writes nothing.

    Args:
        directory: of the store, for sentences.
        folder: of its versions.
    """

    def __init__(self, directory: Path, folder: Path) -> None:
        self.directory, self.folder = directory, folder

    def numbers(self) -> list[int]:
        """Numbers of all versions, ascending."""
        return commits.numbers(self.folder)

    def restorable(self) -> list[int]:
        """Numbers of the versions whose arrays are there, ascending."""
        return [version for version in self.numbers() if self.is_restorable(version)]

    def is_restorable(self, version: int) -> bool:
        """Whether the arrays of a version are there."""
        return commits.has_arrays(self.folder, version)

    def record(self, version: int, serving: int | None) -> Version:
        """The record of a version that is there."""
        return as_version(
            version,
            commits.read_metadata(self.folder, version),
            serving=serving,
            restorable=self.is_restorable(version),
        )

    def lineage(self, version: int, serving: int | None) -> list[Version]:
        """Records of a version and its ancestors, newest first."""

        def known(number: int) -> Version:
            self.require_known(number)
            return self.record(number, serving)

        return lineages.walk(version, known)

    def find(self, identity: str) -> int | None:
        """The newest version of this identity whose files are as they were written."""
        for version in reversed(self.restorable()):
            with contextlib.suppress(Damaged):
                if self.record(version, None).identity == identity:
                    commits.require_intact(self.folder, version)
                    return version
        return None

    def forgotten(self, version: int) -> np.ndarray:
        """All ids that a version and its ancestors have forgotten."""
        return lineages.forgotten(self.folder, self.lineage(version, None))

    def forgotten_ids(self, version: int) -> np.ndarray:
        """The ids that people have of all that a version and its ancestors have forgotten."""
        return lineages.forgotten_ids(self.folder, self.lineage(version, None))

    def require_fit(self, version: int, anyway: bool) -> None:
        """Refuse a version that was published with a reason why it should not serve.

        Raises:
            ValueError: names the reason.
        """
        withheld = self.record(version, None).withheld
        if withheld and not anyway:
            raise ValueError(
                f"expected a version fit to serve, found that version {version} was withheld, "
                f"since {withheld}; make another one, or give anyway=True"
            )

    def accumulated(
        self, parent: int | None, own: np.ndarray, *, only_digest: bool
    ) -> np.ndarray | None:
        """What a child of `parent` has forgotten; None if only digests are known."""
        if parent is not None:
            self.require_known(parent)
        if only_digest:
            return None
        try:
            inherited = np.zeros(0, np.int64) if parent is None else self.forgotten(parent)
        except Damaged:
            raise
        except ValueError:
            if own.size:
                raise
            return None
        return np.union1d(inherited, own)

    def instead_of(self, damaged: int) -> str:
        """A sentence on the newest intact ancestor."""
        try:
            lineage = self.lineage(damaged, None)
            ancestors = [each.version for each in lineage[1:] if each.restorable]
        except (ValueError, FileNotFoundError):  # its record is damaged too
            ancestors = [number for number in reversed(self.restorable()) if number < damaged]
        intact = lineages.newest_intact(self.folder, ancestors)
        if intact is None:
            return "none of its ancestors is intact, take the files from a backup"
        return f"version {intact}, its newest intact ancestor, can serve: call swap with it"

    def require_intact(self, version: int) -> None:
        """Refuse a version of which any file is not as it was written; name one that is."""
        try:
            commits.require_intact(self.folder, version)
        except Damaged as error:
            raise Damaged(f"{error}; {self.instead_of(version)}") from error

    def require_directory(self) -> None:
        """Refuse a store that is not there."""
        if not commits.exists(self.folder):
            raise FileNotFoundError(
                f"expected a store of versions in {self.directory}, found none; publish a version "
                "first, or correct the path"
            )

    def require_known(self, version: int) -> None:
        """Refuse a version that is not there."""
        self.require_directory()
        if version not in (known := self.numbers()):
            raise FileNotFoundError(
                f"expected version {version} in {self.directory}, found {listed(known)}; name "
                "one of those"
            )

    def require_restorable(self, version: int, *, condemned: Collection[int] = ()) -> None:
        """Refuse a version that is not there or was pruned, or is about to be."""
        self.require_known(version)
        if version in condemned or not self.is_restorable(version):
            raise FileNotFoundError(
                f"expected the arrays of version {version} in {self.directory}, found only its "
                f"record since it was pruned; name one of {listed(self.restorable())}"
            )
