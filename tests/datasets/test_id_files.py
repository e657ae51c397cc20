"""Requests by people's ids and subjects, in every file that people have."""

from __future__ import annotations

import numpy as np
import pytest

import mu_jax as mu
from mu_jax.datasets import read_request, write_request

NAMES = ["img_d", "img_a", "img_c", "12,5", "img_b"]
TABLE = mu.id_table(NAMES, user=["u_2", "u_1", "u_2", "Ä. Müller", "u_3"])
INDEX = TABLE.numbers(NAMES)


def read(request, table=TABLE):
    found = read_request(request, index=INDEX, targets=np.arange(5), ids=table)
    return TABLE.names(found).tolist()


FILES = {
    "header": ("id\nimg_c\nimg_a\n", ["img_a", "img_c"]),
    "byte order and CRLF": (
        "\ufeffid,why\r\nimg_c,x\r\n\r\nimg_a,y\r\n",
        ["img_a", "img_c"],
    ),
    "quoted": ('why,id\n"moved, gone","12,5"\n"two\nlines",img_a\n', ["12,5", "img_a"]),
    "no header": ("img_c\nimg_a\nimg_c\n", ["img_a", "img_c"]),
    "no header, other columns": ("img_c,0.5\nimg_a,0.1\n", ["img_a", "img_c"]),
    "subjects": ("User,when\nu_2,2024\n", ["img_c", "img_d"]),
    "subjects beside ids": ("user,id\nu_2,img_c\n", ["img_c"]),
    "numbers of the table": ("index\n0\n3\n", ["12,5", "img_c"]),
    "JSON": ('{"id": "img_c"}\n{"user": "Ä. Müller"}\n"img_a"\n', ["12,5", "img_a", "img_c"]),
    "JSON and CRLF": (
        '{"user": "u_2", "x": "\u2028"}\r\n{"index": 1}\r\n',
        ["img_a", "img_c", "img_d"],
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_files_of_every_make(tmp_path, case):
    text, expected = FILES[case]
    (tmp_path / "forget").write_bytes(text.encode())
    assert read(tmp_path / "forget") == expected


def test_a_line_separator_inside_a_cell_ends_no_line(tmp_path):
    (tmp_path / "forget.csv").write_text("why,index\nleft\u2028us,2\n\x85,1\n")
    assert read(tmp_path / "forget.csv", None) == ["img_a", "img_b"]


def test_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    def write(file, **columns):
        parquet.write_table(pyarrow.table(columns), tmp_path / file)
        return tmp_path / file

    assert read(write("a.parquet", why=["x", "y"], id=["img_c", "12,5"])) == ["12,5", "img_c"]
    assert read(write("subjects", user=["u_2"])) == ["img_c", "img_d"]
    assert read(write("numbers", index=[4, 1])) == ["img_a", "img_d"]
    assert read(write("no table", id=np.array([4, 1])), None) == ["img_a", "img_d"]
    with pytest.raises(ValueError, match=r"expected an integer at row 1 of .*found None"):
        read(write("missing", id=[4, None]), None)
    with pytest.raises(ValueError, match=r"a column among id, index, user in .*, found name"):
        read(write("other", name=["img_c"]))
    (tmp_path / "torn").write_bytes((tmp_path / "a.parquet").read_bytes()[:100])
    with pytest.raises(ValueError, match=r"expected a Parquet file in .*damaged"):
        read(tmp_path / "torn")


def test_selectors():
    assert read("user:u_2") == ["img_c", "img_d"]
    assert read('id:img_a,"12,5"') == ["12,5", "img_a"]
    assert read("ids:0-1") == ["12,5", "img_a"]  # numbers of the table
    assert read("class:0") == ["img_d"]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ("id:img_x", r"found 1 unknown \(img_x\)"),
        ("user:u_9", r"expected a user that owns examples, found 1 unknown \(u_9\)"),
        ("clinic:3", "below:3.5, id:..., user:... or the path of a file"),
    ],
)
def test_bad_selectors(request_, message):
    with pytest.raises(ValueError, match=message):
        read(request_)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id\nimg_x\n", r"found 1 unknown \(img_x\).*found in '.*forget.csv'"),
        ("img_a,img_b\n", "one id a line, .* found 2 ids and no header"),
        ("id,x\n,1\n", "forget.csv:2, found ''"),
        ('id\n"img_a\n', "comma-separated cells at .*forget.csv:2"),
        ('{"id": 1.5}\n', "forget.csv:1"),
        ('{"user": null}\n', "forget.csv:1"),
        ("index\nimg_a\n", "expected an integer at .*forget.csv:2, found 'img_a'"),
    ],
)
def test_bad_files(tmp_path, text, message):
    (tmp_path / "forget.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "forget.csv")


def test_a_request_is_written_with_the_ids_that_people_have(tmp_path):
    write_request(tmp_path / "forget.csv", INDEX[:4], table=TABLE)
    assert read(tmp_path / "forget.csv") == ["12,5", "img_a", "img_c", "img_d"]
