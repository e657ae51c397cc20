"""Making the built-in datasets: once, whole, and without a network."""

import os
import pickle
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from mu_jax import datasets

_LOAD = "from mu_jax import datasets; print(len(datasets.load('digits', data_dir={!r}).index))"
_DIE = """
import os, signal
from mu_jax import datasets
from mu_jax.datasets.digits import MuDigits
whole = MuDigits._generate_examples
def half(self, rows):
    for count, record in enumerate(whole(self, rows)):
        if count == 700:
            os.kill(os.getpid(), signal.SIGKILL)
        yield record
MuDigits._generate_examples = half
datasets.load('digits', data_dir={!r})
"""


def _start(code, folder):
    return subprocess.Popen(
        [sys.executable, "-c", code.format(str(folder))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_processes_that_start_together_agree(tmp_path):
    processes = [_start(_LOAD, tmp_path / "new") for _ in range(3)]
    answers = [process.communicate(timeout=100) for process in processes]
    assert [answer[0].strip() for answer in answers] == ["1500"] * 3, answers
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mu_digits"]


def test_a_late_process_keeps_the_first_ones_dataset(tmp_path, monkeypatch):
    # The other process finishes while this one is still preparing.
    from mu_jax.datasets.digits import MuDigits

    prepare = MuDigits.download_and_prepare

    def slow(self):
        monkeypatch.setattr(MuDigits, "download_and_prepare", prepare)
        assert len(datasets.load("digits", data_dir=tmp_path).index) == 1500
        (tmp_path / "mu_digits" / "1.0.0" / "first").touch()
        prepare(self)

    monkeypatch.setattr(MuDigits, "download_and_prepare", slow)
    assert len(datasets.load("digits", data_dir=tmp_path).index) == 1500
    assert (tmp_path / "mu_digits" / "1.0.0" / "first").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["mu_digits"]


@pytest.mark.slow
def test_a_killed_preparation_leaves_no_half_dataset(tmp_path):
    process = _start(_DIE, tmp_path)
    output = process.communicate(timeout=100)
    assert process.returncode == -signal.SIGKILL, output
    assert not (tmp_path / "mu_digits").exists()
    assert len(datasets.load("digits", data_dir=tmp_path).index) == 1500


def test_the_dataset_appears_by_one_rename(tmp_path, monkeypatch):
    rename, seen = os.rename, []

    def watch(old, new):
        seen.append((sorted(os.listdir(old)), os.path.exists(new), str(new)))
        rename(old, new)

    monkeypatch.setattr(os, "rename", watch)
    datasets.load("digits", data_dir=tmp_path)
    folder = tmp_path / "mu_digits" / "1.0.0"
    assert seen[-1] == (sorted(os.listdir(folder)), False, str(folder))


def test_a_failed_preparation_cleans_up(tmp_path, monkeypatch):
    from mu_jax.datasets.digits import MuDigits

    def fail(self):
        raise RuntimeError("disk full")

    monkeypatch.setattr(MuDigits, "download_and_prepare", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        datasets.load("digits", data_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_incomplete_folder_is_reported(tmp_path):
    broken = tmp_path / "mu_digits" / "1.0.0"
    broken.mkdir(parents=True)
    (broken / "mu_digits-train.array_record-00000-of-00001").touch()
    with pytest.raises(FileExistsError, match=r"expected a complete dataset .* delete it$"):
        datasets.load("digits", data_dir=tmp_path)


def test_a_data_dir_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="expected a folder that can be written to"):
        datasets.load("digits", data_dir=tmp_path / "file")


def test_the_environment_names_the_default_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MU_JAX_DATA_DIR", str(tmp_path / "cache"))
    assert datasets.info("digits").split_sizes["train"] == 1500
    assert (tmp_path / "cache" / "mu_digits" / "1.0.0").is_dir()
    monkeypatch.delenv("MU_JAX_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert datasets.info("digits").split_sizes["train"] == 1500
    assert (tmp_path / "home" / ".cache" / "mu_jax" / "mu_digits" / "1.0.0").is_dir()


def test_a_second_load_only_reads(tmp_path):
    first = datasets.load("digits", data_dir=tmp_path)
    files = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    second = datasets.load("digits", data_dir=tmp_path)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == files
    for one, two in zip(first, second):
        np.testing.assert_array_equal(one, two)


def test_nothing_touches_the_network_or_the_terminal(tmp_path, monkeypatch, capfd):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    datasets.load("digits", data_dir=tmp_path)
    datasets.load("diabetes", data_dir=tmp_path)
    assert capfd.readouterr() == ("", "")


def test_importing_the_package_is_light():
    code = (
        "import sys, mu_jax.datasets\n"
        "heavy = {'tensorflow_datasets', 'grain', 'sklearn', 'tensorflow'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


def test_a_source_survives_pickling(tmp_path):
    view = datasets.source("digits", "test", data_dir=tmp_path)
    copy = pickle.loads(pickle.dumps(view))
    assert len(copy) == 297
    for one, two in zip(view[5], copy[5]):
        np.testing.assert_array_equal(one, two)
