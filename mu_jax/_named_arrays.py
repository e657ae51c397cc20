"""Named arrays in one `.npz` file, which says what it holds."""

from __future__ import annotations

import contextlib
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mu_jax import _files as files

_DAMAGED = (
    *(ValueError, KeyError, TypeError, EOFError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)


def save(
    path: str | os.PathLike[str], what: str, arrays: Mapping[str, Any], *, compress: bool = False
) -> None:
    """Write the arrays, whole or not at all.

    Args:
      path: of the file. what: is in it, such as "adapters". arrays: by name. compress: or not.
    """
    write = np.savez_compressed if compress else np.savez
    with files.replacing(path) as file:
        write(file, format=np.array(_format(what)), **arrays)


@contextlib.contextmanager
def load(path: str | os.PathLike[str], what: str, advice: str) -> Iterator[dict[str, Any]]:
    """The arrays that `save` wrote, while the block makes something of them.

    Args:
      path: of the file. what: should be in it. advice: what to do if it is not.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is another file or damaged, or the block misses an array.
    """
    try:
        with files.reading(files.absolute(path)) as file, np.load(file) as found:
            arrays = {name: found[name] for name in found.files}
        if str(arrays.pop("format")) != _format(what):
            raise ValueError("another format")
        yield arrays
    except _DAMAGED as error:
        raise ValueError(
            f"expected {what} in {path}, found another or a damaged file: {advice}"
        ) from error


def _format(what: str) -> str:
    return f"mu_jax {what} 1"
