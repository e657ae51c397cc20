import numpy as np
import pytest
import sklearn.datasets

from mu_jax import datasets


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("digits")


def test_records_are_scikit_learns_rows_under_their_row_number(folder):
    reference = sklearn.datasets.load_digits()
    for split, count in (("train", 1500), ("test", 297)):
        examples = datasets.load("digits", split, data_dir=folder)
        assert examples.inputs.shape == (count, 8, 8, 1)
        np.testing.assert_array_equal(
            examples.inputs[..., 0], np.float32(reference.images[examples.index] / 16)
        )
        np.testing.assert_array_equal(examples.targets, reference.target[examples.index])
        assert [a.dtype for a in examples] == [np.float32, np.int32, np.int32]


def test_splits_partition_the_rows_and_are_not_in_writer_order(folder):
    train = datasets.load("digits", "train", data_dir=folder).index
    test = datasets.load("digits", "test", data_dir=folder).index
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(1797))
    # Both splits reach over the whole file, and so does the beginning of the train split.
    assert test.min() < 50 and test.max() > 1747
    assert abs(np.corrcoef(np.arange(1500), train)[0, 1]) < 0.1
    assert np.bincount(datasets.load("digits", "test", data_dir=folder).targets).min() > 15


def test_the_split_never_changes(folder):
    # Stored forget requests name these ids; a new split would need a new version of the dataset.
    train = datasets.load("digits", "train", data_dir=folder).index
    assert train[:5].tolist() == [1081, 1707, 927, 713, 262]
    assert datasets.digest(train).startswith("a30a157387905fd3")


def test_info_describes_the_classification(folder):
    found = datasets.info("digits", data_dir=folder)
    assert found.name == "digits" and found.version == "1.0.0"
    assert (found.task, found.num_classes, found.input_shape) == ("classification", 10, (8, 8, 1))
    assert found.split_sizes == {"train": 1500, "test": 297}
