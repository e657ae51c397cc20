import numpy as np
import pytest
import sklearn.datasets

from mu_jax import datasets


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("diabetes")


def test_train_split_is_standardized_with_its_own_statistics(folder):
    train = datasets.load("diabetes", data_dir=folder)
    assert train.inputs.shape == (354, 10)
    assert [a.dtype for a in train] == [np.float32, np.float32, np.int32]
    np.testing.assert_allclose(train.inputs.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(train.inputs.std(axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose([train.targets.mean(), train.targets.std()], [0, 1], atol=1e-5)


def test_test_split_uses_the_train_statistics_and_info_inverts_them(folder):
    features, targets = sklearn.datasets.load_diabetes(return_X_y=True, scaled=False)
    train = datasets.load("diabetes", data_dir=folder)
    test = datasets.load("diabetes", "test", data_dir=folder)
    mean, deviation = features[train.index].mean(0), features[train.index].std(0)
    np.testing.assert_allclose(
        test.inputs, (features[test.index] - mean) / deviation, rtol=1e-4, atol=1e-5
    )
    found = datasets.info("diabetes", data_dir=folder)
    original = test.targets * found.target_scale + found.target_mean
    np.testing.assert_allclose(original, targets[test.index], rtol=1e-5)


def test_splits_partition_the_patients_and_never_change(folder):
    train = datasets.load("diabetes", data_dir=folder).index
    test = datasets.load("diabetes", "test", data_dir=folder).index
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(442))
    assert datasets.digest(train).startswith("cf3e0f9e557cd7df")


def test_info_describes_the_regression(folder):
    found = datasets.info("diabetes", data_dir=folder)
    assert (found.name, found.task, found.num_classes) == ("diabetes", "regression", None)
    assert found.input_shape == (10,)
    assert found.split_sizes == {"train": 354, "test": 88}
