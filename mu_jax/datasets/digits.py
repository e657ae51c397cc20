"""Scikit-learn's handwritten digits as a TFDS builder with stable example ids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mu_jax._extras import extra

with extra("datasets"):
    import tensorflow_datasets as tfds

_ROWS = 1797
_TRAIN_ROWS = 1500


class MuDigits(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """1,797 gray images of 8 x 8 pixels in ten classes; nothing is downloaded.

    Each record holds `id` (the row in scikit-learn's array, int64), `image` (float32 of shape
    (8, 8, 1), the original gray levels 0 to 16 divided by 16) and `label` (0 to 9).

    The rows are permuted once by NumPy's legacy generator with seed 0, whose stream is frozen for
    good: the first 1,500 become `train`, the other 297 `test`, each in permuted order. The original
    order goes writer by writer; after the permutation both splits hold all writers, and the first
    n records of a split are a random sample of it.

    Reference:
        E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
        Repository, 1998.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012  (the base class's own type)
    # TFDS looks for download checksums beside the code, through a package it does not depend on.
    code_path = None

    def _info(self) -> Any:
        features = tfds.features.FeaturesDict(
            {
                "id": np.int64,
                "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.float32),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self,
            features=features,
            supervised_keys=("image", "label"),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        rows = np.random.RandomState(0).permutation(_ROWS)
        return {
            "train": self._generate_examples(rows[:_TRAIN_ROWS]),
            "test": self._generate_examples(rows[_TRAIN_ROWS:]),
        }

    def _generate_examples(self, rows: np.ndarray) -> Iterator[tuple[int, dict]]:
        with extra("datasets"):
            import sklearn.datasets

        digits = sklearn.datasets.load_digits()
        images = (digits.images[..., None] / 16).astype(np.float32)
        # The key is the position, not the row: TFDS stores records in the order of their keys.
        for position, row in enumerate(rows.tolist()):
            yield position, {"id": row, "image": images[row], "label": int(digits.target[row])}
