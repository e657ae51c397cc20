"""Reading datasets that somebody prepared with TFDS; the fixtures prepare small ones here."""

import contextlib
import io
import json
import pickle
import shutil

import grain
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from mu_jax import datasets

_IMAGES = np.random.default_rng(0).integers(0, 256, (24, 6, 5, 3), np.uint8)


def _png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png")
    buffer.seek(0)
    return buffer


def _prepare(folder, name, features, records, version="3.0.2", metadata=None):
    """Writes {split: [record, ...]} as a TFDS dataset in array_record."""

    class Written(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)
        code_path = None

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                metadata=tfds.core.MetadataDict(metadata or {}),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(rows) for split, rows in records.items()}

        def _generate_examples(self, rows):
            yield from enumerate(rows)

    Written.name = name
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        Written(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder / name / version


def _small(folder, *, features, columns=None):
    """A minimal dataset of three records, with some features and columns replaced."""
    usual = {
        "image": tfds.features.Tensor(shape=(2, 2, 1), dtype=np.uint8),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    features = {key: value for key, value in (usual | features).items() if value is not None}
    usual = {"image": np.zeros((3, 2, 2, 1), np.uint8), "label": [0, 1, 2]}
    columns = usual | (columns or {})
    rows = [{key: columns[key][i] for key in features} for i in range(3)]
    return _prepare(folder, "small", features, {"train": rows})


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """CIFAR-10 and CIFAR-100 as TFDS lays them out (PNG, text ids), and MNIST (no ids)."""
    folder = tmp_path_factory.mktemp("prepared")
    image = tfds.features.Image(shape=(6, 5, 3))
    label = tfds.features.ClassLabel(num_classes=10)
    numbers = np.random.default_rng(1).permutation(20)
    rows = [
        {"id": f"train_{n:05d}", "image": _png(_IMAGES[n]), "label": int(n % 10)} for n in numbers
    ]
    test = [
        {"id": f"test_{n:05d}", "image": _png(_IMAGES[20 + n]), "label": int(n)} for n in range(4)
    ]
    ids = {"id": tfds.features.Text()}
    _prepare(
        folder, "cifar10", ids | {"image": image, "label": label}, {"train": rows, "test": test}
    )
    older = {"image": tfds.features.Tensor(shape=(6, 5, 3), dtype=np.uint8), "label": label}
    rows = [{"image": _IMAGES[n], "label": 9} for n in range(3)]
    _prepare(folder, "cifar10", older, {"train": rows}, "3.0.1")
    _prepare(folder, "cifar10", older, {"train": rows[:2]}, "2.10.0")
    coarse = {"coarse_label": tfds.features.ClassLabel(num_classes=2)}
    rows = [
        {"id": f"train_{n:05d}", "image": _png(_IMAGES[n]), "label": n, "coarse_label": n // 5}
        for n in range(10)
    ]
    cifar100 = ids | coarse | {"image": image, "label": label}
    _prepare(folder, "cifar100", cifar100, {"train": rows})
    rows = [{"image": _png(_IMAGES[n, :, :, 0]), "label": n % 10} for n in range(12)]
    gray = {"image": tfds.features.Image(shape=(6, 5, 1)), "label": label}
    _prepare(folder, "mnist", gray, {"train": rows}, "3.0.1")
    return folder


def test_cifar_layout_keeps_the_numbers_of_its_text_ids(data_dir):
    train = datasets.load("cifar10", data_dir=data_dir)
    assert sorted(train.index.tolist()) == list(range(20))
    assert train.index.tolist() != list(range(20))
    np.testing.assert_array_equal(train.inputs, _IMAGES[train.index] / np.float32(255))
    np.testing.assert_array_equal(train.targets, train.index % 10)
    assert [a.dtype for a in train] == [np.float32, np.int32, np.int32]
    test = datasets.load("cifar10", "test", data_dir=data_dir)
    assert test.index.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(test.inputs, _IMAGES[20:] / np.float32(255))


def test_newest_version_is_read_unless_one_is_named(data_dir):
    assert datasets.info("cifar10", data_dir=data_dir).version == "3.0.2"
    older = datasets.load("cifar10/3.0.1", data_dir=data_dir)
    assert older.targets.tolist() == [9, 9, 9]
    assert datasets.info("cifar10/2.10.0", data_dir=data_dir).split_sizes == {"train": 2}


def test_versions_are_compared_as_numbers(tmp_path):
    for version in ("2.9.0", "2.10.0"):
        shutil.copytree(
            _small(tmp_path / version, features={}), tmp_path / "all" / "small" / version
        )
        info = tmp_path / "all" / "small" / version / "dataset_info.json"
        info.write_text(info.read_text().replace("3.0.2", version))
    assert datasets.info("small", data_dir=tmp_path / "all").version == "2.10.0"


def test_mnist_layout_counts_positions_and_keeps_one_channel(data_dir):
    train = datasets.load("mnist", data_dir=data_dir)
    assert train.index.tolist() == list(range(12))
    np.testing.assert_array_equal(train.inputs, _IMAGES[:12, :, :, :1] / np.float32(255))


def test_coarse_labels_can_be_asked_for(data_dir):
    fine = datasets.load("cifar100", data_dir=data_dir)
    coarse = datasets.load("cifar100", data_dir=data_dir, label="coarse_label")
    np.testing.assert_array_equal(coarse.targets, fine.targets // 5)
    assert datasets.info("cifar100", data_dir=data_dir).num_classes == 10
    assert datasets.info("cifar100", data_dir=data_dir, label="coarse_label").num_classes == 2


def test_info_describes_the_layout(data_dir):
    found = datasets.info("cifar10", data_dir=data_dir)
    assert found == datasets.DatasetInfo(
        name="cifar10",
        version="3.0.2",
        task="classification",
        input_shape=(6, 5, 3),
        num_classes=10,
        split_sizes={"train": 20, "test": 4},
    )


def test_source_gives_what_load_gives(data_dir):
    train = datasets.load("cifar10", data_dir=data_dir)
    view = pickle.loads(pickle.dumps(datasets.source("cifar10", data_dir=data_dir)))
    assert len(view) == 20
    for position, (value, target, example_id) in enumerate(view):
        np.testing.assert_array_equal(value, train.inputs[position])
        assert (target, example_id) == (train.targets[position], train.index[position])
        assert (value.dtype, target.dtype, example_id.dtype) == (np.float32, np.int32, np.int32)
    np.testing.assert_array_equal(view.index, train.index)
    np.testing.assert_array_equal(view[-1][0], train.inputs[19])
    with pytest.raises(IndexError):
        view[20]


def test_source_feeds_grain(data_dir):
    train = datasets.load("cifar10", data_dir=data_dir)
    view = datasets.source("cifar10", data_dir=data_dir)
    batches = list(grain.MapDataset.source(view).seed(0).shuffle().batch(8))
    ids = np.concatenate([batch[2] for batch in batches])
    assert [len(batch[2]) for batch in batches] == [8, 8, 4]
    assert sorted(ids.tolist()) == list(range(20)) and ids.tolist() != train.index.tolist()
    inputs = dict(zip(train.index.tolist(), train.inputs))
    for value, example_id in zip(np.concatenate([batch[0] for batch in batches]), ids.tolist()):
        np.testing.assert_array_equal(value, inputs[example_id])


def test_checking_ids_decodes_no_image(data_dir, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(tfds.features.Image, "decode_example_np", refuse)
    view = datasets.source("cifar10", data_dir=data_dir)
    assert sorted(view.index.tolist()) == list(range(20))
    with pytest.raises(AssertionError, match="decoded"):
        view[0]


def test_limit_reads_the_first_records(data_dir):
    train = datasets.load("cifar10", data_dir=data_dir)
    for limit in (1, 7, 20, 1000):
        part = datasets.load("cifar10", data_dir=data_dir, limit=limit)
        for whole, beginning in zip(train, part):
            np.testing.assert_array_equal(whole[:limit], beginning)
    with pytest.raises(ValueError, match="expected a limit of at least 1, found 0"):
        datasets.load("cifar10", data_dir=data_dir, limit=0)


def test_integer_ids_are_taken_as_they_are(tmp_path):
    _small(tmp_path, features={"id": np.int64}, columns={"id": [40, 7, 2**31 - 1]})
    assert datasets.load("small", data_dir=tmp_path).index.tolist() == [40, 7, 2**31 - 1]


def test_only_the_number_that_ends_a_text_id_counts(tmp_path):
    ids = {"id": ["v2_0040", "v2_7", "v3_7000"]}
    _small(tmp_path, features={"id": tfds.features.Text()}, columns=ids)
    assert datasets.load("small", data_dir=tmp_path).index.tolist() == [40, 7, 7000]


def test_text_ids_without_a_number_give_positions(tmp_path):
    _small(tmp_path, features={"id": tfds.features.Text()}, columns={"id": ["a", "b", "b2"]})
    assert datasets.load("small", data_dir=tmp_path).index.tolist() == [0, 1, 2]


def test_other_integer_and_float_images_are_scaled_by_their_type(tmp_path):
    values = np.arange(12).reshape(3, 2, 2, 1)
    wide = tfds.features.Tensor(shape=(2, 2, 1), dtype=np.uint16)
    _small(tmp_path / "wide", features={"image": wide}, columns={"image": values.astype(np.uint16)})
    inputs = datasets.load("small", data_dir=tmp_path / "wide").inputs
    np.testing.assert_allclose(inputs, values / 65535, rtol=1e-6)
    real = tfds.features.Tensor(shape=(2, 2, 1), dtype=np.float32)
    _small(
        tmp_path / "real", features={"image": real}, columns={"image": values.astype(np.float32)}
    )
    np.testing.assert_array_equal(
        datasets.load("small", data_dir=tmp_path / "real").inputs, values.astype(np.float32)
    )


def test_a_regression_is_standardized_by_its_metadata(tmp_path):
    features = {
        "features": tfds.features.Tensor(shape=(2,), dtype=np.float32),
        "target": np.float32,
    }
    rows = [{"features": np.float32([n, 2 * n]), "target": np.float32(n)} for n in range(4)]
    metadata = {
        "inputs_mean": [1.0, 2.0],
        "inputs_scale": [2.0, 4.0],
        "targets_mean": 1.0,
        "targets_scale": 0.5,
    }
    _prepare(tmp_path, "line", features, {"train": rows}, metadata=metadata)
    examples = datasets.load("line", data_dir=tmp_path)
    np.testing.assert_array_equal(examples.inputs[:, 0], [-0.5, 0, 0.5, 1])
    np.testing.assert_array_equal(examples.inputs[:, 1], [-0.5, 0, 0.5, 1])
    np.testing.assert_array_equal(examples.targets, [-2, 0, 2, 4])
    found = datasets.info("line", data_dir=tmp_path)
    assert (found.task, found.target_mean, found.target_scale) == ("regression", 1.0, 0.5)


def test_missing_folders_and_datasets_are_named(data_dir, tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a folder of prepared datasets, found no"):
        datasets.load("cifar10", data_dir=tmp_path / "nowhere")
    known = "sts_b, sts_b_glove, cifar10, cifar100, mnist, found 'svhn'"
    with pytest.raises(FileNotFoundError, match=known):
        datasets.load("svhn", data_dir=data_dir)
    with pytest.raises(FileNotFoundError, match=r"found 'cifar10/9\.9\.9'"):
        datasets.info("cifar10/9.9.9", data_dir=data_dir)


@pytest.mark.parametrize("found", ["tfrecord", None])
def test_a_dataset_in_another_file_format_is_refused(data_dir, tmp_path, found):
    shutil.copytree(data_dir / "mnist", tmp_path / "mnist")
    path = tmp_path / "mnist" / "3.0.1" / "dataset_info.json"
    content = json.loads(path.read_text())
    content.pop("fileFormat")
    path.write_text(json.dumps(content | ({"fileFormat": found} if found else {})))
    with pytest.raises(ValueError, match=r"array_record in .*mnist/3\.0\.1, found tfrecord; prep"):
        datasets.load("mnist", data_dir=tmp_path)


@pytest.mark.parametrize("split", ["validation", "train[:10%]", "all"])
def test_unknown_splits_and_parts_of_splits_are_refused(data_dir, split):
    with pytest.raises(ValueError, match=r"splits train, test of cifar10/3\.0\.2, found"):
        datasets.load("cifar10", split, data_dir=data_dir)


def test_missing_record_files_are_refused(data_dir, tmp_path):
    shutil.copytree(data_dir / "mnist", tmp_path / "mnist")
    next((tmp_path / "mnist" / "3.0.1").glob("*train*")).unlink()
    with pytest.raises(FileNotFoundError, match=r"expected 1 record files .* found 1 missing"):
        datasets.load("mnist", data_dir=tmp_path)


def test_missing_labels_and_inputs_are_refused(data_dir, tmp_path):
    with pytest.raises(ValueError, match="expected a class label 'coarse_label'"):
        datasets.load("cifar10", data_dir=data_dir, label="coarse_label")
    _small(
        tmp_path / "a", features={"label": None, "digit": np.int64}, columns={"digit": [0, 1, 2]}
    )
    with pytest.raises(ValueError, match=r"expected a class label 'label' .* found .*digit"):
        datasets.load("small", data_dir=tmp_path / "a")
    _small(tmp_path / "b", features={"label": np.int64})
    with pytest.raises(ValueError, match="the name of a ClassLabel"):
        datasets.info("small", data_dir=tmp_path / "b")
    _small(
        tmp_path / "c", features={"image": tfds.features.Text()}, columns={"image": ["a", "b", "c"]}
    )
    with pytest.raises(ValueError, match="expected an array 'image' or 'features'"):
        datasets.info("small", data_dir=tmp_path / "c")
    nested = tfds.features.FeaturesDict({"age": np.float32})
    ages = [{"age": np.float32(age)} for age in range(3)]
    _small(tmp_path / "d", features={"image": None, "features": nested}, columns={"features": ages})
    with pytest.raises(ValueError, match="found the features features, label"):
        datasets.info("small", data_dir=tmp_path / "d")


@pytest.mark.parametrize(
    ("feature", "ids", "message"),
    [
        (np.int64, [5, 8, 5], r"expected unique ids in small/train, found 1 used .* \(5\)"),
        (tfds.features.Text(), ["a_1", "b_01", "c_2"], r"found 1 used more than once \(1\)"),
        (tfds.features.Text(), ["a_1", "b", "c_2"], "to end in a number as 'a_1' does, found 'b'"),
    ],
)
def test_ids_that_do_not_name_one_example_each_are_refused(tmp_path, feature, ids, message):
    _small(tmp_path, features={"id": feature}, columns={"id": ids})
    with pytest.raises(ValueError, match=message):
        datasets.source("small", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("feature", "ids", "numbers"),
    [
        (np.int64, [2**31, 1, -(2**40)], [2, 1, 0]),
        (tfds.features.Text(), ["1", "2", "9" * 30], [0, 1, 2]),
        (tfds.features.Text(), ["cat", "ant", "bee"], [0, 1, 2]),  # positions
    ],
)
def test_ids_that_are_no_numbers_of_32_bits_are_kept_in_a_table(tmp_path, feature, ids, numbers):
    _small(tmp_path, features={"id": feature}, columns={"id": ids})
    view = datasets.source("small", data_dir=tmp_path)
    assert view.index.tolist() == numbers
    assert view.ids.names(view.index).tolist() == [str(each) for each in ids]
    (found,) = datasets.read_request(f"id:{ids[2]}", index=view.index, ids=view.ids)
    assert found == numbers[2]


def test_images_of_different_shapes_stream_but_do_not_load(tmp_path):
    images = [_png(_IMAGES[n, : 3 + n]) for n in range(3)]
    _small(
        tmp_path,
        features={"image": tfds.features.Image(shape=(None, 5, 3))},
        columns={"image": images},
    )
    assert [item[0].shape[0] for item in datasets.source("small", data_dir=tmp_path)] == [3, 4, 5]
    assert datasets.info("small", data_dir=tmp_path).input_shape == (None, 5, 3)
    with pytest.raises(ValueError, match=r"expected inputs of one shape in 'small', found \(3, "):
        datasets.load("small", data_dir=tmp_path)
