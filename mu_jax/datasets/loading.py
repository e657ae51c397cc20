"""Reading datasets with stable example ids, into memory or one record at a time."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, NamedTuple

import numpy as np

from mu_jax.datasets.folders import open_builder
from mu_jax.datasets.layout import check_split, find_layout, targets_and_ids


class Examples(NamedTuple):
    """A split in memory: float32 `inputs` [n, ...], `targets` [n], int32 ids `index` [n]."""

    inputs: np.ndarray
    targets: np.ndarray
    index: np.ndarray  # type: ignore[assignment]  # the library's word for ids, over tuple.index


class DatasetInfo(NamedTuple):
    """What a dataset holds.

    Attributes:
        name: name of the dataset, for example `cifar10`.
        version: its version, for example `3.0.2`.
        task: `classification` (int32 targets) or `regression` (float32 targets).
        input_shape: shape of one input; None where it differs between examples.
        num_classes: number of classes, None for a regression.
        split_sizes: number of records of each split.
        target_mean: a regression's `targets * target_scale + target_mean` are in original units.
        target_scale: see `target_mean`.
    """

    name: str
    version: str
    task: str
    input_shape: tuple[int | None, ...]
    num_classes: int | None
    split_sizes: dict[str, int]
    target_mean: float = 0.0
    target_scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Source:
    """Random access to a split: `source[i]` is `(input, target, id)`, decoded when asked for.

    Made by `source`. It can be pickled (for worker processes) and holds no open file handle of its
    own. `targets` and `index` are in memory, so forget requests need no pass over the inputs.
    """

    records: Any
    inputs_name: str
    mean: np.ndarray
    scale: np.ndarray
    targets: np.ndarray
    index: np.ndarray

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.index)

    def __getitem__(self, position: int) -> tuple[np.ndarray, np.generic, np.generic]:
        """The float32 input, the target and the id at a position of the split."""
        position = range(len(self))[position]
        value = np.asarray(self.records[position][self.inputs_name], np.float32)
        return (value - self.mean) / self.scale, self.targets[position], self.index[position]


def load(
    name: str,
    split: str = "train",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    label: str = "label",
) -> Examples:
    """Reads a split into memory.

    `digits` and `diabetes` are made from scikit-learn when they are not on disk yet; every other
    name is looked up under `data_dir` and must have been prepared by TFDS as array_record. Nothing
    is downloaded and TensorFlow is not needed.

    Integer images are divided by their type's largest value, float images are taken as they are.
    Where the dataset's metadata has train-split means and deviations (`diabetes`), inputs and
    regression targets are standardised with them; `info` has the numbers to go back.

    The id of an example is its record's own integer `id`; else the number that ends its text `id`
    (`train_00007` is 7); else its position in the split.

    Args:
        name: `digits`, `diabetes` or a folder of `data_dir`, as `cifar10` (newest version) or
            `cifar10/3.0.2`.
        split: a whole split; parts such as `train[:10%]` have no stable positions.
        data_dir: where datasets lie; by default the environment's `MU_JAX_DATA_DIR`, else
            `~/.cache/mu_jax`.
        limit: read the first `limit` records only.
        label: which class feature to predict, for example `coarse_label` of CIFAR-100.

    Returns:
        `Examples` with int32 (classes) or float32 (regression) targets.

    Raises:
        FileNotFoundError: there is no such folder or dataset, or record files are missing.
        ValueError: another file format, an unknown split, no usable inputs or targets, ids that are
            not unique or not int32, inputs of different shapes.

    Cost: reads the records twice, and decodes the inputs once; memory of the result.

    Example:
        >>> import tempfile
        >>> from mu_jax.datasets import load
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     train = load("digits", data_dir=folder)
        >>> train.inputs.shape, train.inputs.max().item(), len(set(train.index.tolist()))
        ((1500, 8, 8, 1), 1.0, 1500)
    """
    view = source(name, split, data_dir=data_dir, limit=limit, label=label)
    first = view[0][0]
    inputs = np.empty((len(view), *first.shape), np.float32)
    for position in range(len(view)):
        value = view[position][0]
        if value.shape != first.shape:
            raise ValueError(
                f"expected inputs of one shape in {name!r}, found {first.shape} and {value.shape}; "
                "resize them, or read them one by one with source"
            )
        inputs[position] = value
    return Examples(inputs, view.targets, view.index)


def source(
    name: str,
    split: str = "train",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    label: str = "label",
) -> Source:
    """Opens a split that need not fit into memory, for example under `grain.MapDataset.source`.

    Args:
        name: as in `load`.
        split: as in `load`.
        data_dir: as in `load`.
        limit: as in `load`.
        label: as in `load`.

    Returns:
        A `Source`: `len`, `source[i] -> (input, target, id)`, and the arrays `targets` and `index`.

    Raises:
        FileNotFoundError: as in `load`.
        ValueError: as in `load`.

    Cost: one pass over the records without decoding images, to check that ids are unique; 8 bytes
    of memory per example.

    Example:
        >>> import tempfile
        >>> from mu_jax.datasets import source
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     view = source("diabetes", "test", data_dir=folder)
        ...     value, target, example_id = view[0]
        >>> len(view), value.shape, target.dtype
        (88, (10,), dtype('float32'))
    """
    import tensorflow_datasets as tfds

    builder = open_builder(name, data_dir)
    layout = find_layout(builder, label)
    check_split(builder, split)
    count = builder.info.splits[split].num_examples
    if limit is not None:
        if limit < 1:
            raise ValueError(f"expected a limit of at least 1, found {limit}; raise it")
        count = min(count, limit)
    # Without the inputs this pass costs no image decoding.
    undecoded = {layout.inputs_name: tfds.decode.SkipDecoding()}
    labels = builder.as_data_source(split=split, decoders=undecoded)
    targets, index = targets_and_ids(labels, count, layout, f"{name}/{split}")
    return Source(
        records=builder.as_data_source(split=split),
        inputs_name=layout.inputs_name,
        mean=layout.inputs_mean,
        scale=layout.inputs_scale,
        targets=targets,
        index=index,
    )


def info(
    name: str, *, data_dir: str | os.PathLike[str] | None = None, label: str = "label"
) -> DatasetInfo:
    """Describes a dataset without reading its records.

    Args:
        name: as in `load`.
        data_dir: as in `load`.
        label: as in `load`.

    Returns:
        A `DatasetInfo`.

    Raises:
        FileNotFoundError: as in `load`.
        ValueError: as in `load`.

    Cost: reads two small files; `digits` and `diabetes` are made first where they are missing.

    Example:
        >>> import tempfile
        >>> from mu_jax.datasets import info
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     digits = info("digits", data_dir=folder)
        >>> digits.num_classes, digits.input_shape, digits.split_sizes
        (10, (8, 8, 1), {'train': 1500, 'test': 297})
    """
    builder = open_builder(name, data_dir)
    layout = find_layout(builder, label)
    return DatasetInfo(
        name=builder.info.name.removeprefix("mu_"),
        version=str(builder.info.version),
        task="regression" if layout.num_classes is None else "classification",
        input_shape=tuple(builder.info.features[layout.inputs_name].shape),
        num_classes=layout.num_classes,
        split_sizes={key: part.num_examples for key, part in builder.info.splits.items()},
        target_mean=layout.target_mean,
        target_scale=layout.target_scale,
    )
