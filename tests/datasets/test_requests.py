import hashlib
import os
import struct
import zipfile

import numpy as np
import pytest

from mu_jax.datasets import digest, read_request, write_request

# 40 examples with ids 0, 3, 6, ... in shuffled order, four classes of ten.
_INDEX = np.random.default_rng(0).permutation(np.arange(0, 120, 3)).astype(np.int32)
_TARGETS = (_INDEX // 3 % 4).astype(np.int32)


def _read(request, targets=_TARGETS):
    return read_request(request, index=_INDEX, targets=targets)


def _write(path, text):
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    "text",
    [
        "id\n9\n3\n60\n",
        "9\n3\n60",
        "\n 9 \n\n3\n60\n9\n",
        "label,ID\n0,9\n1,3\n2,60\n",
        'index,x\n"9",a\n3,b\n60,c\n',
        "\ufeffid\r\n9\r\n3\r\n60\r\n",
        "9,0.5\n3,0.1\n60,0.2\n",
        '{"id": 9}\n{"id": 3, "why": "withdrawn"}\n\n{"id": 60}\n',
        '{"index": 9}\n3\n{"id": 60}\n',
    ],
)
def test_every_way_of_writing_the_same_file(tmp_path, text):
    ids = _read(_write(tmp_path / "forget.csv", text))
    assert ids.tolist() == [3, 9, 60] and ids.dtype == np.int32
    assert _read(tmp_path / "forget.csv").tolist() == [3, 9, 60]


def test_classes_select_all_their_examples():
    np.testing.assert_array_equal(_read("class:3"), np.arange(9, 120, 12))
    both = np.sort(_INDEX[(_TARGETS == 0) | (_TARGETS == 3)])
    np.testing.assert_array_equal(_read("class:3,0"), both)
    np.testing.assert_array_equal(_read("class:3,0,3"), both)


def test_listed_ids_and_ranges():
    assert _read("ids:9,3,60").tolist() == [3, 9, 60]
    assert _read("ids:60,3-3,3").tolist() == [3, 60]
    index = np.arange(100, 110)
    assert read_request("ids:102-104,108", index=index).tolist() == [102, 103, 104, 108]


def test_random_draws_the_asked_number_without_regard_to_order():
    for request, count in (("random:0.1", 4), ("random:0.3:seed=5", 12), ("random:7:seed=1", 7)):
        ids = _read(request)
        assert len(ids) == count == len(set(ids.tolist()) & set(_INDEX.tolist()))
        np.testing.assert_array_equal(ids, read_request(request, index=np.sort(_INDEX)[::-1]))
    assert _read("random:9").tolist() == _read("random:9:seed=0").tolist()
    assert _read("random:9").tolist() != _read("random:9:seed=1").tolist()
    # round(0.07 * 100) is 7 although the product is not exactly 7.
    assert len(read_request("random:0.07", index=np.arange(100))) == 7


def test_random_draws_are_nested_uniform_and_fixed():
    assert set(_read("random:5:seed=2").tolist()) < set(_read("random:6:seed=2").tolist())
    counts = np.zeros(40)
    for seed in range(400):
        counts[_read(f"random:10:seed={seed}") // 3] += 1
    # Binomial(400, 1/4): mean 100, standard deviation 8.7; five deviations.
    assert counts.min() > 56 and counts.max() < 144
    # A stored selector must name the same examples next year.
    assert _read("random:4:seed=0").tolist() == [12, 33, 72, 81]


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        ("ids:3,4,5,9", ValueError, r"training set only, found 2 others in .* \(4, 5\); remove"),
        ("ids:0-39", ValueError, r"found 26 others in 'ids:0-39' \(1, 2, 4, 5, 7, \.\.\.\)"),
        ("ids:-3", ValueError, r"found 1 others in 'ids:-3' \(-3\)"),
        ("ids:99999999999999999", ValueError, "found 1 others"),
        ("ids:5-3", ValueError, "expected a range of ids from low to high .* found '5-3'"),
        ("ids:0-99999999999", ValueError, "with at most the 40 ids of the training set"),
        ("ids:", ValueError, "expected an integer at ids:, found ''"),
        ("ids:3,x", ValueError, "expected an integer at ids:3,x, found 'x'"),
        ("ids:3.0", ValueError, r"expected an integer at ids:3\.0, found '3\.0'"),
        ("class:4", ValueError, "expected classes among 0, 1, 2, 3, found 4; choose"),
        ("class:1,-1,9", ValueError, "found -1, 9"),
        ("class:cat", ValueError, "expected an integer at class:cat, found 'cat'"),
        ("class:0,1,2,3", ValueError, "leaves examples to retain, found all 40"),
        ("random:40", ValueError, "leaves examples to retain, found all 40"),
        ("random:0.999", ValueError, "leaves examples to retain, found all 40"),
        ("random:41", ValueError, "a count from 1 to 39 .* found 'random:41'"),
        ("random:0", ValueError, "found 'random:0'"),
        ("random:0.0", ValueError, "found 'random:0.0'"),
        ("random:0.001", ValueError, "selects at least one of the 40 examples"),
        ("random:1.0", ValueError, r"a fraction in \(0, 1\)"),
        ("random:1.5", ValueError, r"a fraction in \(0, 1\)"),
        ("random:-0.1", ValueError, r"a fraction in \(0, 1\)"),
        ("random:-3", ValueError, r"a fraction in \(0, 1\)"),
        ("random:nan", ValueError, r"a fraction in \(0, 1\)"),
        ("random:0.1:seed=-1", ValueError, "expected random:AMOUNT or random:AMOUNT:seed=N"),
        ("random:0.1:sed=1", ValueError, "expected random:AMOUNT or random:AMOUNT:seed=N"),
        (
            "group:3",
            ValueError,
            "such as class:3,5, random:0.05:seed=0, ids:1,5,10-20, nearest:50:id=6, below:3.5 or",
        ),
        ("nowhere/forget.csv", FileNotFoundError, "found no file 'nowhere/forget.csv'; check"),
        ("forget", FileNotFoundError, "found no file 'forget'"),
        ("", FileNotFoundError, "found no file ''"),
        (".", FileNotFoundError, "found no file '.'"),
    ],
)
def test_bad_requests_are_refused_in_one_sentence(request_, error, message):
    with pytest.raises(error, match=message) as caught:
        _read(request_)
    text = str(caught.value)
    assert text.startswith("expected") and "\n" not in text and ". " not in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected at least one id to forget, found none"),
        ("id\n\n", "expected at least one id to forget, found none"),
        ("id\n3\nx\n", r"forget\.txt:3, found 'x'"),
        ("name\n3\n", r"forget\.txt:1, found 'name'"),
        ("1,5,9\n", r"one id a line, .* at .*forget\.txt:1, found 3 whole numbers and no header"),
        ("1\n3, 5", r"at .*forget\.txt:2, found 2 whole numbers and no header"),
        ("id\n3\n\n6.5\n", r"forget\.txt:4, found '6\.5'"),
        ("label,id\n0,3\n1\n", r"forget\.txt:3, found ''"),
        ('{"id": 3}\n{"id": "6"}\n', r"expected {\"id\": INTEGER} at .*forget\.txt:2, found"),
        ('{"id": 3}\n{"id": true}\n', r"forget\.txt:2"),
        ('{"id": 3}\n{"id": 6\n', r"forget\.txt:2"),
        ('{"name": 3}\n', r"forget\.txt:1"),
        ("[3, 6]\n", r"expected an integer at .*forget\.txt:1, found '\[3'"),
        ("id\n3\n4\n", r"found 1 others in '.*forget\.txt' \(4\)"),
    ],
)
def test_bad_files_are_refused_with_file_and_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        _read(_write(tmp_path / "forget.txt", text))


def test_binary_files_are_refused(tmp_path):
    np.save(tmp_path / "forget.npy", np.arange(3))
    with pytest.raises(ValueError, match="expected a CSV, JSON-lines or Parquet file"):
        _read(tmp_path / "forget.npy")


def test_classes_need_class_labels():
    with pytest.raises(ValueError, match="labels for the selector 'class:1', found no targets"):
        _read("class:1", targets=None)
    with pytest.raises(ValueError, match="found float32 targets"):
        _read("class:1", targets=_TARGETS.astype(np.float32))
    with pytest.raises(ValueError, match=r"found shapes \(39,\) and \(40,\)"):
        _read("class:1", targets=_TARGETS[1:])


def test_written_requests_read_back_the_same(tmp_path):
    path = tmp_path / "requests" / "forget.csv"
    write_request(path, np.array([60, 3, 9, 3], np.int32))
    assert path.read_text() == "id\n3\n9\n60\n"
    assert _read(path).tolist() == [3, 9, 60]
    write_request(path, iter([6, 3]))
    assert _read(path).tolist() == [3, 6]
    assert [entry.name for entry in path.parent.iterdir()] == ["forget.csv"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "forget.csv"
    write_request(path, [3, 9])

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_request(path, [6])
    assert path.read_text() == "id\n3\n9\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["forget.csv"]


@pytest.mark.parametrize("ids", [[], np.array([], np.int32)])
def test_empty_requests_are_not_written(tmp_path, ids):
    with pytest.raises(ValueError, match="expected at least one id to write, found none"):
        write_request(tmp_path / "forget.csv", ids)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ids", [[1.0, 2.0], ["1"], [True, False]])
def test_ids_that_are_not_integers_are_refused(tmp_path, ids):
    with pytest.raises(ValueError, match="expected integer example ids, found"):
        write_request(tmp_path / "forget.csv", ids)
    with pytest.raises(ValueError, match="expected integer example ids, found"):
        digest(ids)
    assert not list(tmp_path.iterdir())


def test_digest_is_the_hash_of_the_sorted_int64_bytes():
    expected = hashlib.sha256(struct.pack("<3q", 3, 9, 60)).hexdigest()
    for ids in ([60, 3, 9], np.array([9, 3, 60], np.int32), np.array([9, 60, 3, 3], ">i8")):
        assert digest(ids) == expected
    assert digest([3, 9]) != expected


def test_nearest_examples_by_distance_then_id():
    inputs = np.abs(_INDEX - 60).astype(np.float32)[:, None]  # 57 and 63 are equally far from 60
    found = read_request("nearest:4:id=60", index=_INDEX, inputs=inputs)
    assert found.tolist() == [54, 57, 60, 63]
    np.testing.assert_array_equal(
        read_request("nearest:0.1:id=60", index=_INDEX, inputs=inputs), found
    )


def test_the_center_may_be_drawn():
    inputs = _INDEX.astype(np.float32)
    drawn = [read_request(f"nearest:5:seed={s}", index=_INDEX, inputs=inputs) for s in range(9)]
    assert all(np.ptp(ids) == 12 for ids in drawn)
    assert len({ids[0] for ids in drawn}) > 5
    center = read_request("nearest:1:seed=3", index=_INDEX, inputs=inputs)
    assert center == read_request("random:1:seed=3", index=_INDEX)


@pytest.mark.parametrize("argument", ["4:id=61", "4", "60:4", "0:id=60", "1.5:seed=1", "41:seed=0"])
def test_bad_requests_for_nearest_examples(argument):
    inputs = _INDEX.astype(np.float32)
    with pytest.raises(ValueError, match=r"expected .*nearest:"):
        read_request(f"nearest:{argument}", index=_INDEX, inputs=inputs)
    with pytest.raises(ValueError, match="inputs that are arrays"):
        read_request("nearest:4:id=60", index=_INDEX)


def test_a_named_set_of_an_archive(tmp_path):
    np.savez(tmp_path / "sets.npz", first=np.array([9, 3, 9]), second=np.array([60]))
    assert _read(f"{tmp_path}/sets.npz:first").tolist() == [3, 9]
    with pytest.raises(ValueError, match="expected a name among first, second"):
        _read(f"{tmp_path}/sets.npz:third")
    with pytest.raises(FileNotFoundError, match="expected an archive of forget sets"):
        _read(f"{tmp_path}/none.npz:first")


_ATTRIBUTES = {
    "client": _INDEX // 12,
    "family": np.array([f"F{i % 4:04d}" for i in _INDEX.tolist()]),
    "age": _INDEX.astype(np.float32),
}


def _of(request, **arguments):
    return read_request(request, index=_INDEX, attributes=_ATTRIBUTES, **arguments).tolist()


def test_attributes_select_by_values_and_ranges():
    assert _of("client:2") == [24, 27, 30, 33]
    assert _of("client:2,0") == [0, 3, 6, 9, 24, 27, 30, 33]
    assert _of("client:1-2, 9-400") == [12, 15, 18, 21, 24, 27, 30, 33, 108, 111, 114, 117]
    assert _of("family:F0001") == [9, 21, 33, 45, 57, 69, 81, 93, 105, 117]
    assert len(_of("family:F0001,F0003")) == 20
    assert _of("age:9-15") == [9, 12, 15]


def test_targets_below_and_above_a_number():
    numbers = _INDEX / np.float32(10)
    assert _of("below:0.6", targets=numbers) == [0, 3]  # 6 is not below
    assert _of("above:11", targets=numbers) == [111, 114, 117]
    assert _of("below:-.5", targets=numbers - 1) == [0, 3]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ("client:2,77", r"the attribute client among 0, 1, 2, .*, found '77'; choose"),
        ("client:20-30", "found '20-30'"),
        ("client:x", "expected an integer at client:x, found 'x'"),
        ("client:0-9", "leaves examples to retain, found all 40"),
        ("family:1", "among F0000, F0001, F0002, F0003, found '1'"),
        (
            "person:3",
            r"below:3.5, client:\.\.\., family:\.\.\., age:\.\.\. or the path",
        ),
        ("below:x", "expected a number at below:x, found 'x'"),
        ("below:nan", "expected a number at below:nan"),
        ("below:-1", "expected at least one id to forget, found none in 'below:-1'"),
    ],
)
def test_bad_attributes_and_bounds_are_one_sentence(request_, message):
    with pytest.raises(ValueError, match=message) as caught:
        _of(request_, targets=_INDEX.astype(np.float32))
    assert str(caught.value).startswith("expected ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("targets", [None, _TARGETS, np.zeros((40, 2), np.float32)])
def test_bounds_need_one_float_target_an_example(targets):
    with pytest.raises(ValueError, match="expected one number for each example as targets"):
        _of("below:3", targets=targets)


def test_ids_below_zero_are_selected_as_others_are(tmp_path):
    index, inputs = np.array([-7, 3, -1, 5]), np.array([[0.0], [5.0], [1.0], [9.0]])
    for request in ("ids:-7,-1", "nearest:2:id=-7", _csv(tmp_path, "id\n-1\n-7\n")):
        assert read_request(request, index=index, inputs=inputs).tolist() == [-7, -1]


def _csv(folder, text):
    (folder / "forget.csv").write_text(text)
    return str(folder / "forget.csv")


def _cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize("size", [0, 4, 40, 150, -3])
def test_an_archive_that_is_cut_is_one_sentence(tmp_path, size):
    path = tmp_path / "sets.npz"
    np.savez(path, class_3=np.array([3, 9]))
    assert _read(f"{path}:class_3").tolist() == [3, 9]
    _cut(path, size)
    with pytest.raises(ValueError, match=r"^expected an archive of forget sets.* damaged"):
        _read(f"{path}:class_3")


def test_an_archive_that_holds_something_else_is_one_sentence(tmp_path):
    path = tmp_path / "sets.npz"
    with path.open("wb") as file:
        np.save(file, np.array([3, 9]))  # an array alone
    with pytest.raises(ValueError, match=r"^expected an archive of forget sets"):
        _read(f"{path}:class_3")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("class_3.npy", "\x03\x09")  # whose bytes are no ids
    with pytest.raises(ValueError, match=r"^expected an archive of forget sets"):
        _read(f"{path}:class_3")
    np.savez(path, class_3=np.array([None]))
    with pytest.raises(ValueError, match=r"^expected an archive of forget sets"):
        _read(f"{path}:class_3")


@pytest.mark.parametrize(
    "text, said",
    [
        ('id\n"' + "9" * 140_000 + '"', r"^expected comma-separated cells at .*:2, found"),
        ('{"id":' * 20_000, r'^expected \{"id": INTEGER\} at .*:1, found'),
        ('{"id": ' + "9" * 5_000 + "}", r'^expected \{"id": INTEGER\} at .*:1, found'),
    ],
)
def test_a_line_that_no_reader_takes_is_one_sentence(tmp_path, text, said):
    with pytest.raises(ValueError, match=said):
        _read(_write(tmp_path / "forget.csv", text))
