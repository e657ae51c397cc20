"""Helpers that the readers of local copies share: places of files, tables, and images."""

from __future__ import annotations

import csv
import dataclasses
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from mu_jax._extras import extra
from mu_jax.datasets.examples import DatasetInfo, Source


class LocalCopy(NamedTuple):
    """A dataset that is read in the layout in which it is distributed, without preparation."""

    info: DatasetInfo
    splits: dict[str, Source]


@dataclasses.dataclass(frozen=True)
class ImageFiles:
    """Image files as records, `records[i]["image"]` uint8 [side, side, 3], resized when read."""

    folder: Path
    names: Sequence[str]
    side: int

    def __len__(self) -> int:
        """The number of images."""
        return len(self.names)

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        """Decodes an image: RGB, resized by bilinear interpolation with antialiasing."""
        with extra("datasets"):
            from PIL import Image

        path, size = self.folder / self.names[position], (self.side, self.side)
        try:
            with Image.open(path) as opened:
                image = opened.convert("RGB")
        except (OSError, SyntaxError) as error:  # Pillow's words for files that are no image
            raise ValueError(
                f"expected an image in {path}, found a file that cannot be decoded; copy it again"
            ) from error
        if image.size != size:
            image = image.resize(size, Image.Resampling.BILINEAR)
        return {"image": np.asarray(image)}


def make_copy(name: str, splits: dict[str, Source], **description: Any) -> LocalCopy:
    """The copy with its description: `task`, `input_shape` and other fields of `DatasetInfo`."""
    for split, view in splits.items():
        different = np.unique(view.index).size
        if different != len(view):
            raise ValueError(
                f"expected unique ids in {name}/{split}, found {different} different ids for "
                f"{len(view)} examples; copy its files again"
            )
    sizes = {split: len(view) for split, view in splits.items()}
    fields = {"num_classes": None, "version": "1.0.0"} | description
    return LocalCopy(DatasetInfo(name=name, split_sizes=sizes, **fields), splits)


def find_folder(
    root: Path, folders: Iterable[str], files: Sequence[str], *, endings: Sequence[str] = ("",)
) -> Path:
    """The first of the folders under `root`, or `root` itself, that holds all of the files.

    A file is there if it is so with one of the `endings`, as `.gz`.
    """
    candidates = [*(root / folder for folder in folders), root]
    missing = {
        c: [f for f in files if not any((c / f"{f}{ending}").exists() for ending in endings)]
        for c in candidates
    }
    folder = min(candidates, key=lambda candidate: len(missing[candidate]))
    if not missing[folder]:
        return folder
    found = "none of them" if len(missing[folder]) == len(files) else f"no {missing[folder][0]}"
    raise FileNotFoundError(
        f"expected {', '.join(files)} in {candidates[0]} or {root}, found {found}; "
        "put a copy of the dataset there or pass data_dir"
    )


def read_table(
    path: Path,
    columns: Sequence[str],
    *,
    delimiter: str = ",",
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL,
) -> Iterator[dict[str, str]]:
    """The rows of a table with a header, in order; every row holds the columns asked for."""
    table = csv.DictReader(read_lines(path), delimiter=delimiter, quoting=quoting)
    absent = [name for name in columns if name not in (table.fieldnames or ())]
    if absent:
        raise ValueError(
            f"expected the columns {', '.join(columns)} in {path}, found no {', '.join(absent)}; "
            "copy the file as it is distributed"
        )
    for row in table:
        if any(row[name] is None for name in columns):
            raise ValueError(
                f"expected {len(table.fieldnames or ())} columns in line {table.line_num} of "
                f"{path}, found fewer; copy the file again"
            )
        yield row


def read_lines(path: Path) -> list[str]:
    """The lines of a text file."""
    try:
        # Only \n and \r\n end a line: sentences may hold the other separators of Unicode.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"expected a text file {path}, found binary data; copy it again"
        ) from error
    return [line.removesuffix("\r") for line in lines]


def check_images(folder: Path, names: Iterable[str]) -> None:
    """Raises unless all files are there; reads the listing of each folder once."""
    listings: dict[str, set[str]] = {}
    for name in names:
        parent, _, file = name.rpartition("/")
        if parent not in listings:
            there = folder / parent
            listings[parent] = set(os.listdir(there)) if there.is_dir() else set()
        if file not in listings[parent]:
            raise FileNotFoundError(
                f"expected the image {folder / name}, found no such file; copy the images again"
            )


def check_label(label: str, labels: Sequence[str], name: str) -> str:
    """The label to predict, `label` meaning the first."""
    if label == "label":
        return labels[0]
    if label not in labels:
        raise ValueError(
            f"expected one of the labels {', '.join(labels)} of {name}, found {label!r}; "
            "choose one of these"
        )
    return label


def parse(kind: Any, text: str, what: str, path: Path) -> Any:
    """`kind(text)`, or a sentence that names the file."""
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError(
            f"expected {what} in {path}, found {text[:40]!r}; copy the file again"
        ) from error


def finite(text: str) -> float:
    """A number; ValueError for nan and infinity."""
    number = float(text)
    if not np.isfinite(number):
        raise ValueError
    return number


def warn_of_counts(name: str, splits: dict[str, Source], published: dict[str, int]) -> None:
    """Warns where a split has not the published number of examples."""
    for split, count in published.items():
        if len(splits[split]) != count:
            warnings.warn(
                f"expected {count} examples in {name}/{split}, found {len(splits[split])}; results "
                "of this copy cannot be compared with published ones",
                stacklevel=2,
            )
