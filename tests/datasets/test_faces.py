"""Local copies of face datasets; every test writes small files in the published layout."""

import re

import numpy as np
import pytest
from PIL import Image

import mu_jax as mu
from mu_jax import datasets

pytestmark = pytest.mark.filterwarnings("ignore:expected [0-9]+ examples in")
ONE_SENTENCE = re.compile(r"expected [^\n]+, found [^\n]+; [^\n]+[^.\n]")


def write_image(path, level, size=(128, 128)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, 0, 255)).save(path, quality=95)


def level_of(inputs):
    """The red level of images of one color, in [0, 1] units."""
    return inputs[..., 0].mean((-2, -1))


def write_mufac(folder, rows=None):
    """Families of uneven size: F0001 and F0002 in train, one family in each other split."""
    rows = rows or {"train": [1, 1, 1, 2, 2], "val": [801, 801], "test": [851]}
    for stem, families in rows.items():
        names = [f"F{f:04d}_AGE_D_18_{'abcdefgh'[i]}1.jpg" for i, f in enumerate(families)]
        lines = [f"{name},{name.split('_')[4][0]}" for name in names]
        folder.mkdir(parents=True, exist_ok=True)
        text = "\n".join(["image_path,age_class", *lines]) + "\n"
        (folder / f"custom_{stem}_dataset.csv").write_text(text)
        for level, name in reversed(list(enumerate(names))):
            write_image(folder / f"{stem}_images" / name, 20 * level)
    return folder


MUCAC_HEADER = [f"Other{i}" for i in range(40)]
for place, attribute in ((20, "Male"), (31, "Smiling"), (39, "Young")):
    MUCAC_HEADER[place] = attribute
# number of the image -> identity, gender, smiling, young
MUCAC = {2: (5, 1, 0, 0), 10: (190, 0, 1, 0), 9: (1249, 0, 0, 1), 30: (1250, 1, 1, 1)}
MUCAC |= {4: (4854, 0, 0, 0), 100: (4855, 1, 0, 1)}


def write_mucac(folder, numbers=tuple(MUCAC)):
    folder.mkdir(parents=True, exist_ok=True)
    identities, attributes = [], [str(len(numbers)), " ".join(MUCAC_HEADER)]
    for number in numbers:
        identity, *answers = MUCAC[number]
        values = dict(zip(("Male", "Smiling", "Young"), answers))
        cells = ["1" if values.get(name, 1) else "-1" for name in MUCAC_HEADER]
        identities.append(f"{number}.jpg {identity}")
        attributes.append(f"{number}.jpg  " + " ".join(cells))
        write_image(
            folder / "CelebAMask-HQ" / "CelebA-HQ-img" / f"{number}.jpg", number, (200, 200)
        )
    (folder / "CelebA-HQ-identity.txt").write_text("\n".join(identities))
    (folder / "CelebA-HQ-attribute.txt").write_text("\n".join(attributes))
    return folder


PEOPLE = ["Ada", "Bo_B", "Cy", "Dee", "Eve", "Flo", "Gus", "Hal", "Ida", "Jo", "Kim", "Lou"]
AGEDB = [
    (7 * n + 3, PEOPLE[n % 12], 20 + 5 * (n % 5), ("train", "train", "val", "test")[n % 4])
    for n in range(36)
]


def write_agedb(folder, rows=tuple(AGEDB)):
    lines = ["age,path,split"]
    for number, person, age, split in rows:
        path = f"AgeDB/{number}_{person}_{age}_f.jpg"
        lines.append(f"{age},{path},{split}")
        write_image(folder / path, number, (50, 40))
    (folder / "agedb.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    root = tmp_path_factory.mktemp("copies")
    write_mufac(root / "custom_korean_family_dataset_resolution_128")
    write_mucac(root / "mucac")
    write_agedb(root / "agedb")
    return root


def test_mufac_splits_and_rows(copies):
    train = datasets.load("mufac", data_dir=copies)
    assert train.inputs.shape == (5, 128, 128, 3) and train.inputs.max() == 1.0
    assert [a.dtype for a in train] == [np.float32, np.int32, np.int32]
    assert train.index.tolist() == train.targets.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(level_of(train.inputs), 20 * train.index / 255, atol=0.02)
    # The file called val is the test split, the file called test the unseen one.
    families = {
        split: set(datasets.source("mufac", split, data_dir=copies).attributes["family"].tolist())
        for split in ("train", "test", "unseen")
    }
    assert families == {"train": {"F0001", "F0002"}, "test": {"F0801"}, "unseen": {"F0851"}}
    found = datasets.info("mufac", data_dir=copies)
    assert (found.task, found.num_classes, found.input_shape) == (
        "classification",
        8,
        (128, 128, 3),
    )
    assert {key: found.split_sizes[key] for key in families} == {"train": 5, "test": 2, "unseen": 1}


def test_mufac_forgets_whole_families(copies, monkeypatch):
    monkeypatch.setattr("mu_jax.datasets.faces._MUFAC_FORGET_ROWS", 2)  # cuts F0001 in two
    view = {
        split: datasets.source("mufac", split, data_dir=copies)
        for split in ("train", "forget", "retain", "published_forget", "published_retain")
    }
    assert view["published_forget"].index.tolist() == [0, 1]
    assert view["published_retain"].index.tolist() == [2, 3, 4]
    assert view["forget"].index.tolist() == [0, 1, 2]
    assert view["retain"].index.tolist() == [3, 4]
    families = [set(view[split].attributes["family"].tolist()) for split in ("forget", "retain")]
    assert not families[0] & families[1]
    np.testing.assert_array_equal(view["retain"][0][0], view["train"][3][0])


def test_ids_of_a_source_part_it(copies):
    train = datasets.source("mufac", data_dir=copies)
    ids = train.index[train.attributes["family"] == "F0002"]
    forget, retain = mu.split(train, ids)
    assert forget.index.tolist() == [3, 4] and retain.index.tolist() == [0, 1, 2]
    for one, two in zip(forget[1], train[4]):
        np.testing.assert_array_equal(one, two)


def test_a_family_in_two_splits_is_refused(tmp_path):
    write_mufac(tmp_path, {"train": [1, 2], "val": [2], "test": [851]})
    with pytest.raises(ValueError, match="one split, found F0002 in train and test;"):
        datasets.load("mufac", data_dir=tmp_path)


def test_mucac_splits_by_identity(copies):
    views = {
        split: datasets.source("mucac", split, data_dir=copies)
        for split in ("train", "test", "unseen", "forget", "retain")
    }
    ids = {split: view.index.tolist() for split, view in views.items()}
    # In numeric order, which is neither that of the names nor that of the tables.
    assert ids == {
        "train": [4, 9, 10, 30],
        "test": [2],
        "unseen": [100],
        "forget": [9, 10],
        "retain": [4, 30],
    }
    for view in views.values():
        expected = [MUCAC[number] for number in view.index.tolist()]
        assert view.attributes["identity"].tolist() == [row[0] for row in expected]
        assert view.targets.tolist() == [list(row[1:]) for row in expected]
    image, target, number = views["train"][3]
    assert image.shape == (128, 128, 3) and target.dtype == np.int32
    np.testing.assert_allclose(level_of(image), number / 255, atol=0.02)


@pytest.mark.parametrize(("label", "column"), [("gender", 1), ("smiling", 2), ("young", 3)])
def test_mucac_labels_one_by_one(copies, label, column):
    view = datasets.source("mucac", data_dir=copies, label=label)
    assert view.targets.tolist() == [MUCAC[number][column] for number in view.index.tolist()]
    found = datasets.info("mucac", data_dir=copies, label=label)
    assert (found.task, found.num_classes) == ("classification", 2)
    found = datasets.info("mucac", data_dir=copies)
    assert (found.task, found.num_classes) == ("multilabel", 3)


def test_agedb_is_scaled_and_in_the_order_of_ids(copies):
    train = datasets.load("agedb", data_dir=copies)
    assert train.inputs.shape == (18, 32, 32, 3) and train.targets.dtype == np.float32
    expected = {number: age for number, _, age, split in AGEDB if split == "train"}
    assert train.index.tolist() == sorted(expected)
    assert train.targets.tolist() == [expected[number] for number in train.index.tolist()]
    np.testing.assert_allclose(level_of(train.inputs), train.index / 127.5 - 1, atol=0.03)
    assert train.inputs[..., 2].min() > 0.9
    forget = datasets.source("agedb", "forget", data_dir=copies)
    assert forget.index.tolist() == train.index[train.targets <= 30].tolist()
    assert 0 < len(forget) < len(train.index)
    assert datasets.info("agedb", data_dir=copies).task == "regression"


def test_agedb_splits_by_persons_share_nobody(copies):
    official = [datasets.source("agedb", s, data_dir=copies) for s in ("train", "val", "test")]
    names = [f"persons_{s}" for s in ("train", "val", "test")]
    views = [datasets.source("agedb", split, data_dir=copies) for split in names]
    assert sum(map(len, views)) == sum(map(len, official)) == len(AGEDB)
    persons = [set(view.attributes["person"].tolist()) for view in views]
    assert not persons[0] & persons[1] and not persons[0] & persons[2]
    assert not persons[1] & persons[2] and persons[0] | persons[1] | persons[2] == set(PEOPLE)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("mucac", lambda folder: write_mucac(folder, sorted(MUCAC))),
        ("agedb", lambda folder: write_agedb(folder, AGEDB[::-1])),
    ],
)
def test_ids_do_not_depend_on_the_order_of_files(copies, tmp_path, name, write):
    write(tmp_path)
    one = datasets.load(name, data_dir=copies)
    two = datasets.load(name, data_dir=tmp_path)
    for first, second in zip(one, two):
        np.testing.assert_array_equal(first, second)


def test_labels_and_splits_that_are_not_there_are_refused(copies):
    with pytest.raises(ValueError, match="labels all, gender, smiling, young of mucac, found 'b'"):
        datasets.load("mucac", data_dir=copies, label="b")
    with pytest.raises(ValueError, match=r"splits train, test, unseen, .* of mufac, found 'val';"):
        datasets.load("mufac", "val", data_dir=copies)
    with pytest.raises(ValueError, match="expected a limit of at least 1, found 0"):
        datasets.load("mufac", data_dir=copies, limit=0)
    assert len(datasets.load("mufac", data_dir=copies, limit=2).index) == 2


def test_an_empty_split_is_refused(copies):
    assert len(datasets.source("mufac", "retain", data_dir=copies)) == 0  # fewer than 1,500 rows
    with pytest.raises(ValueError, match="expected examples in mufac/retain, found none;"):
        datasets.load("mufac", "retain", data_dir=copies)


def test_other_counts_than_published_are_warned_of(copies):
    with pytest.warns(UserWarning, match="expected 10025 examples in mufac/train, found 5; res"):
        datasets.info("mufac", data_dir=copies)


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("mufac", ["custom_train_dataset.csv", "custom_val_dataset.csv", "test_images"]),
        ("mucac", ["CelebA-HQ-identity.txt", "CelebA-HQ-attribute.txt", "CelebA-HQ-img"]),
        ("agedb", ["agedb.csv", "AgeDB"]),
    ],
)
def test_a_missing_copy_is_one_sentence_with_its_files(tmp_path, name, files):
    with pytest.raises(FileNotFoundError) as raised:
        datasets.load(name, data_dir=tmp_path)
    assert ONE_SENTENCE.fullmatch(str(raised.value)), raised.value
    assert all(file in str(raised.value) for file in [*files, name, "found none of them"])


def break_class(folder):
    table = folder / "custom_train_dataset.csv"
    table.write_text(table.read_text().replace("a1.jpg,a", "a1.jpg,ab"))


def break_identity(folder):
    table = folder / "CelebA-HQ-identity.txt"
    table.write_text(table.read_text().replace("9.jpg 1249", ""))


def break_header(folder):
    table = folder / "CelebA-HQ-attribute.txt"
    table.write_text(table.read_text().replace("Smiling", "Grinning"))


def repeat_number(folder):
    table = folder / "agedb.csv"
    table.write_text(table.read_text() + "\n23,AgeDB/3_Ada_20_f.jpg,train")


def replace(file, old, new):
    def write(folder):
        path = folder / file
        path.write_text(path.read_text().replace(old, new))

    return write


def remove(pattern):
    return lambda folder: next(folder.glob(pattern)).unlink()


def overwrite(pattern, content):
    return lambda folder: next(folder.glob(pattern)).write_bytes(content)


BREAKS = {
    "no table": ("mufac", remove("custom_val*"), "found no custom_val_dataset.csv"),
    "no image": ("mufac", remove("train_images/F0002_*_d1.jpg"), "F0002_AGE_D_18_d1.jpg, found no"),
    "no column": ("mufac", replace("custom_test_dataset.csv", "age_class", "age"), "no age_class;"),
    "no class": ("mufac", break_class, "expected a class a to h in .*, found 'ab'"),
    "binary": ("mufac", overwrite("custom_train*", b"\xff\xfe\x00"), "found binary data"),
    "short row": ("mufac", replace("custom_val_dataset.csv", ",b", ""), "line 3 of .* found fewer"),
    "no image file": ("mufac", overwrite("train_images/*_b1.jpg", b"x" * 99), "cannot be decoded"),
    "no identity": ("mucac", break_identity, r"found none for 1 \(9.jpg\)"),
    "no attribute": ("mucac", break_header, "second line of .*, found no Smiling"),
    "no number": ("mucac", replace("CelebA-HQ-identity.txt", "1249", "x"), "identity .*found 'x'"),
    "twice": ("agedb", repeat_number, r"unique ids in agedb/train, found 18 .* for 19"),
    "no age": ("agedb", replace("agedb.csv", "\n20,", "\nnan,"), "age in years in .*found 'nan'"),
    "no split": ("agedb", replace("agedb.csv", ",val", ",dev"), "train, val, test in .*'dev'"),
    "name": ("agedb", replace("agedb.csv", "3_Ada_20_f", "Ada_f"), "names of images .*Ada_f.jpg"),
}


@pytest.mark.parametrize("case", BREAKS)
def test_broken_copies_are_one_sentence(tmp_path, case):
    name, damage, message = BREAKS[case]
    {"mufac": write_mufac, "mucac": write_mucac, "agedb": write_agedb}[name](tmp_path)
    damage(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as raised:
        datasets.load(name, data_dir=tmp_path)
    assert ONE_SENTENCE.fullmatch(str(raised.value)), raised.value


def test_a_cut_image_is_refused_when_it_is_read(tmp_path):
    write_mufac(tmp_path)
    path = tmp_path / "train_images" / "F0001_AGE_D_18_b1.jpg"
    path.write_bytes(path.read_bytes()[:400])
    view = datasets.source("mufac", data_dir=tmp_path)
    assert view[0][0].shape == (128, 128, 3)
    with pytest.raises(ValueError, match=r"F0001_AGE_D_18_b1\.jpg, found a file that cannot be"):
        view[1]
