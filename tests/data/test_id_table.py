"""Ids as people have them: text, large numbers, UUIDs, and subjects that own many rows."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

import mu_jax as mu
from mu_jax.data.id_table import require_same

NAMES = ["img_d", "img_a", "img_c", "img_b"]
USERS = ["u_2", "u_1", "u_2", "u_3"]
TABLE = mu.id_table(NAMES, user=USERS)
DATA = mu.batches(np.ones((4, 1)), np.arange(4), batch_size=2, index=TABLE.numbers(NAMES))


def test_numbers_do_not_depend_on_the_order_of_the_rows():
    assert TABLE.numbers(["img_a", "img_b", "img_c", "img_d"]).tolist() == [0, 1, 2, 3]
    order = [2, 0, 3, 1]
    other = mu.id_table([NAMES[i] for i in order], user=[USERS[i] for i in order])
    assert other.digest == TABLE.digest
    assert other.numbers(NAMES).dtype == np.int32


@pytest.mark.parametrize(
    "ids",
    [
        [9_000_000_000, -1, 7, 12],
        ["9000000000", "-1", "7", "12"],
        np.array([9_000_000_000, -1, 7, 12]),
        np.array([9_000_000_000, -1, 7, 12], object),
        np.array([b"9000000000", b"-1", b"7", b"12"]),
    ],
)
def test_numbers_too_large_for_the_library_are_ids_in_text(ids):
    table = mu.id_table(ids)
    assert table.names(table.numbers(ids)).tolist() == ["9000000000", "-1", "7", "12"]
    assert sorted(table.index.tolist()) == [0, 1, 2, 3]
    assert table.digest == mu.id_table(["9000000000", "-1", "7", "12"]).digest


def test_whole_numbers_that_fit_stand_for_themselves():
    table = mu.id_table([30, 4, -5], user=[7, 8, 7])
    assert table.numbers([4, 30]).tolist() == [4, 30] and table.index.tolist() == [-5, 4, 30]
    assert table.owned("user", [7]).tolist() == [-5, 30]
    assert mu.id_table(["07", "7"]).index.tolist() == [0, 1]  # no numbers: two texts


def test_uuids():
    keys = [uuid.UUID(int=9), uuid.UUID(int=3)]
    table = mu.id_table(keys)
    assert table.numbers(keys).tolist() == [1, 0]
    assert table.numbers([str(keys[0])]).tolist() == [1]


def test_pandas_series_and_index():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"id": NAMES, "user": USERS}, index=[9, 8, 7, 6])
    table = mu.id_table(frame["id"], user=frame["user"])
    assert table.digest == TABLE.digest
    assert table.numbers(frame.set_index("id").index).tolist() == TABLE.numbers(NAMES).tolist()
    forget, _ = mu.split(DATA, frame["id"][frame["user"] == "u_2"], ids=table)
    assert table.names(forget.index).tolist() == ["img_d", "img_c"]
    numbers = pandas.Series([3, 1])  # without a table: the numbers of the data
    assert mu.split(DATA, numbers)[0].index.tolist() == [3, 1]
    missing = pandas.Series([1, None, 3])
    with pytest.raises(ValueError, match=r"found 1\.0 at row 0: read whole numbers with missing"):
        mu.id_table(missing)


@pytest.mark.parametrize(
    ("request_", "names"),
    [
        (["img_c"], ["img_c"]),
        (np.array(["img_c", "img_a", "img_c"]), ["img_a", "img_c"]),
        ("user:u_2", ["img_d", "img_c"]),
        ("user:u_1,u_3", ["img_a", "img_b"]),
        ('id:img_b, "img_a"', ["img_a", "img_b"]),
    ],
)
def test_split_by_the_ids_and_subjects_that_people_have(request_, names):
    stream = mu.stream([(np.ones(1), 0)] * 4, batch_size=2, index=TABLE.numbers(NAMES))
    for data in (DATA, stream):
        forget, retain = mu.split(data, request_, ids=TABLE)
        assert TABLE.names(forget.index).tolist() == names
        assert set(TABLE.names(retain.index)) == {*NAMES} - {*names}


def test_a_subject_whose_rows_are_in_two_splits():
    names = ["img_d", "img_b"]
    part = mu.batches(np.ones((2, 1)), np.ones(2), batch_size=1, index=TABLE.numbers(names))
    forget, _ = mu.split(part, "user:u_2", ids=TABLE)  # img_c is in the other one
    assert TABLE.names(forget.index).tolist() == ["img_d"]
    with pytest.raises(ValueError, match=r"expected ids of the 2 examples, .* \(img_c\)"):
        mu.split(part, ["img_c"], ids=TABLE)


def test_ids_with_commas_and_quotes_survive_a_file(tmp_path):
    names = ['a,"b"', "grün", "a"]
    table = mu.id_table(names, user=["x, y", "z", "z"])
    table.save(tmp_path / "ids.csv")
    again = mu.load_id_table(tmp_path / "ids.csv")
    assert again.digest == table.digest and again.ids.tolist() == table.ids.tolist()
    assert again.owned("user", ["x, y"]).tolist() == table.numbers(names[:1]).tolist()


REFUSED = {
    "a set": (lambda: mu.id_table({"a", "b"}), "ids in an order, found a set, which has none"),
    "a set as index": (
        lambda: mu.batches(np.ones((2, 1)), np.ones(2), batch_size=1, index={1, 2}),
        "ids in an order, found a set",
    ),
    "a set for a stream": (
        lambda: mu.stream([(1, 2)], batch_size=1, index={1}),
        "ids in an order, found a set",
    ),
    "a set to split": (lambda: mu.split(DATA, {"img_a"}, ids=TABLE), "found a set"),
    "text as index": (
        lambda: mu.batches(np.ones((2, 1)), np.ones(2), batch_size=1, index=["a", "b"]),
        r"expected integer ids, found <U1: .* mu.id_table\(ids\).numbers\(ids\)",
    ),
    "too large": (
        lambda: mu.batches(np.ones((1, 1)), np.ones(1), batch_size=1, index=[2**31]),
        r"found 2147483648: number the examples by mu.id_table\(ids\).numbers\(ids\)",
    ),
    "twice": (lambda: mu.id_table(["a", "b", "a"]), r"used more than once \(a\): give each row"),
    "none": (lambda: mu.id_table([]), "at least one id"),
    "missing": (lambda: mu.id_table(["a", None]), "found None at row 1"),
    "a float": (lambda: mu.id_table([1.0, 2.5]), "found 1.0 at row 0"),
    "a truth": (lambda: mu.id_table([True]), "found True at row 0"),
    "empty": (lambda: mu.id_table(["a", ""]), "found '' at row 1"),
    "spaces": (lambda: mu.id_table([" a"]), "found ' a' at row 0"),
    "one text": (lambda: mu.id_table("abc"), "one text 'abc': put it in a list"),
    "two axes": (lambda: mu.id_table(np.ones((2, 2), int)), r"found the shape \(2, 2\)"),
    "a reserved word": (lambda: mu.id_table(["a"], index_=["b"], **{"class": [1]}), "'class'"),
    "subjects of other rows": (lambda: mu.id_table(["a", "b"], user=["x"]), "one user for each"),
    "unknown id": (lambda: mu.split(DATA, ["img_x"], ids=TABLE), r"found 1 unknown \(img_x\)"),
    "unknown subject": (lambda: mu.split(DATA, "user:u_9", ids=TABLE), r"1 unknown \(u_9\)"),
    "unknown kind": (lambda: TABLE.owned("clinic", ["x"]), "among user, found 'clinic'"),
    "no table": (lambda: mu.split(DATA, "user:u_2"), "give the table of ids by ids="),
    "names without a table": (lambda: mu.split(DATA, ["img_a"]), "table of ids by ids="),
    "another selector": (lambda: TABLE.find("class:3"), "one of id:..., user:..., found 'class:3'"),
    "nobody": (lambda: TABLE.find("user:"), "expected user:VALUE"),
    "foreign numbers": (
        lambda: mu.split(DATA.replace(index=DATA.index + 9), ["img_a"], ids=TABLE),
        "expected numbers of the table of ids, found 4 others",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_sentence(case):
    call, message = REFUSED[case]
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        call()
    text = str(caught.value)
    assert text.startswith("expected") and "\n" not in text and ". " not in text


CHANGED = {
    "same": (TABLE, [], None),
    "another order": (mu.id_table(NAMES[::-1], user=USERS[::-1]), [], None),
    "a forgotten row is gone": (TABLE.without([3]), [3], None),
    "a row is gone": (TABLE.without([3]), [2], r"found 1 that are missing .*\(img_d\)"),
    "a new row": (mu.id_table([*NAMES, "img_e"], user=[*USERS, "u"]), [], r"are new \(img_e\)"),
    "numbers have moved": (
        mu.id_table(NAMES[1:], user=USERS[1:], index=[1, 0, 2]),
        [3],
        "expected the number 2 of 'img_c', .* found 0: number the rows by the table that was kept",
    ),
    "another owner": (
        mu.id_table(NAMES, user=["u_1", *USERS[1:]]),
        [],
        "expected the user u_2 of 'img_d', .* found u_1",
    ),
    "other subjects": (mu.id_table(NAMES), [], "expected the subjects .'user'."),
}


@pytest.mark.parametrize("case", CHANGED)
def test_a_table_that_has_changed_is_refused(case):
    given, gone, message = CHANGED[case]
    if message is None:
        require_same(TABLE, given, gone)
        return
    with pytest.raises(ValueError, match=message):
        require_same(TABLE, given, gone)


@pytest.mark.parametrize(
    "text", ["", "id\n1\n", "index,id\nx,a\n", "index,id\n1\n", 'index,id\n1,"a']
)
def test_another_file_is_no_table(tmp_path, text):
    (tmp_path / "ids.csv").write_text(text)
    with pytest.raises(ValueError, match="expected a table of ids with the columns index and id"):
        mu.load_id_table(tmp_path / "ids.csv")
