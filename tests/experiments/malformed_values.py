"""Values, texts and files that are wrong for most places, and damage to good ones."""

from __future__ import annotations

import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

VALUES: list[Any] = [
    *(None, True, -1, 0, 3, 2.5, -0.5, 1e-30, 1e30, float("nan"), float("inf"), 10**20, 10**400),
    *("", "x", "sgd", "mlp", "adam", "\N{GRINNING FACE}", "a" * 300, "../..", "None", "{}"),
    *([], [1], [[]], ["a", "b"], {}, {"x": 1}, {"name": "mlp"}, (), (0,), (-1,), (2.5,)),
]
TEXTS = [
    *("", " ", "x", "-1", "0", "1.5", "nan", "inf", "1e999", "99999999999999999999", "[]", "{}"),
    *(
        "None",
        "true",
        "(0,)",
        "(-1,)",
        "(1, 2",
        "\N{GRINNING FACE}",
        "a" * 300,
        "a,b",
        ",",
        "=",
        "'",
    ),
    *("/dev/null", "/proc/nosuch/x", "a" * 5000, "%s", "\n", "--", "class:3"),
]
REQUESTS = [
    *("", ":", "class", "class:", "class:-1", "class:99", "class:x", "class:1.5", "class:3:4"),
    *("random:", "random:0", "random:-5", "random:1e9", "random:nan", "random:2.5", "random:inf"),
    *("random:0.5:seed=", "random:5:sed=1", "random:5:seed=-1", "random:5:seed=1:seed=2"),
    *("ids:", "ids:,", "ids:1,,2", "ids:1.5", "ids:-1", "ids:99999999999999999999", "ids:x"),
    *("ids:1,1", "nearest:5", "nearest:5:id=x", "nearest:0:id=6", "nearest:9999:id=6"),
    *("below:", "below:x", "below:nan", "above:1e999", "below:-5", "client:3", "client:3-1"),
    *(
        "nosuch.csv",
        "/",
        ".",
        "/dev/null",
        "a" * 300,
        "a" * 5000,
        "sets.npz:x",
        "\N{GRINNING FACE}:3",
    ),
]
FILE_TEXTS = [
    *("", "\n", "id", "id\n", "1,5,9", "id\n1\nx", "id\n1.5", "id\n-1", "id\n999999", "a,b\n1,2\n"),
    *("id\n99999999999999999999", "id\n1\n1\n", 'id\n"' + "1" * 140_000 + '"', "{", "[]", "null"),
    *('{"id": 1', '{"id": null}', '{"id": [1]}', '{"ids": [1]}', '{"id": 1}\n3', "[" * 20_000),
    *("{}", "1e9", "\ufeffid\n1", "\x00\x01", "\N{GRINNING FACE}", '{"id": 1e400}', '{"id": true}'),
]


# Texts of one field of JSON that `json.dumps` does not write.
LITERALS = [
    *("NaN", "-Infinity", "1e999", "9" * 400, "9" * 5000, "-0", "1e-400", "[" * 5000 + "]" * 5000),
    *(r'"\ud800"', r'"\u0000"', '"a\tb"', "'x'", "None", "{1: 2}", "[1,]", "01", "", "tru"),
]
DAMAGES = (
    *("change", "change", "deep", "deep", "literal", "literal", "twice", "list", "cut", "text"),
    *("bytes", "mark", "wide", "folder", "missing", "link"),
)


class Case(NamedTuple):
    """A call of a binary; what it is about, in words."""

    binary: str
    arguments: list[str]
    about: str


class Folders(NamedTuple):
    """scratch: new for every case. trained: makes a copy of a working folder with a model."""

    scratch: Path
    trained: Callable[[Path], Path]


def arrays(rng: random.Random, path: Path) -> None:
    """A file of arrays that is cut, or holds something else."""
    values = rng.choice(
        [
            np.arange(3),
            np.array(["a"]),
            np.zeros((2, 2)),
            np.array([0.5]),
            np.array([None]),
            np.zeros(0),
            np.array([1e30]),
            np.array(3),
        ]
    )
    which = rng.randrange(5)
    if which == 0:
        with path.open("wb") as file:
            np.savez(file, **{rng.choice(["ids", "x", "class_3", "values"]): values})
    elif which == 1:
        with path.open("wb") as file:
            np.save(file, values)
    elif which == 2:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(rng.choice(["x.npy", "x.txt", "../x"]), "not an array")
    else:
        with path.open("wb") as file:
            np.savez(file, class_3=values)
        whole = path.read_bytes()
        path.write_bytes(whole[: rng.randrange(len(whole))] if which == 3 else b"PK" + whole[:40])


def change(rng: random.Random, values: dict[str, Any], *, deep: bool) -> dict[str, Any]:
    """JSON with one entry removed or of another kind."""
    owner, names = values, sorted(values)
    name = rng.choice(names)
    while deep and isinstance(owner[name], dict) and owner[name] and rng.random() < 0.8:
        owner = owner[name]
        name = rng.choice(sorted(owner))
    if rng.random() < 0.4:
        del owner[name]
    else:
        owner[name] = json.loads(json.dumps(rng.choice(VALUES)))
    return values


def damage(rng: random.Random, values: dict[str, Any], path: Path) -> str:
    """Write a good object as damaged JSON, or something else in its place; how, in a word."""
    which = rng.choice(DAMAGES)
    text = json.dumps(values)
    if which == "folder":
        path.mkdir()
    elif which == "link":
        path.symlink_to(path)
    elif which == "bytes":
        path.write_bytes(bytes(rng.randrange(256) for _ in range(99)))
    elif which == "mark":
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    elif which == "wide":
        path.write_text(text, "utf-16")
    elif which != "missing":
        path.write_text(_damaged(rng, which, values, text))
    return which


def _damaged(rng: random.Random, which: str, values: dict[str, Any], text: str) -> str:
    if which in ("change", "deep"):
        return json.dumps(change(rng, json.loads(text), deep=which == "deep"))
    if which == "cut":
        return text[: rng.randrange(len(text))]
    if which == "text":
        return rng.choice(FILE_TEXTS)
    if which == "list":
        return f"[{text}]"
    name = rng.choice(sorted(values))
    given = rng.choice(LITERALS) if which == "literal" else json.dumps(rng.choice(VALUES))
    rest = {key: value for key, value in values.items() if key != name or which == "twice"}
    return f'{json.dumps(rest)[:-1]}, "{name}": {given}}}'
