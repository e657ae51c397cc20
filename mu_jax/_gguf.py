"""GGUF files: their metadata, and rows of their tensors as numbers.

A GGUF file is what llama.cpp reads: a decoder's sizes, its tokenizer and its tensors, most of them
quantized. The package `gguf` reads the format and computes the numbers of quantized tensors.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from mu_jax._extras import extra

FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def is_gguf(path: Path) -> bool:
    """Whether a path is named as a GGUF file."""
    return path.suffix == ".gguf"


class GgufFile:
    """The metadata and tensors of a GGUF file, which is mapped, not read.

    Attributes:
      path: the file.
      values: metadata by key, such as `values["llama.block_count"]`.

    Raises:
      FileNotFoundError: no such file.
      ValueError: another or a damaged file; a part of a model in several files, an adapter or a
        projector; numbers of the other byte order.
      ModuleNotFoundError: without the extra `gguf`.
    """

    def __init__(self, path: Path):
        self.path = path
        reader = _reader(path)
        self.values: dict[str, Any] = {
            key: field.contents()
            for key, field in reader.fields.items()
            if not key.startswith("GGUF.")
        }
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self._require_a_whole_model()

    def __iter__(self):
        return iter(self._tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def kind(self, name: str) -> tuple[tuple[int, ...], str]:
        """Shape and dtype of a tensor's numbers; those of a quantized one are float32.

        Where the package cannot compute its numbers, the name of the quantization.
        """
        tensor = self._tensors[name]
        shape = tuple(int(size) for size in reversed(tensor.shape))
        kind = tensor.tensor_type.name
        if kind in FLOATS:
            return shape, FLOATS[kind]
        try:
            self._numbers(name, slice(0, 1))
        except NotImplementedError:
            return shape, kind
        return shape, "float32"

    def rows(self, name: str, index: slice | np.ndarray) -> np.ndarray:
        """Some rows of a tensor."""
        return self._numbers(name, index)

    def _numbers(self, name: str, index: slice | np.ndarray) -> np.ndarray:
        tensor = self._tensors[name]
        stored, kind = np.asarray(tensor.data[index]), tensor.tensor_type.name
        if kind == "BF16":
            return np.ascontiguousarray(stored).view(jnp.bfloat16)
        if kind in FLOATS:
            return stored.copy()  # not the mapped file
        if stored.dtype != np.uint8:  # whole numbers
            raise NotImplementedError(kind)
        from gguf.quants import dequantize

        return dequantize(np.ascontiguousarray(stored), tensor.tensor_type)

    def _require_a_whole_model(self) -> None:
        kind = self.values.get("general.type", "model")
        if kind != "model":
            raise ValueError(f"expected a whole model in {self.path}, found a {kind}")
        if self.values.get("split.count", 1) > 1:
            raise ValueError(
                f"expected a whole model in {self.path}, found one of "
                f"{self.values['split.count']} parts; merge them with llama-gguf-split"
            )


@functools.lru_cache(maxsize=1)
def opened(path: Path, changed: int) -> GgufFile:
    """The file at a path, which was last changed at that time, in nanoseconds."""
    return GgufFile(path)


def open_gguf(path: Path) -> GgufFile:
    """The file at a path; the last one stays open, for its config, weights and tokenizer.

    Raises:
      See `GgufFile`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"expected a GGUF file at {path}, found none")
    return opened(path, path.stat().st_mtime_ns)


def _reader(path: Path) -> Any:
    with extra("gguf"):
        import gguf

    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, KeyError, IndexError, OSError) as error:
        raise ValueError(
            f"expected a GGUF file at {path}, found {' '.join(str(error).split())[:160]!r}; copy "
            "the file again"
        ) from error
    if reader.byte_order == "S":
        raise ValueError(
            f"expected a GGUF file of this machine's byte order at {path}, found the other one; "
            "convert it with gguf-convert-endian"
        )
    return reader
