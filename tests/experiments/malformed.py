"""Malformed inputs for the binaries, drawn from a seed: flags, settings, files, working folders."""

from __future__ import annotations

import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mu_jax import reporting
from mu_jax.reporting import ForgetSet, Metric, Record

# Fields of the configurations, requests and values that are wrong for most places.
FIELDS = [
    "dataset data_dir limit model model.name model.features training training.optimizer",
    "training.learning_rate training.weight_decay training.batch_size training.epochs batch_size",
    "methods methods.ssd methods.ssd.alpha methods.ssd.dampening methods.iau.optimizer methods.iau",
    "methods.finetune.epochs methods.finetune.batch_size methods.finetune.optimizer selection loss",
]
FIELDS = " ".join(FIELDS).split()
OWN_FIELDS = {
    "corrective": "trigger trigger.size manipulations manipulations.poison known_seed methods_of "
    "manipulations.poison.count manipulations.interclass.classes manipulations.poison.label",
    "regression": "forget relearning relearning.epochs relearning.learning_rate expected",
}
VALUES: list[Any] = [
    *(None, True, -1, 0, 3, 2.5, -0.5, 1e-30, 1e30, float("nan"), float("inf"), 10**20),
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


class Case(NamedTuple):
    """A call of a binary; what it is about, in words."""

    binary: str
    arguments: list[str]
    about: str


class Folders(NamedTuple):
    """scratch: new for every case. trained: makes a copy of a working folder with a model."""

    scratch: Path
    trained: Callable[[Path], Path]


BINARIES = ("benchmark", "corrective", "ensemble", "nomus", "quickstart", "regression", "train")
FLAGS = {
    "benchmark": ("models", "requests", "workdir", "oracles"),
    "corrective": ("seeds", "fractions", "manipulations", "workdir"),
    "ensemble": ("models", "seed", "fraction", "request", "workdir", "export"),
    "evaluate": ("workdir", "request", "versions", "retrain"),
    "nomus": ("seeds", "request", "workdir"),
    "quickstart": ("seeds", "first_seed", "models", "request", "workdir"),
    "regression": ("seeds", "workdir"),
    "report": ("markdown",),
    "train": ("seed", "workdir"),
    "unlearn": ("workdir", "request", "method", "set", "seed", "data_dir", "swap", "dry_run"),
}
BASE = {"corrective": "corrective_digits", "nomus": "nomus_digits", "regression": "diabetes"}


def draw(seed: int, folders: Folders) -> Case:
    """One malformed input."""
    rng = random.Random(seed)
    kind = rng.choice([a_flag, a_setting, a_configuration, a_request, a_workdir, records, oracles])
    return kind(rng, folders)


def _workdir(binary: str, folders: Folders) -> list[str]:
    if binary == "report":
        return []
    if binary in ("unlearn", "evaluate"):
        return [f"--workdir={folders.trained(folders.scratch / 'run')}"]
    return [f"--workdir={folders.scratch / 'run'}"]


def a_flag(rng: random.Random, folders: Folders) -> Case:
    """A flag with a value of another kind, without one, twice, or misspelled."""
    binary = rng.choice(list(FLAGS))
    name, value = rng.choice(FLAGS[binary]), rng.choice(TEXTS)
    if name in ("workdir", "export"):
        value = rng.choice(["", "/dev/null/x", "/proc/nosuch", "a" * 300, "/dev/null"])
    wrong = rng.choice(
        [[f"--{name}={value}"], [f"--{name}"], [f"--{name}x={value}"], [value], [f"--no{name}"]]
    )
    needed = ["--request=class:3"] if binary in ("unlearn", "evaluate") else []
    return Case(binary, [*_workdir(binary, folders), *needed, *wrong], f"a flag: {wrong}")


def a_setting(rng: random.Random, folders: Folders) -> Case:
    """A field of the configuration, or a hyper-parameter of a request, with a wrong value."""
    if rng.random() < 0.3:
        names = (
            "alpha",
            "dampening",
            "epochs",
            "batch_size",
            "learning_rate",
            "nosuch",
            "optimizer",
        )
        item = f"--set={rng.choice(names)}{rng.choice(['=', '=', '=', ':', ''])}{rng.choice(TEXTS)}"
        method = f"--method={rng.choice(['ssd', 'iau', 'finetune', 'neg_grad_plus', 'retrain'])}"
        arguments = [*_workdir("unlearn", folders), "--request=class:3", method, item, "--dry_run"]
        return Case("unlearn", arguments, f"a setting: {item}")
    binary = rng.choice(BINARIES)
    fields = FIELDS + OWN_FIELDS.get(binary, "").split()
    wrong = f"--config.{rng.choice(fields)}={rng.choice(TEXTS)}"
    return Case(binary, [*_workdir(binary, folders), wrong], f"a setting: {wrong}")


def a_configuration(rng: random.Random, folders: Folders) -> Case:
    """A configuration file that breaks, or whose fields are missing or of another kind."""
    binary = rng.choice(BINARIES)
    base = BASE.get(binary, "digits")
    lines = [f"from experiments.configs import {base}", "def get_config():"]
    lines += [f"  c = {base}.get_config().unlock()"]
    for _ in range(rng.randint(1, 2)):
        *parents, name = rng.choice(FIELDS + OWN_FIELDS.get(binary, "").split()).split(".")
        owner = "".join(f"[{each!r}]" for each in parents)
        if rng.random() < 0.5:
            lines.append(f"  c{owner}.pop({name!r}, None) if hasattr(c{owner}, 'pop') else None")
            lines.append(f"  if {name!r} in c{owner}: del c{owner}[{name!r}]")
        else:
            lines.append(
                "  with c.ignore_type(): nan, inf = float('nan'), float('inf');"
                f" c{owner}[{name!r}] = {rng.choice(VALUES)!r}"
            )
    lines.append("  return c")
    text = "\n".join(lines)
    broken = rng.random()
    if broken < 0.2:
        text = text[: rng.randrange(len(text))]
    elif broken < 0.3:
        text = rng.choice(
            ["\x00", "1 / 0", "raise SystemExit", "def get_config(a): ...", "(" * 500]
        )
    file = folders.scratch / "mine.py"
    file.write_text(text)
    return Case(
        binary, [*_workdir(binary, folders), f"--config={file}"], f"a configuration: {text}"
    )


def a_request(rng: random.Random, folders: Folders) -> Case:
    """A request that means nothing, or a file of one that is damaged."""
    binary = rng.choice(("benchmark", "ensemble", "nomus", "quickstart", "unlearn", "evaluate"))
    request = rng.choice(REQUESTS)
    if rng.random() < 0.6:
        request = str(_request_file(rng, folders.scratch / "request"))
    if rng.random() < 0.1:
        request += ":class_3"
    flag = f"--{'requests' if binary == 'benchmark' else 'request'}={request}"
    end = ["--dry_run"] if binary == "unlearn" else []
    return Case(binary, [*_workdir(binary, folders), flag, *end], f"a request: {request[:90]}")


def _request_file(rng: random.Random, stem: Path) -> Path:
    path = stem.with_suffix(rng.choice([".csv", ".jsonl", ".json", ".npz", ".npy", ".txt", ""]))
    kind = rng.random()
    if kind < 0.1:
        path.mkdir()
    elif path.suffix in (".npz", ".npy") and kind < 0.8:
        _arrays(rng, path)
    else:
        path.write_text(rng.choice(FILE_TEXTS))
    return path


def _arrays(rng: random.Random, path: Path) -> None:
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


def a_workdir(rng: random.Random, folders: Folders) -> Case:
    """A working folder that is a file, cannot be made, or holds something else."""
    binary = rng.choice([name for name in FLAGS if name != "report"])
    if binary in ("unlearn", "evaluate"):
        run = folders.trained(folders.scratch / "run")
        what = _damage_config(rng, run)
    else:
        run, what = _take_place(rng, folders.scratch / "run")
    end = ["--request=class:3"] if binary in ("unlearn", "evaluate") else []
    end += ["--dry_run"] if binary == "unlearn" else []
    return Case(binary, [f"--workdir={run}", *end], f"a working folder: {what}")


def _take_place(rng: random.Random, run: Path) -> tuple[Path, str]:
    which = rng.choice(["file", "beneath", "link", "long", "results", "ensembles", "config.json"])
    if which in ("file", "beneath"):
        run.write_text("taken")
        return run / "x" if which == "beneath" else run, which
    if which == "link":
        run.symlink_to(run.with_name("nowhere"))
        return run, which
    if which == "long":
        return run / ("a" * 300), which
    run.mkdir()
    if which == "ensembles":
        (run / which).write_text("taken")
    else:
        (run / ("results.jsonl" if which == "results" else which)).mkdir()
    return run, which


def _damage_config(rng: random.Random, run: Path) -> str:
    path = run / "config.json"
    text = path.read_text()
    which = rng.choice(["cut", "text", "folder", "missing", "field", "bytes", "deep"])
    if which == "cut":
        path.write_text(text[: rng.randrange(len(text))])
    elif which == "text":
        path.write_text(rng.choice(["[]", "null", "3", '"x"', "{}", "", "[" * 20_000]))
    elif which == "bytes":
        path.write_bytes(bytes(rng.randrange(256) for _ in range(99)))
    elif which in ("folder", "missing"):
        path.unlink()
        if which == "folder":
            path.mkdir()
    else:
        path.write_text(json.dumps(_change(rng, json.loads(text), deep=which == "deep")))
    return which


def _change(rng: random.Random, values: dict[str, Any], *, deep: bool) -> dict[str, Any]:
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


def records(rng: random.Random, folders: Folders) -> Case:
    """A file of records that is damaged, for the report."""
    path = folders.scratch / "results.jsonl"
    metric = Metric(0.9, n=9, unit="fraction")
    found = [
        Record(method, ForgetSet("class 3", 9), seed, {"test accuracy": metric, "MIA": metric})
        for method in ("retrain", "ssd")
        for seed in (0, 1)
    ]
    lines = [reporting.to_json(record) for record in found]
    which = rng.choice(["change", "change", "change", "cut", "text", "bytes", "folder", "missing"])
    place = rng.randrange(len(lines))
    if which == "change":
        lines[place] = json.dumps(_change(rng, json.loads(lines[place]), deep=rng.random() < 0.7))
    elif which == "cut":
        lines[place] = lines[place][: rng.randrange(len(lines[place]))]
    elif which == "text":
        lines[place] = rng.choice(FILE_TEXTS)
    if which == "folder":
        path.mkdir()
    elif which == "bytes":
        path.write_bytes(bytes(rng.randrange(256) for _ in range(99)))
    elif which != "missing":
        path.write_text("\n".join(lines) + "\n")
    end = rng.choice([[], ["--markdown"], [str(path)]])
    return Case("report", [str(path), *end], f"records: {which}, {lines[place][:300]}")


def oracles(rng: random.Random, folders: Folders) -> Case:
    """A file of margins that is damaged, for the benchmark."""
    path = folders.scratch / f"oracles{rng.choice(['.npz', '.npy', '.csv'])}"
    if rng.random() < 0.8:
        _arrays(rng, path)
    else:
        path.write_text(rng.choice(FILE_TEXTS))
    arguments = [*_workdir("benchmark", folders), "--requests=class:3", f"--oracles={path}"]
    return Case("benchmark", arguments, f"oracles: {path.name} of {path.stat().st_size} bytes")
