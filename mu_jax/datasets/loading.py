"""Reading datasets with stable example ids, into memory or one record at a time."""

from __future__ import annotations

import os

from mu_jax import _files as files
from mu_jax._extras import extra
from mu_jax.data.id_table import load_id_table
from mu_jax.datasets import faces, text
from mu_jax.datasets.digits_regression import digits_regression
from mu_jax.datasets.electricity import electricity
from mu_jax.datasets.examples import DatasetInfo, Examples, Source
from mu_jax.datasets.fashion_mnist import fashion_mnist
from mu_jax.datasets.folders import data_root, id_file, open_builder
from mu_jax.datasets.layout import check_split, find_layout, targets_and_ids
from mu_jax.datasets.local_copy import LocalCopy


def load(
    name: str,
    split: str = "train",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    label: str = "label",
) -> Examples:
    """Reads a split into memory.

    `digits` and `diabetes` are made from scikit-learn when they are not on disk yet, and
    `digits_regression` in memory. `agedb`, `electricity`, `fashion_mnist`, `mucac`, `mufac`,
    `sts_b` and `sts_b_glove` are read from a copy in the layout of its distribution, in a folder
    of that name or in `data_dir` itself; the functions of those names in `mu_jax.datasets.faces`,
    `.electricity`, `.fashion_mnist` and `.text` say more. Every other name is looked up
    under `data_dir` and must have been prepared by TFDS as array_record. Nothing is downloaded and
    TensorFlow is not needed.

    Integer images are divided by their type's largest value, float images are taken as they are.
    Where the dataset's metadata has train-split means and deviations (`diabetes`), inputs and
    regression targets are standardized with them; `info` has the numbers to go back.

    The id of an example is its record's own integer `id`; else the number that ends its text `id`
    (`train_00007` is 7); else its position in the split. Texts that end in no number, and numbers
    that need more than 32 bits, are kept in a table: `source(...).ids`, see `mu.id_table`.

    Args:
        name: one of the names above or a folder of `data_dir`, as `cifar10` (newest version) or
            `cifar10/3.0.2`.
        split: a whole split; parts such as `train[:10%]` have no stable positions. Most local
            copies also part `train` into `forget` and `retain`, with the same ids.
        data_dir: where datasets lie; by default the environment's `MU_JAX_DATA_DIR`, else
            `~/.cache/mu_jax`.
        limit: read the first `limit` records only.
        label: which class feature to predict, for example `coarse_label` of CIFAR-100 or `smiling`
            of MUCAC.

    Returns:
        `Examples` with int32 (classes) or float32 (regression) targets.

    Raises:
        FileNotFoundError: there is no such folder or dataset, or record files are missing.
        ValueError: another file format or layout, an unknown split, no usable inputs or targets,
            ids that are not unique or not int32, inputs of different shapes.

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
    if not len(view):
        raise ValueError(
            f"expected examples in {name}/{split}, found none; choose a split that holds some"
        )
    return view.read(name)


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
    if limit is not None and limit < 1:
        raise ValueError(f"expected a limit of at least 1, found {limit}; raise it")
    local = _open_local(name, data_dir, label)
    if local is None:
        return _prepared(name, split, data_dir, limit, label)
    if split not in local.splits:
        raise ValueError(
            f"expected one of the splits {', '.join(local.splits)} of {name}, found {split!r}; "
            "pass a whole split"
        )
    view = local.splits[split]
    return view if limit is None else view.take(slice(limit))


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

    Cost: reads two small files, or the tables of a local copy; `digits` and `diabetes` are made
    first where they are missing.

    Example:
        >>> import tempfile
        >>> from mu_jax.datasets import info
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     digits = info("digits", data_dir=folder)
        >>> digits.num_classes, digits.input_shape, digits.split_sizes
        (10, (8, 8, 1), {'train': 1500, 'test': 297})
    """
    local = _open_local(name, data_dir, label)
    if local is not None:
        return local.info
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


def _prepared(
    name: str, split: str, data_dir: str | os.PathLike[str] | None, limit: int | None, label: str
) -> Source:
    """A split of a dataset prepared by TFDS."""
    with extra("datasets"):
        import tensorflow_datasets as tfds

    builder = open_builder(name, data_dir)
    layout = find_layout(builder, label)
    check_split(builder, split)
    count = builder.info.splits[split].num_examples
    count = count if limit is None else min(count, limit)
    # Without the inputs this pass costs no image decoding.
    undecoded = {layout.inputs_name: tfds.decode.SkipDecoding()}
    labels = builder.as_data_source(split=split, decoders=undecoded)
    targets, index, ids = targets_and_ids(labels, count, layout, f"{name}/{split}")
    kept = files.absolute(builder.data_dir) / id_file(split)
    return Source(
        records=builder.as_data_source(split=split),
        inputs_name=layout.inputs_name,
        mean=layout.inputs_mean,
        scale=layout.inputs_scale,
        targets=targets,
        index=index,
        ids=load_id_table(kept) if files.is_file(kept) else ids,
    )


def _open_local(name: str, data_dir: str | os.PathLike[str] | None, label: str) -> LocalCopy | None:
    """The local copy that a name means, None for a dataset that TFDS prepares."""
    root = data_root(data_dir)
    match name:
        case "digits_regression":
            return digits_regression(label)
        case "mufac":
            return faces.mufac(root, label)
        case "mucac":
            return faces.mucac(root, label)
        case "agedb":
            return faces.agedb(root, label)
        case "sts_b":
            return text.sts_b(root, label)
        case "sts_b_glove":
            return text.sts_b_glove(root, label)
        case "electricity":
            return electricity(root, label)
        case "fashion_mnist":
            return fashion_mnist(root, label)
    return None
