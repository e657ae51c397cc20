"""Files that appear whole or not at all, under names that no two writers share, and locks.

A file is written under a temporary name of its own (`.NAME.` and 16 random digits), which its
writer keeps locked, and then renamed. A temporary name whose lock is free belongs to a process
that died, and the next writer of the same file deletes it; so is a working folder. In a bucket one
write replaces an object, and there are no locks: what would need one is written on condition that
nobody else has written (`create_json`, `update`).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import jax

from mu_jax import _objects
from mu_jax._paths import absolute as absolute
from mu_jax._paths import in_bucket as in_bucket

_DAY = 86_400.0


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A new file that takes the place of `path` when the block ends without an error.

    Readers see the old or the new file, entire; any number of processes may replace it at once,
    and the last one stays. On return the file is on stable storage. A link at `path` is replaced,
    not followed; missing folders are made.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(f"{folder}/note") as file:
        ...         _ = file.write(b"kept")
        ...     os.listdir(folder)
        ['note']
    """
    path = absolute(path)
    if in_bucket(path):
        data = io.BytesIO()
        yield data
        _objects.write(path, data.getvalue())
        return
    make_directory(path.parent)
    sweep(path.parent, f".{path.name}.")
    with _scratch(path) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
        os.replace(file.name, path)
        fsync(path.parent)


def replace_text(path: str | os.PathLike[str], text: str) -> None:
    """Replace a text file atomically and durably, see `replacing`."""
    with replacing(path) as file:
        file.write(text.encode())


def replace_json(path: str | os.PathLike[str], value: Any) -> None:
    """Replace a JSON file atomically and durably, see `replacing`."""
    replace_text(path, as_text(value))


def create_json(path: Path, value: Any) -> bool:
    """Write a JSON file that is not there; False if it is. The caller holds `exclusive`."""
    if in_bucket(path):
        return _objects.write(path, as_text(value).encode(), generation=0)
    if path.exists():
        return False
    replace_json(path, value)
    return True


def append_line(path: Path, line: bytes) -> None:
    """Add a line to an object of lines; of several writers at once none is lost."""
    _objects.update(path, lambda data: _whole_lines(data or b"") + line)


def _whole_lines(data: bytes) -> bytes:
    return data if not data or data.endswith(b"\n") else data + b"\n"


def as_text(value: Any) -> str:
    """The JSON text of a value that is finite."""
    return json.dumps(value, indent=1, allow_nan=False)


def reading(path: Path) -> io.BufferedIOBase:
    """A file or an object, open for reading.

    Raises:
        FileNotFoundError: there is none.
    """
    return _objects.reading(path) if in_bucket(path) else open(path, "rb")


def read_text(path: Path) -> str:
    """The text of a file or an object.

    Raises:
        FileNotFoundError: there is none.
    """
    with reading(path) as file:
        return file.read().decode("utf-8")


def is_file(path: Path) -> bool:
    """Whether there is a file or an object of this name, as of now."""
    return _objects.exists(path) if in_bucket(path) else path.is_file()


def names(folder: Path) -> list[str]:
    """Names of the files and folders that are directly in a folder, sorted; none if it is none."""
    if in_bucket(folder):
        objects, folders = _objects.children(folder)
        return sorted({*objects, *folders})
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


def below(folder: Path) -> list[str]:
    """Names of all files below a folder, relative to it, sorted."""
    if in_bucket(folder):
        return sorted(_objects.below(folder))
    return sorted(str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file())


@contextlib.contextmanager
def working_folder(root: Path, prefix: str) -> Iterator[Path]:
    """A new folder in `root` for the time of the block; those of dead processes are deleted."""
    sweep(root, prefix)
    while True:
        folder = root / f"{prefix}{secrets.token_hex(8)}"
        folder.mkdir()
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if _hold(lock):
            break
        os.close(lock)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep(folder: Path, prefix: str) -> None:
    """Delete the temporary files and working folders of that prefix whose process is dead."""
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if entry.name.startswith(prefix) and re.fullmatch(
            r"\w{8,}(\.npz)?", entry.name[len(prefix) :]
        ):
            with contextlib.suppress(OSError):
                _sweep_one(entry)


def _sweep_one(entry: Path) -> None:
    where = entry / ".lock" if entry.is_dir() else entry
    try:
        lock = os.open(where, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        # A folder without a lock has just been made, or is very old.
        if time.time() - entry.stat().st_mtime > _DAY:
            shutil.rmtree(entry)
        return
    try:
        if _try_lock(lock):
            discard(entry)
    finally:
        os.close(lock)


def discard(path: Path) -> None:
    """Delete a file, a link (not what it points to) or a folder."""
    if in_bucket(path):
        _objects.delete(path)
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive(directory: Path, *, wait: bool = True) -> Iterator[None]:
    """One process (or thread) at a time; the kernel frees the lock when its holder dies.

    On several hosts process 0 holds the lock, and the others wait for it where they `agree` or
    `synchronize`. A bucket has no locks, and this excludes nobody there: what is done in the block
    must be a write on condition.

    Raises:
        BlockingIOError: another one holds the lock, and `wait` is False.
    """
    if jax.process_index() != 0 or in_bucket(directory):
        yield
        return
    lock = _lock(directory, wait)
    try:
        yield
    finally:
        os.close(lock)


def _lock(directory: Path, wait: bool) -> int:
    while True:
        make_directory(directory)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = os.open(directory / ".lock", flags, 0o666)
        if not wait and not _try_lock(lock):
            os.close(lock)
            raise BlockingIOError(
                f"expected {directory} to be free, found that another process works there; wait "
                "until it has ended"
            )
        if _hold(lock):
            return lock
        os.close(lock)  # the folder was deleted while this process waited


def _try_lock(descriptor: int) -> bool:
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _hold(descriptor: int) -> bool:
    """Wait for the lock of an open file; False if the file was deleted meanwhile."""
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return os.fstat(descriptor).st_nlink > 0


@contextlib.contextmanager
def _scratch(path: Path) -> Iterator[IO[bytes]]:
    """A locked file of a new name beside `path`; the name goes in the end, if it is still there."""
    while True:
        scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        with open(scratch, "xb") as file:
            try:
                if _hold(file.fileno()):
                    yield file
                    return
            finally:
                scratch.unlink(missing_ok=True)


def make_directory(path: Path) -> None:
    """Make a folder and those above it, durably."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        fsync(path.parent)


def fsync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on stable storage."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
