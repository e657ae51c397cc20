"""Anybody's data written as ArrayRecord: what is read again is what was given, ids included."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from mu_jax import datasets
from mu_jax.datasets import by_position

X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
IDS = ["r3", "r1", "r5", "r0", "r2", "r4"]
USERS = {"user": ["b", "a", "a", "b", "c", "c"]}


Y = np.arange(6) % 3


def people(inputs=X, targets=Y, ids=IDS, subjects=USERS):
    return datasets.from_arrays(inputs, targets, ids=ids, subjects=subjects)


def test_vectors_and_classes_come_back_with_their_ids(tmp_path):
    splits = {"train": people(), "test": people(ids=by_position, subjects=None)}
    folder = datasets.prepare("people", splits, data_dir=tmp_path)
    assert folder == tmp_path / "people/1.0.0"
    assert "tensorflow" not in sys.modules
    view = datasets.source("people", "train", data_dir=tmp_path)
    assert view.ids.digest == splits["train"].ids.digest
    assert view.ids.names(view.index).tolist() == IDS
    loaded = datasets.load("people", data_dir=tmp_path)
    np.testing.assert_array_equal(loaded.inputs, X)
    assert loaded.targets.tolist() == [0, 1, 2, 0, 1, 2]
    info = datasets.info("people", data_dir=tmp_path)
    assert info[2:6] == ("classification", (3,), 3, {"train": 6, "test": 6})
    request = datasets.read_request("user:a", index=view.index, ids=view.ids)
    assert view.ids.names(request).tolist() == ["r1", "r5"]


def test_images_text_classes_and_regressions(tmp_path):
    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    records = [{"x": pixels[k], "y": "ba"[k]} for k in range(2)]
    rows = datasets.from_records(records, inputs="x", target="y", ids=by_position)
    datasets.prepare("images", {"train": rows}, data_dir=tmp_path)
    loaded = datasets.load("images", data_dir=tmp_path)
    np.testing.assert_allclose(loaded.inputs, pixels / 255, rtol=1e-6)
    assert loaded.targets.tolist() == [1, 0]
    datasets.prepare("ages", {"train": people(targets=X[:, 0])}, data_dir=tmp_path)
    np.testing.assert_array_equal(datasets.load("ages", data_dir=tmp_path).targets, X[:, 0])
    assert datasets.info("ages", data_dir=tmp_path).task == "regression"


def test_numbers_are_kept_when_rows_are_gone(tmp_path):
    first = people()
    left = people(X[2:], np.zeros(4, int), IDS[2:], {"user": USERS["user"][2:]})
    datasets.prepare("people", {"train": left.numbered_by(first.ids)}, data_dir=tmp_path)
    view = datasets.source("people", data_dir=tmp_path)
    assert view.index.tolist() == first.index[2:].tolist()
    assert view.ids.ids.tolist() == sorted(IDS[2:])


REFUSED = {
    "a name": (lambda: ("My data", {"train": people()}), "a name in small letters"),
    "no splits": (lambda: ("people", {}), "splits that hold rows"),
    "structured inputs": (
        lambda: ("people", {"train": people({"a": X})}),
        "one array as the input .* found dict; structured inputs are read where they lie",
    ),
    "several heads": (
        lambda: ("people", {"train": people(targets={"a": X[:, 0]})}),
        "one number as the target",
    ),
    "vectors as targets": (lambda: ("people", {"train": people(targets=X)}), "one number as the"),
    "negative classes": (
        lambda: ("people", {"train": people(targets=np.arange(6) - 3)}),
        "expected classes from 0 on in train, found -3",
    ),
    "different splits": (
        lambda: ("people", {"train": people(), "test": people(X[:, :2])}),
        "the same inputs and targets in all splits",
    ),
    "different shapes": (
        lambda: (
            "people",
            {"train": datasets.from_records([(X[0], 0), (X[0, :2], 1)], ids=by_position)},
        ),
        r"inputs of one shape \(3,\), found \(2,\) at row 1",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_sentence_and_nothing_is_left(case, tmp_path):
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        datasets.prepare(*make(), data_dir=tmp_path)
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    assert not list(tmp_path.glob(".preparing*"))


def test_a_dataset_is_not_replaced(tmp_path):
    datasets.prepare("people", {"train": people()}, data_dir=tmp_path)
    with pytest.raises(FileExistsError, match="found one; give another name or version"):
        datasets.prepare("people", {"train": people()}, data_dir=tmp_path)
