"""How a record of a TFDS dataset becomes an input, a target and a stable id."""

from __future__ import annotations

import os
import re
from typing import Any, NamedTuple

import numpy as np

from mu_jax._extras import extra
from mu_jax.data.id_table import IdTable, id_table


class Layout(NamedTuple):
    """Which features of a record are read, and how they are scaled."""

    inputs_name: str
    inputs_mean: np.ndarray
    inputs_scale: np.ndarray
    target_name: str
    target_mean: float
    target_scale: float
    num_classes: int | None
    has_id: bool


def find_layout(builder: Any, label: str) -> Layout:
    """The layout of a dataset: `image` or `features`, a class label or `target`, maybe an `id`."""
    features, metadata = builder.info.features, builder.info.metadata or {}
    inputs_name = next((key for key in ("image", "features") if _is_array(features, key)), None)
    if inputs_name is None:
        raise ValueError(
            f"expected an array 'image' or 'features' in {builder.info.full_name}, found the "
            f"features {', '.join(sorted(features))}; prepare the dataset with one of these names"
        )
    target_name, num_classes = _find_target(builder, label)
    dtype = np.dtype(features[inputs_name].np_dtype)
    largest = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1.0
    continuous = num_classes is None
    return Layout(
        inputs_name=inputs_name,
        inputs_mean=np.asarray(metadata.get("inputs_mean", 0.0), np.float32),
        inputs_scale=np.asarray(metadata.get("inputs_scale", largest), np.float32),
        target_name=target_name,
        target_mean=float(metadata.get("targets_mean", 0.0)) if continuous else 0.0,
        target_scale=float(metadata.get("targets_scale", 1.0)) if continuous else 1.0,
        num_classes=num_classes,
        has_id="id" in features,
    )


def check_split(builder: Any, split: str) -> None:
    """Raises unless `split` is a whole split all of whose files are there."""
    splits, full_name = builder.info.splits, builder.info.full_name
    if split not in list(splits):
        raise ValueError(
            f"expected one of the splits {', '.join(splits)} of {full_name}, found {split!r}; "
            "pass a whole split"
        )
    missing = [path for path in splits[split].filepaths if not os.path.exists(path)]
    if missing:
        raise FileNotFoundError(
            f"expected {len(splits[split].filepaths)} record files of {full_name}, found "
            f"{len(missing)} missing ({missing[0]}); copy the dataset again"
        )


def targets_and_ids(
    records: Any, count: int, layout: Layout, where: str
) -> tuple[np.ndarray, np.ndarray, IdTable | None]:
    """Targets (int32 classes or standardized float32) and unique int32 ids of the first records.

    And the table of the records' own ids, where these are no numbers of 32 bits.
    """
    targets: list[float] = []
    ids: list[Any] = []
    for position in range(count):
        record = records[position]
        targets.append(record[layout.target_name])
        ids.append(record["id"] if layout.has_id else position)
    index, table = _unique_ids(ids, where)
    if layout.num_classes is not None:
        return np.asarray(targets, np.int32), index, table
    standardized = (np.asarray(targets) - layout.target_mean) / layout.target_scale
    return standardized.astype(np.float32), index, table


def _is_array(features: Any, key: str) -> bool:
    # A nested feature answers with a dict of shapes, a text with an object type.
    return (
        key in features
        and isinstance(features[key].shape, tuple)
        and np.issubdtype(features[key].np_dtype, np.number)
    )


def _find_target(builder: Any, label: str) -> tuple[str, int | None]:
    """The name of the target feature and its number of classes, None for a regression."""
    with extra("datasets"):
        import tensorflow_datasets as tfds

    features = builder.info.features
    if label in features and isinstance(features[label], tfds.features.ClassLabel):
        return label, features[label].num_classes
    if label == "label" and _is_array(features, "target") and features["target"].shape == ():
        return "target", None
    raise ValueError(
        f"expected a class label {label!r} or a scalar 'target' in {builder.info.full_name}, "
        f"found the features {', '.join(sorted(features))}; pass label= the name of a ClassLabel"
    )


def _unique_ids(ids: list[Any], where: str) -> tuple[np.ndarray, IdTable | None]:
    own, texts = ids, isinstance(ids[0], bytes | str)
    if texts:
        ids = _numbered(ids, where)
    values, counts = np.unique(np.array(ids, object), return_counts=True)
    repeated = values[counts > 1]
    if repeated.size:
        raise ValueError(
            f"expected unique ids in {where}, found {repeated.size} used more than once "
            f"({', '.join(map(str, repeated[:5]))}); prepare the dataset with unique ids"
        )
    bounds = np.iinfo(np.int32)
    if bounds.min <= min(ids) and max(ids) <= bounds.max:
        index = np.asarray(ids, np.int32)
        return index, id_table(own, index=index) if texts and _number(own[0]) is None else None
    table = id_table(own)
    return table.numbers(own), table


def _numbered(ids: list[bytes | str], where: str) -> list[int]:
    """`train_00007` is 7; positions where texts end in no number."""
    numbers = [_number(text) for text in ids]
    if numbers[0] is None:
        return list(range(len(ids)))
    # The first record decides for all: mixing numbers with positions could name two examples alike.
    if None in numbers:
        raise ValueError(
            f"expected every id of {where} to end in a number as {_text(ids[0])!r} does, found "
            f"{_text(ids[numbers.index(None)])!r}; number the examples anew"
        )
    return [number for number in numbers if number is not None]


def _number(text: bytes | str) -> int | None:
    found = re.search(r"\d+$", _text(text))
    return int(found[0]) if found else None


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
