"""Numbered directories, each a pytree and a JSON record: written whole or not there at all.

A directory `00000007` is an orbax checkpoint with three items: `arrays` (one array per leaf, named
by its path such as `params/dense/kernel`), `leaves` (JSON: shape and dtype of every leaf) and
`metadata` (JSON: the caller's record). It lies on a file system with atomic renames and `flock`
(a local disk, NFS), not in an object store.

Guarantee: a directory is written under another name, its files and folders are fsynced, and only
then it is renamed and its parent fsynced. Whatever carries a number is therefore complete, after a
killed process as well as after a power loss. On several hosts every process makes the same calls,
on a shared file system; process 0 renames.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mu_jax.store.leaves import Packed, PyTree, unpack

_NUMBER = re.compile(r"\d{8,}")
_SCRAP = re.compile(r"\d{8,}\.(staging|discarded).*")


def absolute(directory: str | os.PathLike[str]) -> Path:
    """Absolute form of a path, `~` expanded (orbax fails late and elsewhere on relative ones)."""
    return Path(os.path.abspath(os.path.expanduser(directory)))


def path_of(folder: Path, number: int) -> Path:
    """Directory of `number` in `folder`."""
    return folder / f"{number:08d}"


def numbers(folder: Path) -> list[int]:
    """Numbers of the complete directories in `folder`, ascending."""
    if not folder.is_dir():
        return []
    return sorted(int(entry.name) for entry in folder.iterdir() if _NUMBER.fullmatch(entry.name))


def has_arrays(folder: Path, number: int) -> bool:
    """Whether the arrays of `number` are there; its record may outlive them (see `discard`)."""
    return (path_of(folder, number) / "arrays").is_dir()


def write(folder: Path, number: int, packed: Packed, metadata: Mapping[str, Any]) -> None:
    """Write a packed tree and its record as directory `number`; the caller holds `exclusive`.

    Returns when everything is on stable storage.
    """
    import orbax.checkpoint as ocp

    staging = path_of(folder, number).with_suffix(".staging")
    items = ocp.args.Composite(
        arrays=ocp.args.StandardSave(packed.arrays),
        leaves=ocp.args.JsonSave(packed.descriptions),
        metadata=ocp.args.JsonSave(dict(metadata)),
    )
    if jax.process_index() == 0:
        _make_directory(folder)
        _sweep(folder)
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(staging, args=items)  # starts when all processes have come here
    if jax.process_index() == 0:
        _commit(staging, path_of(folder, number))
    synchronize(f"mu_jax.store.commits.write.{number}")


def read_metadata(folder: Path, number: int) -> dict[str, Any]:
    """The record given to `write`."""
    return _read_json_item(path_of(folder, number), "metadata")


def read(folder: Path, number: int, like: PyTree) -> PyTree:
    """The tree given to `write`, in the structure, dtypes and shardings of `like`.

    A committed array of `like`, or a `jax.ShapeDtypeStruct` with a sharding, is restored onto that
    sharding, whichever it was saved from. An uncommitted array, or a struct without a sharding,
    becomes an uncommitted array on the default device, so that it still mixes with sharded
    batches. Numpy arrays and Python numbers stay what they are. Floats are cast to the floating
    dtype of `like`; every other dtype must be equal. Weakly typed scalars stay weakly typed;
    weakly typed arrays of higher rank come back strongly typed.

    Raises:
        ValueError: a leaf is missing, extra, or of another shape or dtype; nothing is read then.
    """
    import orbax.checkpoint as ocp

    directory = path_of(folder, number)

    def read_arrays(targets: dict[str, Any]) -> Mapping[str, Any]:
        items = ocp.args.Composite(arrays=ocp.args.StandardRestore(targets))
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            return checkpointer.restore(directory, args=items)["arrays"]

    return unpack(read_arrays, _read_json_item(directory, "leaves"), like, source=directory)


def discard(folder: Path, number: int, item: str = "") -> None:
    """Delete directory `number`, or one `item` of it; the caller holds `exclusive`.

    The rename that comes first is atomic: a killed process leaves all of it or nothing.
    """
    _sweep(folder)
    scrap = path_of(folder, number).with_suffix(".discarded")
    os.rename(path_of(folder, number) / item, scrap)
    shutil.rmtree(scrap)


@contextlib.contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """One process (or thread) at a time; the kernel frees the lock when its holder dies.

    On several hosts process 0 holds the lock, and the others wait for it where they `agree` or
    `synchronize`.
    """
    if jax.process_index() != 0:
        yield
        return
    import fcntl

    _make_directory(directory)
    with open(directory / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def replace_json(path: Path, value: Any) -> None:
    """Replace a JSON file atomically and durably: readers see the old or the new one, entire."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w") as file:
        json.dump(value, file, indent=1, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _fsync(path.parent)


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

    items = ocp.args.Composite(**{item: ocp.args.JsonRestore()})
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        return checkpointer.restore(directory, args=items)[item]


def _commit(staging: Path, final: Path) -> None:
    import orbax.checkpoint as ocp

    if not ocp.utils.is_checkpoint_finalized(staging):
        raise RuntimeError(
            f"expected a finished checkpoint in {staging}, found an unfinished one; save it again"
        )
    for directory, _, files in os.walk(staging):
        for name in files:
            _fsync(Path(directory, name))
        _fsync(Path(directory))
    os.rename(staging, final)
    _fsync(final.parent)


def _sweep(folder: Path) -> None:
    """Delete what killed writers and deleters left behind."""
    for entry in folder.iterdir():
        if _SCRAP.fullmatch(entry.name):
            shutil.rmtree(entry)


def _make_directory(path: Path) -> None:
    if not path.is_dir():
        _make_directory(path.parent)
        path.mkdir(exist_ok=True)
        _fsync(path.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
