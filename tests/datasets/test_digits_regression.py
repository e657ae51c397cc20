import numpy as np
import pytest
import sklearn.datasets

from mu_jax import datasets


def test_images_are_those_of_digits_and_targets_the_numbers(tmp_path):
    reference = sklearn.datasets.load_digits()
    for split, count in (("train", 1437), ("test", 360)):
        examples = datasets.load("digits_regression", split)
        assert examples.inputs.shape == (count, 8, 8, 1)
        assert [a.dtype for a in examples] == [np.float32, np.float32, np.int32]
        np.testing.assert_array_equal(
            examples.inputs[..., 0], np.float32(reference.images[examples.index] / 16)
        )
        np.testing.assert_array_equal(examples.targets, reference.target[examples.index])
    digits = datasets.load("digits", data_dir=tmp_path, limit=1437)
    np.testing.assert_array_equal(datasets.load("digits_regression").index, digits.index)


def test_splits_partition_the_rows_and_never_change():
    parts = {s: datasets.source("digits_regression", s) for s in ("train", "test", "forget")}
    rows = [*parts["train"].index.tolist(), *parts["test"].index.tolist()]
    assert sorted(rows) == list(range(1797))
    assert set(parts["forget"].targets.tolist()) == {0.0, 1.0, 2.0}
    retain = datasets.source("digits_regression", "retain")
    assert retain.targets.min() == 3 and len(retain) + len(parts["forget"]) == 1437
    # Stored forget requests name these ids.
    assert datasets.digest(parts["train"].index).startswith("2051cf51ff915bd1")


def test_info_and_labels():
    found = datasets.info("digits_regression")
    assert (found.task, found.num_classes, found.input_shape) == ("regression", None, (8, 8, 1))
    assert (found.target_mean, found.target_scale) == (0.0, 1.0)
    with pytest.raises(ValueError, match="labels digit of digits_regression, found 'parity'"):
        datasets.load("digits_regression", label="parity")
