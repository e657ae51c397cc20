"""Arrays in memory or on disk: numpy memory maps, and IDX files, the format of MNIST."""

from __future__ import annotations

import gzip
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mu_jax import _files as files
from mu_jax.datasets.adapters.rows import Rows, rows_of

_IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


class _Arrays:
    """Row `i` of trees of arrays, as `(input, target)`."""

    def __init__(self, inputs: Any, targets: Any, scale: float = 1.0):
        self._trees, self._scale = (inputs, targets), scale
        sizes = {np.shape(leaf)[0] if np.ndim(leaf) else 0 for leaf in jax.tree.leaves(self._trees)}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(
                f"expected arrays with one common leading axis, found leading sizes "
                f"{sorted(sizes)}: give one row for each example in every array"
            )
        self._size = sizes.pop()

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, position: int) -> tuple[Any, Any]:
        inputs, targets = jax.tree.map(lambda x: np.asarray(x[position]), self._trees)
        if self._scale != 1.0:
            inputs = (inputs / self._scale).astype(np.float32)
        return inputs, targets


def from_arrays(
    inputs: Any, targets: Any, *, ids: Any, subjects: Mapping[str, Any] | None = None
) -> Rows:
    """Rows of arrays, also of `numpy.load(path, mmap_mode="r")`, which stay on disk.

    Args:
        inputs, targets: trees of arrays [n, ...]; `()` for no targets.
        ids: one for each row, a function `(position, record) -> id`, or `mu.datasets.by_position`.
        subjects: one value for each row, by the word that requests use.

    Raises:
        ValueError: arrays of different lengths; ids that are missing or not unique.

    Example:
        >>> import numpy as np, mu_jax as mu
        >>> rows = mu.datasets.from_arrays(np.eye(3), np.arange(3), ids=["a", "c", "b"])
        >>> rows.ids.names(rows.index).tolist(), rows[1][0].tolist()
        (['a', 'c', 'b'], [0.0, 1.0, 0.0])
    """
    return rows_of(_Arrays(inputs, targets), inputs=0, target=1, ids=ids, subjects=subjects)


def from_idx(
    images: str | os.PathLike[str],
    labels: str | os.PathLike[str],
    *,
    ids: Any,
    subjects: Mapping[str, Any] | None = None,
) -> Rows:
    """Rows of two IDX files, as MNIST, Fashion-MNIST and EMNIST are distributed, gzipped or not.

    Args:
        images: bytes [n, height, width] become float32 [height, width, 1] from 0 to 1; other types
            and shapes stay what they are.
        labels: [n].
        ids, subjects: as in `from_arrays`. The files have no ids: `mu.datasets.by_position` holds
            as long as nobody rewrites them.

    Raises:
        ValueError: a file of another kind, or one that is cut off.
    """
    pixels, classes = (read_idx(files.absolute(path)) for path in (images, labels))
    scale = 255.0 if pixels.dtype == np.uint8 else 1.0
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    records = _Arrays(pixels, classes.astype(np.int32), scale)
    return rows_of(records, inputs=0, target=1, ids=ids, subjects=subjects)


def read_idx(path: Any) -> np.ndarray:
    """The array of one IDX file, gzipped or not."""
    with files.reading(path) as file:
        data = file.read()
    try:
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        kind, axes = _IDX_TYPES[data[2]], data[3]
        shape = tuple(np.frombuffer(data, ">i4", axes, 4).tolist())
        found = np.frombuffer(data, kind, offset=4 + 4 * axes).reshape(shape)
        if data[:2] != b"\0\0":
            raise ValueError("other first bytes")
    except (OSError, EOFError, KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"expected an IDX file at {path}, found another or a damaged file ({error}): copy it "
            "again"
        ) from error
    return found.astype(found.dtype.newbyteorder("="))
