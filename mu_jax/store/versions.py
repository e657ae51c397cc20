"""Versions of a model on disk: publish, swap the serving one, roll back, history."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax.store import commits as durable
from mu_jax.store.leaves import Packed, PyTree, pack


class Version(NamedTuple):
    """The record of one published version.

    Attributes:
        version: number, from 1 upwards, never given twice.
        parent: version it was made from, or None for a model trained from scratch.
        method: how it was made, such as `"ssd"`.
        hyperparameters: of the method.
        forget_digest: digest of the forget set, or None where nothing was forgotten.
        metrics: measured before it was published.
        note: free text.
        created: UTC time, ISO 8601.
        serving: whether the serving pointer is on it.
        restorable: False once `Store.prune` has deleted its arrays.
    """

    version: int
    parent: int | None
    method: str
    hyperparameters: dict[str, Any]
    forget_digest: str | None
    metrics: dict[str, Any]
    note: str
    created: str
    serving: bool
    restorable: bool


class Store:
    """Immutable versions of a model in one directory, and a pointer to the one that serves.

    Layout: `versions/00000001/` (orbax checkpoint: arrays, their shapes, the record), `SERVING`
    (JSON: version, previous, since when, method, forget_digest, metrics) and `.lock`.

    Guarantees, on a file system with atomic renames and `flock` (a local disk, NFS):

    * a version is there whole or not at all, and never changes; a process killed at any moment
      leaves at most scrap that no reader sees and that the next writer deletes;
    * readers take no lock and see the old or the new pointer, never a torn one;
    * writers exclude one another, across threads and processes;
    * what `publish`, `swap` and `roll_back` did is on stable storage when they return, and a power
      loss in the middle leaves the state before or after: every file of a version and its folder
      are fsynced before the rename that gives it its number, the pointer likewise.

    On several hosts every process makes the same calls on a shared file system: all of them write
    their shards, process 0 alone writes the record and the pointer. A swap of the arrays in a
    serving program is the caller's: restore the new version, then replace the one reference.

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
        >>> store.publish(unlearned, parent=1, method="ssd", hyperparameters={"alpha": 2.0})
        2
        >>> store.swap(2)
        >>> float(store.restore(like=trained)["params"]["kernel"].sum())
        0.0
        >>> store.roll_back()
        1
        >>> [(each.version, each.parent, each.method, each.serving) for each in store.history()]
        [(1, None, 'train', True), (2, 1, 'ssd', False)]
        >>> directory.cleanup()
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = durable.absolute(directory)
        self._versions = self.directory / "versions"
        self._pointer = self.directory / "SERVING"

    def __repr__(self) -> str:
        return f"Store({str(self.directory)!r})"

    def publish(
        self,
        variables: PyTree,
        *,
        method: str,
        parent: int | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
        forget_digest: str | None = None,
        metrics: Mapping[str, Any] | None = None,
        note: str = "",
    ) -> int:
        """Store `variables` as a new version, without serving it.

        Args:
            variables: pytree of arrays, typed keys and numbers, on any devices or mesh.
            method: how they were made.
            parent: version they were made from.
            hyperparameters: what JSON can hold; arrays become lists.
            forget_digest: digest of the forget set.
            metrics: finite numbers; a metric that failed is left out.
            note: free text.

        Returns:
            The number of the version, one more than the highest ever given.

        Raises:
            ValueError: a leaf is not finite or not numeric, or JSON cannot hold the record;
                nothing was written.
            FileNotFoundError: there is no version `parent`; nothing was written.

        Cost: one pass over the arrays to look for non-finite values, one to write them.
        """
        packed = pack(variables)
        _require_finite(packed)
        record = {
            "parent": parent,
            "method": method,
            "hyperparameters": durable.as_json(dict(hyperparameters or {}), "hyperparameters"),
            "forget_digest": forget_digest,
            "metrics": durable.as_json(dict(metrics or {}), "metrics"),
            "note": note,
            "created": _now(),
        }
        record = durable.as_json(record, "a record")
        if parent is not None:
            self._require_known(parent)
        with durable.exclusive(self.directory):
            version = durable.agree(max(durable.numbers(self._versions), default=0) + 1)
            durable.write(self._versions, version, packed, record)
        return version

    def swap(self, version: int) -> None:
        """Serve `version` from now on; the version served until now becomes the previous one.

        Swapping to the version that already serves changes nothing.

        Raises:
            FileNotFoundError: there is no such version, or its arrays were pruned.
        """
        self._require_restorable(version)
        with durable.exclusive(self.directory):
            serving = durable.agree(self.serving() or 0)
            self._require_restorable(version)  # another process may have pruned it meanwhile
            if version != serving:
                self._point_at(version, previous=serving or None)

    def roll_back(self) -> int:
        """Serve the previous version again, and return its number.

        A roll-back has no previous version itself: a second one raises, rather than serving again
        what the first one withdrew. `swap` names any other version.

        Raises:
            FileNotFoundError: there is no previous version.
        """
        self._require_directory()
        with durable.exclusive(self.directory):
            previous = durable.agree((self._read_pointer() or {}).get("previous") or 0)
            if not previous:
                raise FileNotFoundError(
                    f"expected a previous version to roll back to in {self.directory}, found "
                    "none; call swap with the version that shall serve"
                )
            self._point_at(previous, previous=None)
        return previous

    def serving(self) -> int | None:
        """The version that serves, or None before the first swap; takes no lock."""
        pointer = self._read_pointer()
        return None if pointer is None else pointer["version"]

    def history(self) -> list[Version]:
        """Records of all versions, oldest first, those with pruned arrays included."""
        serving = self.serving()
        return [self._record(version, serving) for version in durable.numbers(self._versions)]

    def lineage(self, version: int) -> list[Version]:
        """Records of `version`, its parent, and so on to the model trained from scratch.

        Raises:
            FileNotFoundError: there is no such version.
        """
        self._require_known(version)
        serving = self.serving()
        walk: list[Version] = []
        ancestor: int | None = version
        while ancestor is not None:
            walk.append(self._record(ancestor, serving))
            ancestor = walk[-1].parent
        return walk

    def restore(self, version: int | None = None, *, like: PyTree) -> PyTree:
        """The variables of `version`, or of the serving one.

        A reader that is overtaken by two swaps and a `prune` between reading the pointer and the
        arrays gets a FileNotFoundError and may call again.

        Args:
            version: number, or None for the serving version.
            like: tree of the structure, dtypes and shardings wanted: variables, or
                `jax.ShapeDtypeStruct`s whose shardings may be on another mesh than the one they
                were saved from; without a sharding, the default device. Floats are cast.

        Raises:
            FileNotFoundError: no such directory or version, nothing serves, or it was pruned.
            ValueError: the version is of another architecture; names the first differing leaf.
        """
        self._require_directory()
        if version is None and not (version := durable.agree(self.serving() or 0)):
            raise FileNotFoundError(
                f"expected a serving version in {self.directory}, found none; call swap first, "
                "or name a version"
            )
        self._require_restorable(version)
        return durable.read(self._versions, version, like)

    def prune(self, *, keep: int = 3, pinned: Collection[int] = ()) -> list[int]:
        """Delete the arrays of old versions; their records stay in the history.

        Never deletes the serving and the previous version, the newest `keep`, and the `pinned`.

        Returns:
            The versions whose arrays were deleted.
        """
        if keep < 0:
            raise ValueError(f"expected keep to be 0 or more, found {keep}; 0 keeps no newest ones")
        self._require_directory()
        with durable.exclusive(self.directory):
            durable.synchronize("mu_jax.store.versions.prune.begin")
            pointer = self._read_pointer() or {}
            stored = [v for v in durable.numbers(self._versions) if self._is_restorable(v)]
            newest = stored[max(len(stored) - keep, 0) :]
            kept = {pointer.get("version"), pointer.get("previous"), *newest, *pinned}
            doomed = [version for version in stored if version not in kept]
            durable.synchronize("mu_jax.store.versions.prune.chosen")
            for version in doomed if jax.process_index() == 0 else ():
                durable.discard(self._versions, version, "arrays")
        durable.synchronize("mu_jax.store.versions.prune.end")
        return doomed

    def _point_at(self, version: int, *, previous: int | None) -> None:
        record = self._record(version, version)
        pointer = {
            "version": version,
            "previous": previous,
            "since": _now(),
            "method": record.method,
            "forget_digest": record.forget_digest,
            "metrics": record.metrics,
        }
        if jax.process_index() == 0:
            durable.replace_json(self._pointer, pointer)
        durable.synchronize(f"mu_jax.store.versions.serve.{version}")

    def _read_pointer(self) -> dict[str, Any] | None:
        try:
            return json.loads(self._pointer.read_text())
        except FileNotFoundError:
            return None

    def _record(self, version: int, serving: int | None) -> Version:
        return Version(
            version=version,
            **durable.read_metadata(self._versions, version),
            serving=version == serving,
            restorable=self._is_restorable(version),
        )

    def _is_restorable(self, version: int) -> bool:
        return durable.has_arrays(self._versions, version)

    def _require_directory(self) -> None:
        if not self._versions.is_dir():
            raise FileNotFoundError(
                f"expected a store of versions in {self.directory}, found none; publish a version "
                "first, or correct the path"
            )

    def _require_known(self, version: int) -> None:
        self._require_directory()
        if version not in (known := durable.numbers(self._versions)):
            raise FileNotFoundError(
                f"expected version {version} in {self.directory}, found {_listed(known)}; name "
                "one of those"
            )

    def _require_restorable(self, version: int) -> None:
        self._require_known(version)
        if not self._is_restorable(version):
            left = [v for v in durable.numbers(self._versions) if self._is_restorable(v)]
            raise FileNotFoundError(
                f"expected the arrays of version {version} in {self.directory}, found only its "
                f"record since it was pruned; name one of {_listed(left)}"
            )


def _require_finite(packed: Packed) -> None:
    """Collective on several hosts, so that all of them refuse together."""
    finite = {}
    for name, array in packed.arrays.items():
        if jnp.issubdtype(array.dtype, jnp.inexact):
            here = not isinstance(array, jax.Array) or array.is_fully_addressable
            finite[name] = np.isfinite(np.asarray(array)) if here else jnp.isfinite(array)
    for name, mask in finite.items():
        if not bool(mask.all()):
            raise ValueError(
                f"expected finite variables, found NaN or infinity at {name!r}; nothing was "
                "published, look for divergence in the run that made them"
            )


def _listed(versions: list[int]) -> str:
    return f"versions {', '.join(map(str, versions))}" if versions else "no version"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
