"""Local copies of STS-B; every test writes small tables in the published layout."""

import numpy as np
import pytest

from mu_jax import datasets

pytestmark = pytest.mark.filterwarnings("ignore:expected [0-9]+ examples in")

HEADER = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"
# An unbalanced quotation mark, addresses, digits, case and a separator that only Unicode knows.
TRAIN = [
    (4, '"Cats sleep', "Dogs bark!", "1.999"),
    (0, "Cats\u2028eat 3 FISH.", "the of and", "2.0"),
    (7, "see https://cats.example/x fish www.dogs.example", 'Dogs" bark', "5"),
]
DEV = [(0, "Zebras sleep", "cats", "0.5")]
LONG = " ".join(["one two alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu"])
TEST = [(3, LONG, "cats zebras dogs", "4.25")]
WORDS = ["bark", "cats", "dogs", "eat", "fish", "sleep"]
CODE = {word: 2 + place for place, word in enumerate(WORDS)}


def write(folder, train=tuple(TRAIN), **others):
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in {"train": train, "dev": DEV, "test": TEST, **others}.items():
        lines = [f"{i}\tnews\tf\t2012\t1\tnone\tnone\t{one}\t{two}\t{s}" for i, one, two, s in rows]
        text = "\n".join([HEADER, *lines]) + "\n"
        (folder / f"{split}_new.tsv").write_text(text, encoding="utf-8")
    return folder


def padded(*words):
    return [0] * (10 - len(words)) + [CODE.get(word, 1) for word in words]


@pytest.fixture
def copy(tmp_path):
    write(tmp_path / "sts_b")
    return tmp_path


def test_sentences_become_padded_codes_of_the_train_words(copy):
    train = datasets.load("sts_b", data_dir=copy)
    assert [a.dtype for a in train] == [np.int32, np.float32, np.int32]
    assert train.index.tolist() == [0, 4, 7]
    assert train.targets.tolist() == [2.0, np.float32(1.999), 5.0]
    expected = [
        [padded("cats", "eat", "fish"), padded()],
        [padded("cats", "sleep"), padded("dogs", "bark")],
        [padded("fish"), padded("dogs", "bark")],
    ]
    assert train.inputs.tolist() == expected
    found = datasets.info("sts_b", data_dir=copy)
    assert (found.task, found.input_shape, found.num_codes) == ("regression", (2, 10), 8)
    assert found.split_sizes == {"train": 3, "dev": 1, "test": 1, "forget": 1, "retain": 2}


def test_words_that_the_train_split_lacks_are_unknown(copy):
    dev = datasets.load("sts_b", "dev", data_dir=copy)
    assert dev.inputs[0].tolist() == [padded("zebras", "sleep"), padded("cats")]
    test = datasets.load("sts_b", "test", data_dir=copy)
    assert test.inputs[0].tolist() == [[1] * 10, padded("cats", "zebras", "dogs")]


def test_a_score_of_two_is_retained(copy):
    forget = datasets.source("sts_b", "forget", data_dir=copy)
    retain = datasets.source("sts_b", "retain", data_dir=copy)
    assert forget.index.tolist() == [4] and retain.index.tolist() == [0, 7]
    assert retain.attributes["sentence1"][0] == "Cats\u2028eat 3 FISH."


def test_nothing_depends_on_the_order_of_rows(copy, tmp_path):
    write(tmp_path / "other", TRAIN[::-1])
    one = datasets.load("sts_b", data_dir=copy)
    two = datasets.load("sts_b", data_dir=tmp_path / "other")
    for first, second in zip(one, two):
        np.testing.assert_array_equal(first, second)


GLOVE = "cats 1 0 0\nfish 0 2 0\n. . 5 5 5\ndogs 0 0 4\ncats 9 9 9\nzebras 0 0 8\n"


def test_glove_vectors_and_the_mean_for_unknown_words(copy):
    (copy / "sts_b" / "glove.840B.300d.txt").write_text(GLOVE)
    train = datasets.load("sts_b_glove", data_dir=copy)
    assert train.inputs.shape == (3, 2, 10, 3) and train.inputs.dtype == np.float32
    first, nothing = train.inputs[0]
    # "eat" is unknown: the mean of "cats" and "fish".
    assert first.tolist() == [[0, 0, 0]] * 7 + [[1, 0, 0], [0.5, 1, 0], [0, 2, 0]]
    assert not nothing.any()
    assert train.inputs[1, 1, -2:].tolist() == [[0, 0, 4], [0, 0, 4]]
    # A word of the test split alone has its own vector.
    dev = datasets.load("sts_b_glove", "dev", data_dir=copy)
    assert dev.inputs[0, 0, -2:].tolist() == [[0, 0, 8], [0, 0, 8]]
    # Reading has not filled the shared table.
    again = datasets.load("sts_b_glove", data_dir=copy)
    np.testing.assert_array_equal(again.inputs, train.inputs)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"expected one file glove\*\.txt .* found 0; .* load sts_b for learned"),
        ("cats 1 0\ndogs 1 0 0\n", r"found 2 words and the sizes \[2, 3\]"),
        ("lions 1 0\n", r"found 0 words and the sizes \[\]"),
        ("cats 1 x\n", "expected numbers after the word cats in .*, found '1 x"),
    ],
)
def test_glove_files_that_cannot_be_used_are_refused(copy, content, message):
    if content is not None:
        (copy / "sts_b" / "glove.6B.txt").write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        datasets.load("sts_b_glove", data_dir=copy)


def test_two_glove_files_are_refused(copy):
    for name in ("glove.a.txt", "glove.b.txt"):
        (copy / "sts_b" / name).write_text(GLOVE)
    with pytest.raises(ValueError, match="found 2; put one there"):
        datasets.load("sts_b_glove", data_dir=copy)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0, "a", "b", "high")], "expected a score from 0 to 5 in .*, found 'high'"),
        ([(0, "a", "b", "nan")], "expected a score from 0 to 5 in .*, found 'nan'"),
        ([("x", "a", "b", "1")], "expected an integer index in .*, found 'x'"),
        ([(1, "a", "b", "1"), (1, "c", "d", "2")], "unique ids in sts_b/train, found 1 different"),
        ([(1, "a", "b\tc", "1")], "expected a score from 0 to 5 in .*, found 'c'"),
    ],
)
def test_broken_rows_are_refused(tmp_path, rows, message):
    write(tmp_path, rows)
    with pytest.raises(ValueError, match=message):
        datasets.load("sts_b", data_dir=tmp_path)


def test_a_missing_table_and_a_missing_column_are_named(copy, tmp_path):
    path = copy / "sts_b" / "dev_new.tsv"
    content = path.read_text(encoding="utf-8")
    path.write_text(content.replace("score", "similarity"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"the columns index, .* found no score;"):
        datasets.load("sts_b", data_dir=copy)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"train_new.tsv, .*, found no dev_new.tsv;"):
        datasets.load("sts_b", data_dir=copy)


def test_other_counts_than_published_are_warned_of(copy):
    with pytest.warns(UserWarning, match="expected 1000 examples in sts_b/dev, found 1;"):
        datasets.info("sts_b", data_dir=copy)
