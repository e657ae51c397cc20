"""Scikit-learn's handwritten digits as a regression from the image to the number."""

from __future__ import annotations

import numpy as np

from mu_jax._extras import extra
from mu_jax.datasets.examples import Source
from mu_jax.datasets.local_copy import LocalCopy, check_label, make_copy

_TRAIN_ROWS = 1437


def digits_regression(label: str = "label") -> LocalCopy:
    """1,797 gray images of 8 x 8 pixels, the digit from 0 to 9 as a float32 target.

    `digits` gives the images and ids (gray levels divided by 16, rows of scikit-learn's array).
    Targets are in digits, not standardized. The rows are permuted as in `digits`, but the first
    1,437 become `train` and the other 360 `test`; `forget` (digits 0 to 2) and `retain` part
    `train`. Nothing is written to disk.

    Reference:
        E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
        Repository, 1998.
    """
    with extra("datasets"):
        import sklearn.datasets

    check_label(label, ("digit",), "digits_regression")
    digits = sklearn.datasets.load_digits()
    rows = np.random.RandomState(0).permutation(len(digits.target)).astype(np.int32)
    everyone = Source(
        records=[{"image": image} for image in digits.images[rows, :, :, None]],
        inputs_name="image",
        targets=digits.target[rows].astype(np.float32),
        index=rows,
        scale=16.0,
    )
    train, test = everyone.take(slice(_TRAIN_ROWS)), everyone.take(slice(_TRAIN_ROWS, None))
    low = train.targets <= 2
    splits = {"train": train, "test": test, "forget": train.take(low), "retain": train.take(~low)}
    return make_copy("digits_regression", splits, task="regression", input_shape=(8, 8, 1))
