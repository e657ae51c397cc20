"""Fashion-MNIST from its own files, and one sentence for files that are not so."""

from __future__ import annotations

import gzip
import os
import struct

import numpy as np
import pytest

from mu_jax import datasets
from mu_jax.datasets import fashion_mnist

INSTALLED = "/usr/share/datasets"
NAMES = [
    f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
]


def idx(array, kind=8):
    """The bytes of an IDX file, `kind` being the type of its numbers (8: bytes)."""
    head = struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape)
    return head + array.tobytes()


@pytest.fixture
def arrays():
    """20 training and 10 test images, with a class each, by the names of the files."""
    random = np.random.default_rng(0)
    found = {}
    for part, count in (("train", 20), ("t10k", 10)):
        found[f"{part}-images-idx3-ubyte"] = random.integers(256, size=(count, 28, 28), dtype="u1")
        found[f"{part}-labels-idx1-ubyte"] = np.arange(count, dtype="u1") % 10
    return found


@pytest.fixture
def published(monkeypatch):
    monkeypatch.setattr(fashion_mnist, "_PUBLISHED", {"train": 20, "test": 10})


def write(folder, arrays, ending=""):
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        data = idx(array)
        (folder / f"{name}{ending}").write_bytes(gzip.compress(data) if ending else data)


@pytest.mark.parametrize("place", ["fashion_mnist", "fashion-mnist", "."])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_images_labels_and_ids_of_both_splits(tmp_path, arrays, published, place, ending):
    write(tmp_path / place, arrays, ending)
    for split, part, ids in (("train", "train", range(20)), ("test", "t10k", range(20, 30))):
        found = datasets.load("fashion_mnist", split, data_dir=tmp_path)
        assert [each.dtype for each in found] == [np.float32, np.int32, np.int32]
        pixels = arrays[f"{part}-images-idx3-ubyte"][..., None]
        np.testing.assert_array_equal(found.inputs, pixels.astype(np.float32) / np.float32(255))
        assert found.targets.tolist() == arrays[f"{part}-labels-idx1-ubyte"].tolist()
        assert found.index.tolist() == list(ids)
    few = datasets.load("fashion_mnist", data_dir=tmp_path, limit=7)
    assert few.index.tolist() == list(range(7))
    info = datasets.info("fashion_mnist", data_dir=tmp_path)
    assert (info.task, info.num_classes, info.input_shape) == ("classification", 10, (28, 28, 1))
    assert info.split_sizes == {"train": 20, "test": 10}


def test_another_number_of_images_is_warned_of(tmp_path, arrays):
    write(tmp_path, arrays)
    with pytest.warns(UserWarning) as found:
        datasets.info("fashion_mnist", data_dir=tmp_path)
    assert [str(warning.message)[:55] for warning in found] == [
        "expected 60000 examples in fashion_mnist/train, found 2",
        "expected 10000 examples in fashion_mnist/test, found 10",
    ]


def test_a_missing_file_is_named(tmp_path, arrays):
    with pytest.raises(FileNotFoundError, match=r"in .*fashion_mnist or .*, found none of them"):
        datasets.load("fashion_mnist", data_dir=tmp_path)
    write(tmp_path, arrays)
    (tmp_path / NAMES[3]).unlink()
    with pytest.raises(FileNotFoundError, match=f"found no {NAMES[3]}; put a copy"):
        datasets.load("fashion_mnist", data_dir=tmp_path)


LABELS, IMAGES = "train-labels-idx1-ubyte", "train-images-idx3-ubyte"
WRONG = {
    "cut off": (IMAGES, lambda a: idx(a)[:500], "expected an IDX file at .*images.*damaged"),
    "other first bytes": (LABELS, lambda a: b"PK" + idx(a)[2:], "expected an IDX file at .*labels"),
    "no IDX file": (IMAGES, lambda a: b"hello", "expected an IDX file at"),
    "a torn archive": (IMAGES, lambda a: gzip.compress(idx(a))[:99], "expected an IDX file at"),
    "other sizes": (IMAGES, lambda a: idx(a[:, :8, :8]), r"bytes \[n, 28, 28\] .* \(20, 8, 8\)"),
    "labels for images": (IMAGES, lambda a: idx(a[:, 0, 0]), r"bytes \[n, 28, 28\] .* \(20,\)"),
    "other numbers": (
        IMAGES,
        lambda a: idx(a.astype(">i4"), 12),
        r"bytes \[n, 28, 28\] .* found int32",
    ),
    "fewer labels": (LABELS, lambda a: idx(a[:9]), r"each of 20 images in .* found uint8 \(9,\)"),
    "other classes": (LABELS, lambda a: idx(a + 3), "classes from 0 to 9 in .*, found 12"),
    "another data set": (
        LABELS,
        lambda a: idx(np.maximum(a, 1)),
        "expected 2 labels of each class in .*, found 0 to 4: .* such as MNIST",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_is_one_sentence(tmp_path, arrays, published, what):
    write(tmp_path, arrays)
    name, make, sentence = WRONG[what]
    (tmp_path / name).write_bytes(make(arrays[name]))
    with pytest.raises(ValueError, match=f"^expected .*{sentence.removeprefix('expected ')}") as e:
        datasets.load("fashion_mnist", data_dir=tmp_path)
    assert "\n" not in str(e.value)


def test_unknown_labels_and_splits_are_refused(tmp_path, arrays, published):
    write(tmp_path, arrays)
    with pytest.raises(ValueError, match="labels class of fashion_mnist, found 'color'"):
        datasets.load("fashion_mnist", data_dir=tmp_path, label="color")
    with pytest.raises(ValueError, match="splits train, test of fashion_mnist, found 'forget'"):
        datasets.load("fashion_mnist", "forget", data_dir=tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir(f"{INSTALLED}/fashion-mnist"), reason="not installed")
def test_the_published_files_have_the_ids_of_stored_requests():
    found = datasets.load("fashion_mnist", data_dir=INSTALLED, limit=10_000)
    assert np.bincount(found.targets).tolist() == [
        942, 1027, 1016, 1019, 974, 989, 1021, 1022, 990, 1000
    ]  # fmt: skip
    assert datasets.digest(found.index).startswith("9e1c19b3fdc18541")
    assert found.targets[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
