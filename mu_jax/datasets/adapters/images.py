"""Folders of images, one for each class."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mu_jax import _files as files
from mu_jax.datasets.adapters.rows import Rows, rows_of
from mu_jax.datasets.local_copy import ImageFiles

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


class _Images:
    """Records of `image`, `label`, `class` and `path`, of which columns need no decoding."""

    def __init__(self, root: Path, names: list[str], side: int):
        self._images = ImageFiles(root, names, side)
        folders = [name.split("/")[0] for name in names]
        self._columns: dict[str, Any] = {
            "path": names,
            "class": folders,
            "label": _classes(folders),
        }

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, position: int) -> dict[str, Any]:
        pixels = self._images[position]["image"].astype(np.float32) / 255
        return {"image": pixels} | {name: each[position] for name, each in self._columns.items()}

    def column(self, where: str, what: str) -> Any:
        """A column of all records."""
        if where not in self._columns:
            raise ValueError(
                f"expected a column among {', '.join(self._columns)} for the {what}, found "
                f"{where!r}: name one of these, or give one for each row"
            )
        return self._columns[where]


def from_image_folder(
    root: str | os.PathLike[str],
    *,
    side: int,
    ids: Any = "path",
    subjects: Mapping[str, Any] | None = None,
) -> Rows:
    """Rows of `root/CLASS/.../NAME.png`, RGB float32 [side, side, 3] from 0 to 1.

    Classes are the folders in alphabetical order. An image is read and resized when asked for.

    Args:
        root: the folder.
        side: width and height to which images are resized, bilinear.
        ids: `"path"`, the path below `root`, which stays an image's id as long as nobody renames
            files; or one for each row, or a function `(position, record) -> id`.
        subjects: as in `from_records`; records hold `path`, `class`, `label` and `image`.

    Raises:
        FileNotFoundError: no image in a folder of a class.
        ValueError: a file that is no image, when it is read.
    """
    root = files.absolute(root)
    names = sorted(
        path.relative_to(root).as_posix()
        for path in root.glob("*/**/*")
        if path.suffix.lower() in _SUFFIXES and path.is_file()
    )
    if not names:
        raise FileNotFoundError(
            f"expected images in folders of classes in {root}, found none: put them into "
            "root/CLASS/NAME.png"
        )
    records = _Images(root, names, side)
    return rows_of(records, inputs="image", target="label", ids=ids, subjects=subjects)


def _classes(folders: list[str]) -> np.ndarray:
    return np.unique(np.array(folders), return_inverse=True)[1].astype(np.int32)
