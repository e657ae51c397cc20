"""A path is local or in a bucket that can be served; nothing else becomes a folder here."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

import mu_jax as mu
from experiments import (
    benchmark,
    corrective,
    ensemble,
    evaluate,
    nomus,
    quickstart,
    regression,
    train,
    unlearn,
)
from experiments.lib.command_line import parse
from experiments.lib.paths import check_file, check_storage, check_workdir
from experiments.sweep import __main__ as sweep
from launch_tpu import preflight
from launch_tpu.hosts.spec import from_dict
from mu_jax import _paths, datasets, ensembles, reporting
from mu_jax.store import Store, latest_state, save_state
from mu_jax.store.run_state import clear

TREE = {"w": np.ones(2)}
RECORD = reporting.Record("retrain", reporting.ForgetSet("class 3", 125), seed=0)
ENTRIES = {
    "Store": lambda path: Store(path),
    "save_state": lambda path: save_state(path, 1, TREE),
    "latest_state": lambda path: latest_state(path, TREE),
    "resumable": lambda path: mu.resumable(path, config={}).__enter__(),
    "stored": lambda path: ensembles.stored(path, {}, lambda numbers: numbers, 1),
    "save_margins": lambda path: ensembles.save_margins(
        path, ensembles.Margins(np.ones((1, 2)), np.arange(2), "")
    ),
    "load_margins": lambda path: ensembles.load_margins(path),
    "append": lambda path: reporting.append(path, RECORD),
    "read": lambda path: reporting.read(path),
    "write_request": lambda path: datasets.write_request(path, [1]),
    "read_request": lambda path: datasets.read_request(path, index=np.arange(3)),
    "read_archive": lambda path: datasets.read_request(f"{path}.npz:x", index=np.arange(3)),
    "clear": lambda path: clear(path),
    "load": lambda path: datasets.load("digits", "train", data_dir=path),
    "source": lambda path: datasets.source("cifar10", "train", data_dir=path),
    "info": lambda path: datasets.info("cifar10", data_dir=path),
    "workdir": check_workdir,
    "file": check_file,
    "preflight": lambda path: written_by_preflight(path),
}
BINARIES = {
    benchmark: [],
    corrective: [],
    ensemble: [],
    evaluate: ["--request=class:3"],
    nomus: [],
    quickstart: [],
    regression: [],
    sweep: ["--sweep=sweep.json"],
    train: [],
    unlearn: ["--request=class:3"],
}


def command(module, *further):
    """Reads the command line of a binary, which does that before all else."""
    return lambda path: parse(module.FLAGS, ["binary", f"--workdir={path}", *further])


ENTRIES |= {module.__name__: command(module, *more) for module, more in BINARIES.items()}


def written_by_preflight(path):
    parse(preflight.FLAGS, ["preflight", "--topology=v5e:2x2", f"--json={path}"])
    preflight.destination()


def launched(path):
    """A launch, which is refused before hosts are asked for; the hosts have the packages."""
    fields = {"name": "a", "module": "experiments.train", "topology": "v5e:2x2", "max_hours": 1.0}
    return from_dict({**fields, "engine": "local", "workdir": path})


@pytest.mark.parametrize("path", ["s3://bucket/runs", "az://bucket/x", "memory://x", "gs://B/x"])
@pytest.mark.parametrize("entry", [*ENTRIES.values(), launched], ids=[*ENTRIES, "launch"])
def test_a_scheme_that_cannot_be_served_is_refused_and_makes_nothing(
    tmp_path, monkeypatch, entry, path
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"expected .* or gs://bucket/folder, found '"):
        entry(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_a_bucket_without_its_packages_is_refused_with_the_command(tmp_path, monkeypatch, entry):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_paths, "_served", lambda: False)
    with pytest.raises(ValueError, match=r"found none installed; run pip install 'mu_jax\[cloud\]"):
        entry("gs://bucket/runs")
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_whose_slash_a_local_path_has_lost_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="found 'gs:/bucket/runs'"):
        Store(pathlib.Path("gs://bucket/runs"))
    assert list(tmp_path.iterdir()) == []


def test_a_path_in_a_bucket_keeps_its_scheme_and_is_normalized(monkeypatch):
    pytest.importorskip("gcsfs", reason="needs pip install -e '.[cloud]'")
    for text in ("gs://bucket/a/b", "gs://bucket//a/./c/../b/"):
        path = _paths.absolute(text)
        assert (str(path), str(path / "c")) == ("gs://bucket/a/b", "gs://bucket/a/b/c")
        assert _paths.in_bucket(path) and _paths.absolute(path) == path


@pytest.mark.parametrize("storage", [None, "sqlite:////tmp/studies.db", "sqlite+pysqlite:///a"])
def test_a_search_in_sqlite_needs_a_folder(storage):
    with pytest.raises(ValueError, match="found SQLite, which needs a local file; add --storage="):
        check_storage("gs://bucket/sweep", storage)
    check_storage("runs/sweep", storage)
    check_storage("gs://bucket/sweep", "postgresql+psycopg://user@host/name")


def test_local_paths_are_what_they_were(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    expected = {"runs": tmp_path / "runs", "~/x": pathlib.Path("/home/somebody/x")}
    expected |= {"/a/../b": pathlib.Path("/b"), "a:b/c": tmp_path / "a:b/c"}
    for text, path in expected.items():
        assert _paths.absolute(text) == path and not _paths.in_bucket(path)
