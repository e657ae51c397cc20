"""Objects of a bucket: read with their generation, written on condition that nobody else has.

A bucket has no renames and no locks. What it has is a conditional write: an object is replaced only
if its generation is still the one that was read (0 for an object that is not there). The object
then changes from the old to the new bytes at once, for all readers.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

Path = os.PathLike[str]
Function = TypeVar("Function", bound=Callable[..., Any])
_TRIES = 100


def _told(function: Function) -> Function:
    """Makes what the service refuses one sentence: no such bucket, no rights, no credentials."""

    @functools.wraps(function)
    def call(path: Path, *args: Any, **options: Any) -> Any:
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError

        try:
            return function(path, *args, **options)
        except (GoogleAPIError, GoogleAuthError) as error:
            raise OSError(
                f"expected a bucket to use at {os.fspath(path)}, found that the service says "
                f"{' '.join(str(error).split())[:200]!r}; check the name of the bucket, the "
                "credentials and the rights of this account"
            ) from error

    return call  # type: ignore[return-value]


@_told
def read(path: Path) -> tuple[bytes | None, int]:
    """The bytes of an object and their generation; `(None, 0)` if there is none."""
    from google.api_core import exceptions

    blob = _blob(path)
    try:
        return blob.download_as_bytes(), int(blob.generation)
    except exceptions.NotFound:
        return None, 0


@_told
def write(path: Path, data: bytes, *, generation: int | None = None) -> bool:
    """Write an object, if its generation is this one; whether it was written.

    Args:
        generation: as `read` gave it; 0 writes only a new object, None writes in any case.
    """
    from google.api_core import exceptions

    condition = {} if generation is None else {"if_generation_match": generation}
    kind = "application/octet-stream"
    try:
        _blob(path).upload_from_string(data, content_type=kind, **condition)
    except exceptions.PreconditionFailed:
        # The answer to a write that was made may get lost; its repetition is then refused.
        return read(path)[0] == data
    return True


def update(path: Path, change: Callable[[bytes | None], bytes]) -> None:
    """Replace an object by a function of itself; of several at once none is lost.

    Raises:
        TimeoutError: others were faster a hundred times.
    """
    for tries in range(_TRIES):
        data, generation = read(path)
        if write(path, change(data), generation=generation):
            return
        time.sleep(random.uniform(0, min(1.0, 0.01 * 2**tries)))
    raise TimeoutError(
        f"expected to change {os.fspath(path)}, found it changed by others {_TRIES} times; run "
        "fewer writers at once"
    )


@_told
def reading(path: Path) -> io.BufferedIOBase:
    """An object as an open file, read in pieces.

    Raises:
        FileNotFoundError: there is none.
    """
    blob = _blob(path)
    if not blob.exists():
        raise FileNotFoundError(f"expected an object {os.fspath(path)}, found none")
    return blob.open("rb")


@_told
def exists(path: Path) -> bool:
    """Whether there is an object of this name."""
    return _blob(path).exists()


@_told
def below(folder: Path) -> list[str]:
    """Names of all objects below a folder, relative to the folder."""
    start = len(_prefix(folder))
    return [blob.name[start:] for blob in _list(folder)]


@_told
def children(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the objects and of the folders that are directly in a folder."""
    start = len(_prefix(folder))
    pages = _list(folder, delimiter="/")
    objects = [blob.name[start:] for blob in pages]
    return objects, sorted(name[start:-1] for name in pages.prefixes)


@_told
def age(path: Path) -> float:
    """Seconds since the last write of an object, or below a folder; 0 if nothing is there.

    The bucket's clock says when it was written, and this machine's clock what the time is.
    """
    from google.api_core import exceptions

    blob, found = _blob(path), [*_list(path)]
    with contextlib.suppress(exceptions.NotFound):
        blob.reload()
        found.append(blob)
    written = [each.updated.timestamp() for each in found]
    return time.time() - max(written) if written else 0.0


@_told
def remove(path: Path, *, generation: int) -> None:
    """Delete an object, if its generation is still this one."""
    from google.api_core import exceptions

    with contextlib.suppress(exceptions.NotFound, exceptions.PreconditionFailed):
        _blob(path).delete(if_generation_match=generation)


@_told
def delete(path: Path) -> None:
    """Delete an object, if it is there, and all objects below it."""
    from google.api_core import exceptions

    for blob in [_blob(path), *_list(path)]:
        try:
            blob.delete()
        except exceptions.NotFound:
            continue


def _list(folder: Path, **options: Any) -> Any:
    return _client().list_blobs(_split(folder)[0], prefix=_prefix(folder), **options)


def _prefix(folder: Path) -> str:
    name = _split(folder)[1]
    return f"{name}/" if name else ""


def _blob(path: Path) -> Any:
    bucket, name = _split(path)
    return _client().bucket(bucket).blob(name)


def _split(path: Path) -> tuple[str, str]:
    bucket, _, name = os.fspath(path).removeprefix("gs://").partition("/")
    return bucket, name.rstrip("/")


@functools.cache
def _client() -> Any:
    from google.cloud import storage

    return storage.Client()
