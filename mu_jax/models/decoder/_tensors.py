"""The tensors of a checkpoint on disk: which there are, and parts of one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mu_jax import _json
from mu_jax._extras import extra
from mu_jax._paths import absolute, in_bucket

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def local_directory(directory: Any) -> Path:
    """A local path; a path in a bucket is refused."""
    path = absolute(directory)
    if in_bucket(path):
        raise ValueError(f"expected a local directory, found {path}; copy the checkpoint first")
    return path


class Source(Protocol):
    """Where the tensors of a decoder are read from, under their names in a checkpoint.

    Attributes:
      where: the directory or file.
      sizes: what says how large they are, for messages.
    """

    where: Path
    sizes: str

    def __iter__(self) -> Iterator[str]:
        """The names."""
        ...

    def __contains__(self, name: str) -> bool:
        """Whether there is a tensor of this name."""
        ...

    def named(self, name: str) -> str:
        """What the tensor is called there."""
        ...

    def kind(self, name: str) -> tuple[tuple[int, ...], str]:
        """Shape and dtype of a tensor."""
        ...

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """A part of a tensor, on the host."""
        ...


class Tensors:
    """The tensors in the safetensors files of a directory, a `Source`; nothing is read yet.

    Raises:
      FileNotFoundError: no such directory or files.
      ValueError: a file that cannot be read, or other tensors in it than its index says.
      ModuleNotFoundError: without the extra `lm`.
    """

    sizes = "config.json"

    def __init__(self, folder: Path):
        self.where = self._folder = folder
        self._opened: dict[str, Any] = {}
        self._file_of = self._indexed() if (folder / INDEX).is_file() else self._single()

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def named(self, name: str) -> str:
        """The name itself."""
        return name

    def kind(self, name: str) -> tuple[tuple[int, ...], str]:
        """Shape and dtype of a tensor."""
        part = self._part(name)
        return tuple(part.get_shape()), DTYPES.get(part.get_dtype(), part.get_dtype())

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """A part of a tensor, on the host."""
        return self._part(name)[index or slice(None)]

    def _part(self, name: str) -> Any:
        return self._open(self._file_of[name]).get_slice(name)

    def _open(self, file: str) -> Any:
        if file not in self._opened:
            with extra("lm"):
                import safetensors
            try:
                opened = safetensors.safe_open(self._folder / file, "numpy")
            except (safetensors.SafetensorError, OSError) as error:
                raise ValueError(
                    f"expected a safetensors file at {self._folder / file}, found {error}; copy "
                    "the file again"
                ) from error
            self._opened[file] = opened
        return self._opened[file]

    def _single(self) -> dict[str, str]:
        if not (self._folder / SINGLE).is_file():
            raise FileNotFoundError(
                f"expected {SINGLE} or {INDEX} in {self._folder}, found {self._others()}; give the "
                "directory of a checkpoint or the path of a .gguf file, and convert weights of "
                "another kind to safetensors"
            )
        return dict.fromkeys(self._open(SINGLE).keys(), SINGLE)

    def _others(self) -> str:
        ends = (".bin", ".pt", ".pth", ".gguf", ".safetensors", ".msgpack")
        names = sorted(p.name for p in self._folder.glob("*") if p.name.endswith(ends))
        return ", ".join(names[:3]) or "no weights"

    def _indexed(self) -> dict[str, str]:
        path = self._folder / INDEX
        try:
            where = dict(_json.parse(path.read_text("utf-8"))["weight_map"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"expected a JSON object with a weight_map in {path}, found {error!r}; copy the "
                "file again"
            ) from error
        for file in sorted(set(where.values())):
            self._require_listed(file, where)
        return where

    def _require_listed(self, file: str, where: Mapping[str, str]) -> None:
        if not (self._folder / file).is_file():
            raise FileNotFoundError(
                f"expected {file}, which {INDEX} names, in {self._folder}, found none; copy the "
                "file"
            )
        here, listed = set(self._open(file).keys()), {n for n in where if where[n] == file}
        for name in sorted(here ^ listed):
            found = "none" if name in listed else "it, which the index does not name"
            raise ValueError(
                f"expected the tensors that {INDEX} names in {file}, found {found}: {name}; copy "
                "both files again"
            )
