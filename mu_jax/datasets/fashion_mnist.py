"""Fashion-MNIST, read from its own IDX files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from mu_jax.datasets.adapters.arrays import read_idx
from mu_jax.datasets.examples import Source
from mu_jax.datasets.local_copy import (
    LocalCopy,
    check_label,
    find_folder,
    make_copy,
    warn_of_counts,
)

_FILES = {"train": "train", "test": "t10k"}  # the first words of the names of the files
_KINDS = ("images-idx3", "labels-idx1")
_PUBLISHED = {"train": 60_000, "test": 10_000}
_SIDE, _CLASSES = 28, 10
_ENDINGS = ("", ".gz")


def fashion_mnist(root: Path, label: str = "label") -> LocalCopy:
    """70,000 gray images of 28 x 28 pixels in ten classes of clothing, as they are distributed.

    The four files `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte`
    and `t10k-labels-idx1-ubyte`, each gzipped (`.gz`) or not, lie in the folder `fashion_mnist` or
    `fashion-mnist` of `root`, or in `root` itself. Debian's package `dataset-fashion-mnist` puts
    them into `/usr/share/datasets/fashion-mnist`. Classes: T-shirt, trouser, pullover, dress, coat,
    sandal, shirt, sneaker, bag, ankle boot.

    Inputs are float32 [28, 28, 1], the gray levels 0 to 255 divided by 255. The id of a training
    image is its row in its file, from 0; those of the test images go on at 60,000. The files are
    shuffled as they are published, so that the first n images (`limit=n`) are a random sample.

    Args:
        root: where the files lie. label: `class`, the only one.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a damaged file, one of other shapes, or files of another data set, such as
            MNIST, whose files have the same names.

    Warns: where there are not as many images as published.

    Cost: reads all four files; a byte of memory per pixel.

    Reference:
        H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking
        Machine Learning Algorithms", arXiv 1708.07747, 2017.
    """
    check_label(label, ("class",), "fashion_mnist")
    names = [f"{part}-{kind}-ubyte" for part in _FILES.values() for kind in _KINDS]
    folder = find_folder(root, ("fashion_mnist", "fashion-mnist"), names, endings=_ENDINGS)
    splits = {split: _read(folder, split) for split in _FILES}
    warn_of_counts("fashion_mnist", splits, _PUBLISHED)
    return make_copy(
        "fashion_mnist",
        splits,
        task="classification",
        input_shape=(_SIDE, _SIDE, 1),
        num_classes=_CLASSES,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Images:
    """Records of `image`, uint8 [28, 28, 1]."""

    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        return {"image": self.pixels[position]}


def _read(folder: Path, split: str) -> Source:
    paths = [_path(folder, f"{_FILES[split]}-{kind}-ubyte") for kind in _KINDS]
    images, labels = map(read_idx, paths)
    _check(paths, images, labels)
    if len(labels) == _PUBLISHED[split]:
        _check_balance(paths[1], labels)
    first = 0 if split == "train" else _PUBLISHED["train"]
    return Source(
        records=_Images(images[..., None]),
        inputs_name="image",
        targets=labels.astype(np.int32),
        index=np.arange(first, first + len(labels), dtype=np.int32),
        scale=255.0,
    )


def _path(folder: Path, name: str) -> Path:
    """The file of that name, gzipped or not."""
    return next(path for e in _ENDINGS if (path := folder / f"{name}{e}").exists())


def _check(paths: list[Path], images: np.ndarray, labels: np.ndarray) -> None:
    """Refuse arrays that are no images of 28 x 28 bytes with a class each."""
    if images.dtype != np.uint8 or images.shape[1:] != (_SIDE, _SIDE):
        raise ValueError(
            f"expected bytes [n, {_SIDE}, {_SIDE}] in {paths[0]}, found {images.dtype} "
            f"{images.shape}; copy the files of Fashion-MNIST again"
        )
    if labels.dtype != np.uint8 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"expected a byte for each of {len(images)} images in {paths[1]}, found {labels.dtype} "
            f"{labels.shape}; copy the files of Fashion-MNIST again"
        )
    if labels.size and labels.max() >= _CLASSES:
        raise ValueError(
            f"expected classes from 0 to {_CLASSES - 1} in {paths[1]}, found {labels.max()}; copy "
            "the files of Fashion-MNIST again"
        )


def _check_balance(path: Path, labels: np.ndarray) -> None:
    """Refuse a file of the right size whose classes have not the published sizes."""
    each, counts = len(labels) // _CLASSES, np.bincount(labels, minlength=_CLASSES)
    if np.any(counts != each):
        raise ValueError(
            f"expected {each:,} labels of each class in {path}, found {counts.min():,} to "
            f"{counts.max():,}: files of another data set, such as MNIST; put those of "
            "Fashion-MNIST there"
        )
