"""Versions of a model on disk: publish, swap the serving one, roll back, history."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Mapping
from types import EllipsisType
from typing import Any

import jax
import numpy as np

from mu_jax.data.id_table import IdTable
from mu_jax.data.ids import sorted_unique
from mu_jax.store import commits, id_tables, lineages, pointers, swaps
from mu_jax.store.catalog import Catalog
from mu_jax.store.commits import Damaged
from mu_jax.store.leaves import PyTree, pack
from mu_jax.store.lineages import Data
from mu_jax.store.records import Version, new_record, require_finite
from mu_jax.store.swaps import Overtaken
from mu_jax.store.watching import Watch

__all__ = ["Damaged", "Overtaken", "Store", "Version"]


class Store:
    """Immutable versions of a model in one directory, and a pointer to the one that serves.

    Layout: `versions/00000001/` (orbax checkpoint: arrays, their shapes, the record; and
    `DIGESTS.json`, the SHA-256 of each file; `forgotten.npy`, int64 ids, and where people have
    others `forgotten_ids.npy`, text), `ids-....csv` (the table of these), `SERVING` (JSON: version,
    previous, since when, method, forget_digest, metrics, withdrawn), `NUMBERS` (JSON: the highest
    ever given) and `.lock`.

    Guarantees, on a file system with atomic renames and `flock` (a local disk, NFS):

    * a version is there whole or not at all, and never changes; a process killed at any moment
      leaves at most scrap that no reader sees and that the next writer deletes;
    * what is restored and what serves is what was published: a file of another digest is refused,
      and the newest intact ancestor named;
    * what a version has forgotten (`publish(forgotten=ids)`), all that descend from it have
      forgotten: `forgotten` lists it, and `split` leaves it out of every later request;
    * readers take no lock and see the old or the new pointer, never a torn one;
    * writers exclude one another, across threads and processes;
    * what `publish`, `swap` and `roll_back` did is on stable storage when they return, and a power
      loss in the middle leaves the state before or after: every file of a version and its folder
      are fsynced before the rename that gives it its number, the pointer likewise.

    On several hosts every process makes the same calls on a shared file system: all of them write
    their shards, process 0 alone writes the record and the pointer. A process that answers follows
    the swaps by `watch`.

    Args:
        directory: made by the first `publish`; a relative path is taken from here and now.

    Example:
        >>> import tempfile, jax.numpy as jnp
        >>> directory = tempfile.TemporaryDirectory()
        >>> store = Store(directory.name)
        >>> trained = {"params": {"kernel": jnp.ones((2, 3))}}
        >>> store.publish(trained, method="train")
        1
        >>> store.swap(1)
        >>> unlearned = {"params": {"kernel": jnp.zeros((2, 3))}}
        >>> store.publish(unlearned, parent=1, method="ssd", forgotten=[7, 3])
        2
        >>> store.swap(2)
        >>> float(store.restore(like=trained)["params"]["kernel"].sum())
        0.0
        >>> store.forgotten()
        array([3, 7])
        >>> store.roll_back()
        1
        >>> [(each.version, each.parent, each.method, each.serving) for each in store.history()]
        [(1, None, 'train', True), (2, 1, 'ssd', False)]
        >>> directory.cleanup()
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = commits.absolute(directory)
        self._versions = self.directory / "versions"
        self._pointer = self.directory / "SERVING"
        self._numbers = self.directory / "NUMBERS"
        self._catalog = Catalog(self.directory, self._versions)

    def __repr__(self) -> str:
        return f"Store({str(self.directory)!r})"

    def publish(
        self,
        variables: PyTree,
        *,
        method: str,
        parent: int | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
        forgotten: Iterable[int] | np.ndarray = (),
        forget_digest: str | None = None,
        metrics: Mapping[str, Any] | None = None,
        note: str = "",
        withheld: str = "",
        identity: str | None = None,
        ids: IdTable | None = None,
    ) -> int:
        """Store `variables` as a new version, without serving it.

        Args:
            variables: pytree of arrays, typed keys and numbers, on any devices or mesh.
            method: how they were made.
            parent: version they were made from.
            hyperparameters: what JSON can hold; arrays become lists.
            forgotten: integer ids of the examples that it has forgotten and its parent has not;
                kept exactly, with those of all ancestors.
            forget_digest: digest of the forget set, for those who must not keep ids; `forgotten`
                of this version and of its descendants then raises. Default: that of `forgotten`.
            metrics: finite numbers; a metric that failed is left out.
            note: free text.
            withheld: why this version should not serve; `swap` then refuses it.
            identity: digest of everything that decides its result, to recognize it again.
            ids: the table of people's ids, see `mu.id_table`; the lineage keeps it and their ids.

        Returns:
            The number of the version, one more than the highest ever given.

        Raises:
            ValueError: a leaf is not finite or numeric, JSON cannot hold the record, ids are no
                integers or those of an ancestor unknown, or `ids` is another table than the lineage
                began with; nothing was written.
            FileNotFoundError: there is no version `parent`; nothing was written.

        Cost: one pass over the arrays to look for non-finite values, one to write them, one over
            the files for their digests.
        """
        packed = pack(variables)
        require_finite(packed)
        own = sorted_unique(forgotten)
        record = new_record(
            own,
            parent=parent,
            method=method,
            hyperparameters=hyperparameters,
            forget_digest=forget_digest,
            metrics=metrics,
            note=note,
            withheld=withheld,
            identity=identity,
        )
        every = self._catalog.accumulated(
            parent, own, only_digest=bool(forget_digest) and not own.size
        )
        record["num_forgotten"] = None if every is None else int(every.size)
        began_with = None if parent is None else self._catalog.record(parent, None).ids_digest
        record["ids_digest"], names = id_tables.keep(self.directory, began_with, ids, every, own)
        beside = {} if every is None else {"forgotten": every, **names}
        with commits.exclusive(self.directory):
            version = commits.agree(self._highest() + 1)
            version = commits.write(self._versions, version, packed, record, beside, renumber=True)
            pointers.raise_highest(self._numbers, version)
        return version

    def forgotten(self, version: int | None = None) -> np.ndarray:
        """All ids that `version` and its ancestors have forgotten; none may be trained on again.

        Args:
            version: number, or None for the serving version.

        Returns:
            int64 [m], sorted.

        Raises:
            FileNotFoundError: there is no such version, or nothing serves.
            Damaged: the record or the ids are not those that were written.
            ValueError: of a version of the lineage only a digest was kept.

        Cost: reads one file; the parents are looked at only in stores without it.
        """
        return self._catalog.forgotten(self._named(version))

    def forgotten_ids(self, version: int | None = None) -> np.ndarray:
        """People's ids of all that `version` and its ancestors have forgotten: text [m].

        Raises:
            ValueError: it was published without `ids`; and as for `forgotten`.
        """
        return self._catalog.forgotten_ids(self._named(version))

    def ids(self, version: int | None = None) -> IdTable | None:
        """The table of people's ids with which the lineage of `version` began, if it has one.

        Number rows by it, `store.ids().numbers(...)`, whatever has become of the data since.

        Raises:
            Damaged: the file is not the one that was kept.
        """
        record = self._catalog.record(self._named(version), None)
        return id_tables.read(self.directory, record.ids_digest)

    def split(
        self, data: Data, forget_ids: Any, *, version: int | None = None, ids: IdTable | None = None
    ) -> tuple[Data, Data]:
        """`mu.split` for a request to a version: what is forgotten already is in neither set.

        Args:
            data: `Batches` or a `Stream` of all training examples.
            forget_ids: integer ids to forget; with `ids`, those that people have, or a subject.
            version: to unlearn from, or None for the serving version.
            ids: the table with which the lineage began; rows that are forgotten may be missing.

        Returns:
            `(forget, retain)`.

        Raises:
            ValueError: all of these ids are forgotten already, the table has changed, or as in
                `mu.split`.
        """
        return lineages.split(data, forget_ids, self.forgotten(version), self.ids(version), ids)

    def swap(
        self, version: int, *, expected: int | EllipsisType | None = ..., anyway: bool = False
    ) -> None:
        """Serve `version` from now on; the version served until now becomes the previous one.

        Swapping to the version that already serves changes nothing. A damaged pointer is replaced.

        Args:
            expected: the version that serves now, or None for none; swap only if it still does.
                Name the parent, so that of two requests to one version none is lost.
            anyway: serve a version that was published `withheld`.

        Raises:
            FileNotFoundError: there is no such version, or its arrays were pruned.
            ValueError: it was published `withheld`; nothing was changed.
            Damaged: a file of it is not the one that was published; nothing was changed.
            Overtaken: another version than `expected` serves; nothing was changed.

        Cost: reads the files of the version once, for their digests.
        """
        self._catalog.require_restorable(version)
        self._catalog.require_intact(version)
        self._catalog.require_fit(version, anyway)
        with commits.exclusive(self.directory):
            while not swaps.swap(self._pointer, self._catalog, version, expected):
                pass  # in a bucket another writer was faster: look again

    def roll_back(self, *, expected: int | EllipsisType | None = ...) -> int:
        """Serve the previous version again, and return its number.

        A roll-back has no previous version itself: a second one raises, rather than serving again
        what the first one withdrew. `swap` names any other version.

        Args:
            expected: the version that serves now; roll back only if it still does. Name the one
                that you judged, so that another operator's swap is not taken back unseen.

        Raises:
            FileNotFoundError: there is no previous version.
            Damaged: a file of it is not the one that was published; nothing was changed.
            Overtaken: another version than `expected` serves; nothing was changed.

        Cost: reads the files of the version once, for their digests.
        """
        self._catalog.require_directory()
        with commits.exclusive(self.directory):
            while not (previous := swaps.roll_back(self._pointer, self._catalog, expected)):
                pass
        return previous

    def withdrawn(self) -> list[int]:
        """Versions that served until somebody went back to an older one, ascending.

        A process that serves what it finds leaves these alone, as `mu_jax.service` does; a person
        serves one again by `swap`, and it is withdrawn no more.
        """
        return list((pointers.read_pointer(self._pointer) or {}).get("withdrawn", ()))

    def serving(self) -> int | None:
        """The version that serves, or None before the first swap; takes no lock.

        Raises:
            Damaged: the pointer cannot be read; `swap` replaces it.
        """
        return (pointers.read_pointer(self._pointer) or {}).get("version")

    def history(self) -> list[Version]:
        """Records of all versions, oldest first, those with pruned arrays included."""
        serving = self.serving()
        return [self._catalog.record(version, serving) for version in self._catalog.numbers()]

    def lineage(self, version: int) -> list[Version]:
        """Records of `version`, its parent, and so on to the model trained from scratch.

        None of them is said to serve where the pointer is damaged.

        Raises:
            FileNotFoundError: there is no such version, or an ancestor is gone.
            ValueError: a version is its own ancestor.
        """
        serving: int | None = None
        with contextlib.suppress(Damaged):  # what a version is, its own record says
            serving = self.serving()
        return self._catalog.lineage(version, serving)

    def find(self, identity: str) -> int | None:
        """The newest intact version of this `identity`, or None; reads its files for digests."""
        return self._catalog.find(identity)

    def restore(self, version: int | None = None, *, like: PyTree) -> PyTree:
        """The variables of `version`, or of the serving one.

        Args:
            version: None for the serving one.
            like: tree of the structure, dtypes and shardings wanted: variables, or
                `jax.ShapeDtypeStruct`s whose shardings may be on another mesh than the one they
                were saved from; without a sharding, the default device. Floats are cast.

        Raises:
            FileNotFoundError: no such directory or version, nothing serves, or it was pruned, by
                now or since the pointer was read: call again.
            Damaged: a file is not the one that was published; names the newest intact ancestor.
            ValueError: the version is of another architecture; names the first differing leaf.

        Cost: reads the files twice, once for their digests.
        """
        version = self._named(version)
        self._catalog.require_restorable(version)
        try:
            return commits.read(self._versions, version, like)
        except Damaged as error:
            raise Damaged(f"{error}; {self._catalog.instead_of(version)}") from error

    def watch(self, *, like: PyTree, every: float = 1.0) -> Watch:
        """What serves, for a process that answers: a thread follows swaps, see `Watch`."""
        return Watch(self, like=like, every=every)

    def prune(self, *, keep: int = 3, pinned: Collection[int] = ()) -> list[int]:
        """Delete the arrays of old versions; their records stay in the history.

        Never deletes the serving and the previous version, the newest `keep`, and the `pinned`.

        Returns:
            The versions whose arrays were deleted.
        """
        if keep < 0:
            raise ValueError(f"expected keep to be 0 or more, found {keep}; 0 keeps no newest ones")
        self._catalog.require_directory()
        with commits.exclusive(self.directory):
            commits.synchronize("mu_jax.store.versions.prune.begin")
            stored = self._catalog.restorable
            while (chosen := pointers.choose(self._pointer, stored(), keep, pinned)) is None:
                pass
            doomed, left_over = chosen
            commits.synchronize("mu_jax.store.versions.prune.chosen")
            for version in [*doomed, *left_over] if jax.process_index() == 0 else ():
                commits.discard(self._versions, version, "arrays")
        commits.synchronize("mu_jax.store.versions.prune.end")
        return doomed

    def _named(self, version: int | None) -> int:
        """The version itself, or the one that serves."""
        self._catalog.require_directory()
        if version is None and not (version := commits.agree(self.serving() or 0)):
            raise FileNotFoundError(
                f"expected a serving version in {self.directory}, found none; call swap first, "
                "or name a version"
            )
        return version

    def _highest(self) -> int:
        return pointers.read_highest(self._numbers, self._versions, self._pointer)
