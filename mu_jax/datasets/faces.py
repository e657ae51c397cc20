"""Local copies of face datasets: MUFAC and MUCAC (forget persons), AgeDB (forget ages)."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mu_jax.datasets.examples import Source
from mu_jax.datasets.local_copy import (
    ImageFiles,
    LocalCopy,
    check_images,
    check_label,
    find_folder,
    finite,
    make_copy,
    parse,
    read_lines,
    read_table,
    warn_of_counts,
)

# The file called val is the test split; the file called test is unseen by all but the attack.
_MUFAC_FILES = {"train": "train", "test": "val", "unseen": "test"}
_MUFAC_SIZES = {"train": 10_025, "test": 1_539, "unseen": 1_504}
_MUFAC_FORGET_ROWS = 1_500
_MUCAC_IMAGES = "CelebAMask-HQ/CelebA-HQ-img"
_MUCAC_FILES = ("CelebA-HQ-identity.txt", "CelebA-HQ-attribute.txt", _MUCAC_IMAGES)
_MUCAC_LABELS = {"gender": "Male", "smiling": "Smiling", "young": "Young"}
# Bounds of the identities of each split, from and up to but not including.
_MUCAC_IDENTITIES = {
    "train": (190, 4855),
    "test": (0, 190),
    "unseen": (4855, 1 << 31),
    "forget": (190, 1250),
    "retain": (1250, 4855),
}
_MUCAC_SIZES = {"train": 25_933, "test": 2_065, "unseen": 2_002}
_AGEDB_SIZES = {"train": 12_208, "val": 2_140, "test": 2_140}


def mufac(root: Path, label: str = "label") -> LocalCopy:
    """MUFAC: 128 x 128 faces of Korean families in eight age groups.

    Splits `train`, `test` and `unseen` (for attacks only) by families; `forget` and `retain` part
    `train` between two families, `published_forget` and `published_retain` after its row 1,500 as
    the publication does, which may cut a family in two. The id is the row in the split's file;
    inputs are in [0, 1]; the attribute is `family`.

    Raises:
        FileNotFoundError: a file of the layout or an image is missing.
        ValueError: unreadable tables, other classes, a family in two splits.

    Reference:
        D. Choi, D. Na, Towards Machine Unlearning Benchmarks: Forgetting the Personal Identities in
        Facial Recognition Systems, 2023.
    """
    check_label(label, ("age_class",), "mufac")
    files = [f"custom_{stem}_dataset.csv" for stem in _MUFAC_FILES.values()]
    files += [f"{stem}_images" for stem in _MUFAC_FILES.values()]
    folder = find_folder(root, ("mufac", "custom_korean_family_dataset_resolution_128"), files)
    splits = {split: _read_mufac(folder, stem) for split, stem in _MUFAC_FILES.items()}
    _check_identities("mufac", "family", splits)
    train = splits["train"]
    first_rows = np.arange(len(train)) < _MUFAC_FORGET_ROWS
    # Whole families: those of the first rows, so that no person is forgotten and retained.
    forget = np.isin(train.attributes["family"], train.attributes["family"][first_rows])
    splits |= {"forget": train.take(forget), "retain": train.take(~forget)}
    splits["published_forget"] = train.take(first_rows)
    splits["published_retain"] = train.take(~first_rows)
    warn_of_counts("mufac", splits, _MUFAC_SIZES)
    shape = (128, 128, 3)
    return make_copy("mufac", splits, task="classification", num_classes=8, input_shape=shape)


def mucac(root: Path, label: str = "label") -> LocalCopy:
    """MUCAC: faces of CelebA-HQ with gender, smile and youth, resized to 128 x 128.

    Splits by ranges of identities: `train`, which `forget` and `retain` part, `test` and `unseen`
    (for attacks only). The id is the number of the image file; inputs are in [0, 1]; attributes are
    `identity`, `gender`, `smiling` and `young`. The images that are there are read, in numeric
    order; fewer than published are warned of.

    Args:
        root: folder that holds the copy, or its folder `mucac`.
        label: `gender`, `smiling` or `young` for a problem of two classes; `label` for all three at
            once, int32 [n, 3].

    Raises:
        FileNotFoundError: a file of the layout is missing.
        ValueError: unreadable tables, an image without identity or attributes.

    Reference:
        D. Choi, D. Na, Towards Machine Unlearning Benchmarks: Forgetting the Personal Identities in
        Facial Recognition Systems, 2023.
    """
    label = check_label(label, ("all", *_MUCAC_LABELS), "mucac")
    folder = find_folder(root, ("mucac",), _MUCAC_FILES)
    found = os.listdir(folder / _MUCAC_IMAGES)
    numbers = np.sort([int(n[:-4]) for n in found if re.fullmatch(r"\d+\.jpg", n)]).astype(np.int32)
    if not numbers.size:
        raise FileNotFoundError(
            f"expected images 0.jpg, 1.jpg, ... in {folder / _MUCAC_IMAGES}, found none; copy the "
            "images there"
        )
    names = [f"{number}.jpg" for number in numbers]
    identities = _read_identities(folder / _MUCAC_FILES[0])
    labels = _read_attributes(folder / _MUCAC_FILES[1])
    attributes = {"identity": _of_images(names, identities, folder / _MUCAC_FILES[0])[:, 0]}
    answers = _of_images(names, labels, folder / _MUCAC_FILES[1])
    attributes |= {key: answers[:, column] for column, key in enumerate(_MUCAC_LABELS)}
    targets = answers if label == "all" else attributes[label]
    images = ImageFiles(folder / _MUCAC_IMAGES, names, 128)
    everyone = Source(images, "image", targets, numbers, 0.0, 255.0, attributes)
    splits = {
        split: everyone.take((attributes["identity"] >= low) & (attributes["identity"] < high))
        for split, (low, high) in _MUCAC_IDENTITIES.items()
    }
    warn_of_counts("mucac", splits, _MUCAC_SIZES)
    task, num_classes = ("multilabel", 3) if label == "all" else ("classification", 2)
    shape = (128, 128, 3)
    return make_copy("mucac", splits, task=task, num_classes=num_classes, input_shape=shape)


def agedb(root: Path, label: str = "label") -> LocalCopy:
    """AgeDB: faces with their age in years, resized to 32 x 32 and scaled to [-1, 1].

    Splits `train`, `val` and `test` as the table says, by images: they share persons. `forget` (30
    years or less) and `retain` part `train`. `persons_train`, `persons_val` and `persons_test` part
    all images by persons, about six, one and one eighths of them, by a fingerprint of the name. The
    id is the number that begins the file's name; every split is in the order of ids; attributes are
    `person` and `age`.

    Raises:
        FileNotFoundError: the table or an image is missing.
        ValueError: unreadable tables, other names of files or splits, a number used twice.

    Reference:
        S. Moschoglou, A. Papaioannou, C. Sagonas, J. Deng, I. Kotsia, S. Zafeiriou, AgeDB: The
        First Manually Collected, In-the-Wild Age Database, CVPR Workshops, 2017; split of Y. Yang,
        K. Zha, Y. Chen, H. Wang, D. Katabi, Delving into Deep Imbalanced Regression, ICML 2021.
    """
    check_label(label, ("age",), "agedb")
    folder = find_folder(root, ("agedb",), ("agedb.csv", "AgeDB"))
    rows = sorted(_read_agedb(folder / "agedb.csv"))
    check_images(folder, (row.path for row in rows))
    ages, persons = np.array([row.age for row in rows], np.float32), [row.person for row in rows]
    everyone = Source(
        ImageFiles(folder, [row.path for row in rows], 32),
        "image",
        ages,
        np.array([row.number for row in rows], np.int32),
        mean=127.5,
        scale=127.5,
        attributes={"person": np.array(persons), "age": ages},
    )
    kinds = np.array([row.split for row in rows])
    eighths = np.array([hashlib.sha256(person.encode()).digest()[0] % 8 for person in persons])
    young = ages <= 30
    splits = {split: everyone.take(kinds == split) for split in _AGEDB_SIZES}
    splits |= {
        "forget": everyone.take((kinds == "train") & young),
        "retain": everyone.take((kinds == "train") & ~young),
        "persons_train": everyone.take(eighths > 1),
        "persons_val": everyone.take(eighths == 1),
        "persons_test": everyone.take(eighths == 0),
    }
    warn_of_counts("agedb", splits, _AGEDB_SIZES)
    return make_copy("agedb", splits, task="regression", input_shape=(32, 32, 3))


def _read_mufac(folder: Path, stem: str) -> Source:
    path = folder / f"custom_{stem}_dataset.csv"
    names, classes = [], []
    for row in read_table(path, ("image_path", "age_class")):
        names.append(row["image_path"])
        classes.append(parse(list("abcdefgh").index, row["age_class"], "a class a to h", path))
    check_images(folder / f"{stem}_images", names)
    # Such as F0001_AGE_D_18_a1.jpg: family, role, age, class and running number.
    families = np.array([_match(r"(F\d+)_.+", name, path)[1] for name in names], dtype=str)
    images = ImageFiles(folder / f"{stem}_images", names, 128)
    rows = np.arange(len(names), dtype=np.int32)
    targets = np.array(classes, np.int32)
    return Source(images, "image", targets, rows, 0.0, 255.0, {"family": families})


class _Photo(NamedTuple):
    number: int
    person: str
    age: float
    path: str
    split: str


def _read_agedb(path: Path) -> list[_Photo]:
    photos = []
    for row in read_table(path, ("age", "path", "split")):
        # Such as AgeDB/11706_OliviaHussey_31_f.jpg: number, person, age and gender.
        found = _match(r"(?:.*/)?(\d+)_(.+)_\d+_[fm]\.\w+", row["path"], path)
        age = parse(finite, row["age"], "an age in years", path)
        if row["split"] not in _AGEDB_SIZES:
            raise ValueError(
                f"expected the splits {', '.join(_AGEDB_SIZES)} in {path}, found {row['split']!r}; "
                "copy the file again"
            )
        photos.append(_Photo(int(found[1]), found[2], age, row["path"], row["split"]))
    return photos


def _read_identities(path: Path) -> dict[str, list[int]]:
    return {
        cells[0]: [parse(int, cells[1], "an identity", path)]
        for cells in map(str.split, read_lines(path))
        if len(cells) == 2
    }


def _read_attributes(path: Path) -> dict[str, list[int]]:
    """The three labels of every file, 0 or 1; first a line with the count, one with the names."""
    _, header, *lines = [*read_lines(path), "", ""]
    names = header.split()
    absent = [name for name in _MUCAC_LABELS.values() if name not in names]
    if absent:
        raise ValueError(
            f"expected the attributes {', '.join(_MUCAC_LABELS.values())} in the second line of "
            f"{path}, found no {', '.join(absent)}; copy the file again"
        )
    columns = [1 + names.index(name) for name in _MUCAC_LABELS.values()]
    rows = [cells for cells in map(str.split, lines) if len(cells) == 1 + len(names)]
    return {cells[0]: [int(cells[column] == "1") for column in columns] for cells in rows}


def _of_images(names: list[str], values: dict[str, list[int]], path: Path) -> np.ndarray:
    absent = [name for name in names if name not in values]
    if absent:
        raise ValueError(
            f"expected a line for every image in {path}, found none for {len(absent)} "
            f"({absent[0]}); copy the file again"
        )
    return np.array([values[name] for name in names], np.int32)


def _check_identities(name: str, attribute: str, splits: dict[str, Source]) -> None:
    owner: dict[str, str] = {}
    for split, view in splits.items():
        for identity in np.unique(view.attributes[attribute]):
            if owner.setdefault(identity, split) != split:
                raise ValueError(
                    f"expected every {attribute} of {name} in one split, found {identity} in "
                    f"{owner[identity]} and {split}; copy the tables again"
                )


def _match(pattern: str, name: str, path: Path) -> re.Match[str]:
    def search(text: str) -> re.Match[str]:
        found = re.fullmatch(pattern, text)
        if found is None:
            raise ValueError
        return found

    return parse(search, name, "names of images as they are distributed", path)
