"""Writing rows of any data as ArrayRecord in the layout of TFDS, which `load` reads."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mu_jax import _progress
from mu_jax._extras import extra
from mu_jax.datasets.adapters.rows import Rows
from mu_jax.datasets.folders import data_root, id_file, put


class _Plan(NamedTuple):
    """What the records of a dataset hold."""

    inputs_name: str
    shape: tuple[int, ...]
    dtype: Any
    num_classes: int | None


def prepare(
    name: str,
    splits: Mapping[str, Rows],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    version: str = "1.0.0",
) -> Path:
    """Write rows as a dataset of that name, which `load`, `source` and the binaries then read.

    Records hold the number of the row as `id`, the input as `image` (three axes) or `features`, and
    `label` (whole numbers or text) or `target`. The table of the ids that people have lies beside
    them, `ids-train.csv`. TensorFlow is not needed.

    Args:
        name: a word in small letters. splits: rows by the name of the split: `train`, `test`.
        data_dir: where datasets lie, as for `load`. version: three numbers.

    Returns:
        The folder of the dataset, whole or not there at all.

    Raises:
        FileExistsError: there is one of this name and version.
        ValueError: inputs that are not one array of one shape, targets that are not one number,
            classes of text that differ between splits, a name that is none.

    Cost: every row is read twice, one at a time.

    Example:
        >>> import tempfile, numpy as np
        >>> from mu_jax import datasets
        >>> inputs = np.eye(4, dtype=np.float32)
        >>> people = datasets.from_arrays(inputs, np.arange(4), ids=list("dbca"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = datasets.prepare("people", {"train": people}, data_dir=folder)
        ...     view = datasets.source("people", "train", data_dir=folder)
        >>> view.ids.names(view.index).tolist(), view.targets.tolist()
        (['d', 'b', 'c', 'a'], [0, 1, 2, 3])
    """
    if not re.fullmatch(r"[a-z]\w*", name) or not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise ValueError(
            f"expected a name in small letters and a version such as 1.0.0, found {name!r} and "
            f"{version!r}; change these"
        )
    if not splits or any(not len(rows) for rows in splits.values()):
        raise ValueError("expected splits that hold rows, found an empty one; give data")
    plan = _plan(splits)
    builder_class = _builder(name, version, splits, plan)
    tables = {id_file(split): rows.ids.only(rows.index) for split, rows in splits.items()}
    return put(builder_class, data_root(data_dir), tables)


def _plan(splits: Mapping[str, Rows]) -> _Plan:
    found = [_plan_of(split, rows) for split, rows in splits.items()]
    first = found[0]
    for split, other in zip(splits, found):
        if other[:3] != first[:3] or (other.num_classes is None) != (first.num_classes is None):
            raise ValueError(
                f"expected the same inputs and targets in all splits, found {other} in {split} and "
                f"{first}; prepare them as separate datasets"
            )
    names = {rows.classes for rows in splits.values() if _has_text(rows)}
    if len(names) > 1:
        raise ValueError(
            "expected the same classes in all splits, found different ones; give whole numbers, "
            "by a function of a record"
        )
    classes = [plan.num_classes for plan in found if plan.num_classes is not None]
    return first._replace(num_classes=max(classes, default=0) or None)


def _plan_of(split: str, rows: Rows) -> _Plan:
    value = rows[0][0]
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu" or not value.ndim:
        raise ValueError(
            f"expected one array as the input of a row of {split}, found "
            f"{type(value).__name__}; structured inputs are read where they lie, "
            "mu.stream(rows, batch_size=...)"
        )
    targets = rows.targets
    if not isinstance(targets, np.ndarray) or targets.ndim != 1:
        raise ValueError(
            f"expected one number as the target of a row of {split}, found others; structured "
            "targets are read where they lie, mu.stream(rows, batch_size=...)"
        )
    whole = targets.dtype.kind in "iu"
    if whole and targets.min() < 0:
        raise ValueError(
            f"expected classes from 0 on in {split}, found {targets.min()}; number them from 0, or "
            "give floating-point targets for a regression"
        )
    name = "image" if value.ndim == 3 else "features"
    return _Plan(name, value.shape, value.dtype, int(targets.max()) + 1 if whole else None)


def _has_text(rows: Rows) -> bool:
    return "classes" in vars(rows)  # looked up when a target was read


def _builder(name: str, version: str, splits: Mapping[str, Rows], plan: _Plan) -> Any:
    with extra("datasets"):
        import tensorflow_datasets as tfds

    target_name = "target" if plan.num_classes is None else "label"
    value = tfds.features.Tensor(shape=plan.shape, dtype=plan.dtype)
    label: Any = np.float32
    if plan.num_classes is not None:
        label = tfds.features.ClassLabel(num_classes=plan.num_classes)

    class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        VERSION = tfds.core.Version(version)
        code_path = None

        def _info(self) -> Any:
            features = {"id": np.int64, plan.inputs_name: value, target_name: label}
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=(plan.inputs_name, target_name),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
            return {split: self._generate_examples(rows) for split, rows in splits.items()}

        def _generate_examples(self, rows: Rows) -> Iterator[tuple[int, dict]]:
            for position in _progress.each(range(len(rows)), "write", "row"):
                found, target = rows[position]
                if found.shape != plan.shape:
                    raise ValueError(
                        f"expected inputs of one shape {plan.shape}, found {found.shape} at row "
                        f"{position}; resize or pad them"
                    )
                number = target.item() if hasattr(target, "item") else target
                yield (
                    position,
                    {
                        "id": int(rows.index[position]),
                        plan.inputs_name: found,
                        target_name: number,
                    },
                )

    Prepared.name = name
    return Prepared
