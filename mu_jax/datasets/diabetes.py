"""Scikit-learn's diabetes regression as a TFDS builder with stable example ids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mu_jax._extras import extra

with extra("datasets"):
    import tensorflow_datasets as tfds

_ROWS = 442
_TRAIN_ROWS = 354


class MuDiabetes(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """442 patients, ten measurements each, and their disease progression; nothing is downloaded.

    Each record holds `id` (the row in scikit-learn's array, int64), `features` (float32 of shape
    (10,), in the original units) and `target` (float32, in the original units). Means and standard
    deviations over the train split travel in the dataset's metadata as `inputs_mean`,
    `inputs_scale`, `targets_mean` and `targets_scale`.

    The rows are permuted once by NumPy's legacy generator with seed 0, whose stream is frozen for
    good: the first 354 become `train`, the other 88 `test`, each in permuted order.

    Reference:
        B. Efron, T. Hastie, I. Johnstone and R. Tibshirani, "Least Angle Regression", The Annals of
        Statistics, 2004.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012  (the base class's own type)
    # TFDS looks for download checksums beside the code, through a package it does not depend on.
    code_path = None

    def _info(self) -> Any:
        features = tfds.features.FeaturesDict(
            {
                "id": np.int64,
                "features": tfds.features.Tensor(shape=(10,), dtype=np.float32),
                "target": np.float32,
            }
        )
        return tfds.core.DatasetInfo(
            builder=self,
            features=features,
            supervised_keys=("features", "target"),
            metadata=tfds.core.MetadataDict(_train_statistics()),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        rows = _permuted_rows()
        return {
            "train": self._generate_examples(rows[:_TRAIN_ROWS]),
            "test": self._generate_examples(rows[_TRAIN_ROWS:]),
        }

    def _generate_examples(self, rows: np.ndarray) -> Iterator[tuple[int, dict]]:
        features, targets = _patients()
        # The key is the position, not the row: TFDS stores records in the order of their keys.
        for position, row in enumerate(rows.tolist()):
            values = np.float32(features[row])
            yield position, {"id": row, "features": values, "target": np.float32(targets[row])}


def _permuted_rows() -> np.ndarray:
    return np.random.RandomState(0).permutation(_ROWS)


def _patients() -> tuple[np.ndarray, np.ndarray]:
    with extra("datasets"):
        import sklearn.datasets

    return sklearn.datasets.load_diabetes(return_X_y=True, scaled=False)


def _train_statistics() -> dict[str, Any]:
    features, targets = _patients()
    train = _permuted_rows()[:_TRAIN_ROWS]
    return {
        "inputs_mean": features[train].mean(axis=0).tolist(),
        "inputs_scale": features[train].std(axis=0).tolist(),
        "targets_mean": float(targets[train].mean()),
        "targets_scale": float(targets[train].std()),
    }
