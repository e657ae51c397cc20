"""Numbered directories, each a pytree and a JSON record: written whole or not there at all.

A directory is an orbax checkpoint with three items: `arrays` (one array per leaf, named
by its path such as `params/dense/kernel`), `leaves` (JSON: shape and dtype of every leaf) and
`metadata` (JSON: the caller's record), with `DIGESTS.json`, the SHA-256 of each of its files, and
arrays that the caller keeps beside the tree (`forgotten.npy`).

Guarantee: a directory is written under another name, and one atomic step gives it its number: a
rename on a file system (`_local`: a local disk, NFS), a conditional write in a bucket (`_bucket`).
Whatever carries a number is therefore complete, after a killed process as well as after a power
loss, and what is read is what was written: files of another digest are refused. On several hosts
every process makes the same calls, on a shared file system or bucket; process 0 commits.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mu_jax import _files as files
from mu_jax._files import absolute as absolute
from mu_jax._files import exclusive as exclusive
from mu_jax._files import in_bucket as in_bucket
from mu_jax._files import replace_json as replace_json
from mu_jax.store import _bucket, _local, digests
from mu_jax.store.digests import Damaged as Damaged
from mu_jax.store.leaves import Packed, PyTree, unpack

# Orbax saves one checkpoint at a time; a bucket has no lock that would see to that.
_SAVING = threading.Lock()


def _keeper(folder: Path) -> Any:
    """The module that keeps numbered directories there: the one choice between the two."""
    return _bucket if in_bucket(folder) else _local


def exists(folder: Path) -> bool:
    """Whether anything was ever written to `folder`."""
    return bool(_bucket.taken(folder)) if in_bucket(folder) else folder.is_dir()


def path_of(folder: Path, number: int) -> Path:
    """Directory of `number` in `folder`."""
    return _keeper(folder).place(folder, number)


def numbers(folder: Path) -> list[int]:
    """Numbers of the complete directories in `folder`, ascending."""
    return _keeper(folder).numbers(folder)


def taken(folder: Path) -> list[int]:
    """Numbers that a name in `folder` has, ascending, whatever it is the name of."""
    return _keeper(folder).taken(folder)


def has_arrays(folder: Path, number: int) -> bool:
    """Whether the arrays of `number` are there; its record may outlive them (see `discard`)."""
    return _keeper(folder).has_item(folder, number, "arrays")


def write(
    folder: Path,
    number: int,
    packed: Packed,
    metadata: Mapping[str, Any],
    beside: Mapping[str, np.ndarray] | None = None,
    *,
    renumber: bool = False,
) -> int:
    """Write a packed tree and its record as directory `number`; the caller holds `exclusive`.

    Args:
        beside: host arrays by name, kept apart from the tree; see `read_beside`.
        renumber: take the next free number where another writer took this one meanwhile, which
            happens in buckets only.

    Returns:
        The number, when everything is on stable storage.

    Raises:
        FileExistsError: another writer took the number meanwhile, and `renumber` is False.

    Cost: process 0 reads all files once more for their digests.
    """
    import orbax.checkpoint as ocp

    keeper = _keeper(folder)
    staging = keeper.staging(folder, number, agree(secrets.randbits(31)))
    items = ocp.args.Composite(
        arrays=ocp.args.StandardSave(packed.arrays),
        leaves=ocp.args.JsonSave(packed.descriptions),
        metadata=ocp.args.JsonSave({**metadata, **digests.PROMISE}),
    )
    if jax.process_index() == 0:
        keeper.sweep(folder)
    with _SAVING, ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(staging, args=items)  # starts when all processes have come here
    if jax.process_index() == 0:
        for name, array in (beside or {}).items():
            with files.replacing(staging / f"{name}.npy") as file:
                np.save(file, array, allow_pickle=False)
        _require_finished(staging)
        digests.write(staging, number)
        number = keeper.commit(staging, folder, number, renumber=renumber)
    synchronize(f"mu_jax.store.commits.write.{staging.name}")
    return agree(number)


def read_metadata(folder: Path, number: int) -> dict[str, Any]:
    """The record given to `write`."""
    found = _read_json_item(path_of(folder, number), "metadata")
    return {name: value for name, value in found.items() if name not in digests.PROMISE}


def read_beside(folder: Path, number: int, name: str) -> np.ndarray | None:
    """An array that was given to `write` beside the tree, or None."""
    directory = path_of(folder, number)
    digests.require_intact(directory, f"{name}.npy")
    try:
        with files.reading(directory / f"{name}.npy") as file:
            return np.load(file, allow_pickle=False)
    except FileNotFoundError:
        return None


def require_intact(folder: Path, number: int, item: str = "") -> None:
    """Refuse files that are not those that were written; all processes call it together.

    Args:
        item: check only the files of this item, such as `arrays`; "" checks all files.

    Raises:
        Damaged: a file differs from its digest.

    Cost: reads the files once; of several processes each reads a part.
    """
    digests.require_intact(path_of(folder, number), item, shared=True)


def read(folder: Path, number: int, like: PyTree) -> PyTree:
    """The tree given to `write`, in the structure, dtypes and shardings of `like`.

    A committed array of `like`, or a `jax.ShapeDtypeStruct` with a sharding, is restored onto that
    sharding, whichever it was saved from. An uncommitted array, or a struct without a sharding,
    becomes an uncommitted array on the default device, so that it still mixes with sharded
    batches. Numpy arrays and Python numbers stay what they are. Floats are cast to the floating
    dtype of `like`; every other dtype must be equal. Weakly typed scalars stay weakly typed;
    weakly typed arrays of higher rank come back strongly typed.

    Raises:
        Damaged: a file differs from its digest.
        ValueError: a leaf is missing, extra, or of another shape or dtype; nothing is read then.

    Cost: reads the files twice, once for their digests; of several processes each checks a part.
    """
    import orbax.checkpoint as ocp

    directory = path_of(folder, number)

    def read_arrays(targets: dict[str, Any]) -> Mapping[str, Any]:
        require_intact(folder, number, "arrays")
        items = ocp.args.Composite(arrays=ocp.args.StandardRestore(targets))
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            return checkpointer.restore(directory, args=items)["arrays"]

    return unpack(read_arrays, _read_json_item(directory, "leaves"), like, source=directory)


def discard(folder: Path, number: int, item: str = "") -> None:
    """Delete directory `number`, or one `item` of it; the caller holds `exclusive`.

    One atomic step comes first: a killed process leaves all of it or nothing.
    """
    _keeper(folder).discard(folder, number, item)


def as_json(value: Any, name: str) -> Any:
    """`value` with arrays turned into numbers and lists, or a sentence why JSON cannot hold it."""

    def plain(item: Any) -> Any:
        if isinstance(item, (jax.Array, np.ndarray, np.generic)):
            return item.tolist()
        raise ValueError(f"found {type(item).__name__}")

    try:
        return json.loads(json.dumps(value, default=plain, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"expected {name} of finite numbers, strings, lists and dicts, but {error}; leave out "
            "a value that is not finite and describe objects by strings"
        ) from error


def synchronize(name: str) -> None:
    """Wait for the other processes, where there are any."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def agree(number: int) -> int:
    """Process 0's number, on every process."""
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def _read_json_item(directory: Path, item: str) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    digests.require_intact(directory, item)
    items = ocp.args.Composite(**{item: ocp.args.JsonRestore()})
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        return checkpointer.restore(directory, args=items)[item]


def _require_finished(staging: Path) -> None:
    import orbax.checkpoint as ocp

    if not ocp.utils.is_checkpoint_finalized(staging):
        raise RuntimeError(
            f"expected a finished checkpoint in {staging}, found an unfinished one; save it again"
        )
