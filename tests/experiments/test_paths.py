"""Paths that cannot be used are noticed before anything is computed, and named in one sentence."""

from __future__ import annotations

import errno
import os
import tempfile

import pytest

from experiments import regression
from experiments.lib import running
from experiments.lib.command_line import parse
from experiments.lib.paths import check_file, check_workdir
from experiments.lib.sentences import sentence


@pytest.mark.parametrize(
    "error, said",
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/a"),
            "expected room for runs/a, found the disk full; free some, and run this again",
        ),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded", "runs/a"),
            "expected room for runs/a, found the disk full; free some, and run this again",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "runs/a"),
            "expected to be allowed to use runs/a, found permission denied; choose another path",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", b"runs"),
            "expected to be allowed to use runs, found read-only file system; choose another path",
        ),
        (
            NotADirectoryError(errno.ENOTDIR, "Not a directory", "runs/a"),
            "expected folders above runs/a, found a file among them; choose another path",
        ),
        (
            IsADirectoryError(errno.EISDIR, "Is a directory", "runs/a"),
            "expected a file at runs/a, found a folder; choose another path, or move it away",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "runs/a"),
            "expected a file or folder at runs/a, found none; check the path",
        ),
        (
            FileNotFoundError("expected a model in runs/a, found none; train one"),
            "expected a model in runs/a, found none; train one",
        ),
        (ValueError("expected one\n  line, found two"), "expected one line, found two"),
        (EOFError(), "EOFError"),
    ],
)
def test_an_error_is_one_sentence(error, said, capsys):
    assert sentence(error) == said
    if isinstance(error, (ValueError, OSError)):
        with pytest.raises(SystemExit) as end, running.exit_with_sentence():
            raise error
        assert end.value.code == 2
        assert capsys.readouterr().err == f"error: {said}\n"


def test_a_working_directory_that_can_be_made_is_not_made(tmp_path):
    assert check_workdir(tmp_path / "a/b", files=("c",), folders=("d",)) == tmp_path / "a/b"
    assert check_file(tmp_path / "a/b.npz") == tmp_path / "a/b.npz"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "run/ensembles").mkdir(parents=True)
    (tmp_path / "run/results.jsonl").write_text("")
    check_workdir(tmp_path / "run", files=("results.jsonl",), folders=("ensembles",))


def unusable(tmp_path):
    """Working directories that cannot be used, by what is wrong."""
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("taken")
    link.symlink_to(tmp_path / "nowhere")
    results, ensembles = tmp_path / "results", tmp_path / "ensembles"
    (results / "results.jsonl").mkdir(parents=True)
    ensembles.mkdir()
    (ensembles / "ensembles").write_text("taken")
    return {
        "a file": file,
        "below a file": file / "run",
        "a broken link": link,
        "a name too long": tmp_path / ("a" * 300),
        "results that are a folder": results,
        "ensembles that are a file": ensembles,
        "no place for folders": "/proc/nosuch/run",
        "an empty path": "",
    }


NAMES = [
    *("a file", "below a file", "a broken link", "a name too long", "an empty path"),
    *("results that are a folder", "ensembles that are a file", "no place for folders"),
]


@pytest.mark.parametrize("what", NAMES)
def test_an_unusable_working_directory_is_noticed_before_the_data_are_read(
    tmp_path, what, monkeypatch, capsys
):
    def read(*arguments):
        raise AssertionError("the data were read")

    monkeypatch.setattr(regression, "make_checked_task", read)
    parse(regression.FLAGS, ["regression", f"--workdir={unusable(tmp_path)[what]}"])
    before = sorted(map(str, tmp_path.rglob("*")))
    with pytest.raises(SystemExit) as end:
        regression.main(["regression"])
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.startswith("error: expected ") and said.count("\n") == 1
    assert sorted(map(str, tmp_path.rglob("*"))) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_working_directory_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        check_workdir(tmp_path / "run")


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    def forbidden(dir):
        raise PermissionError(errno.EACCES, "Permission denied", f"{dir}/tmp123")

    monkeypatch.setattr(tempfile, "TemporaryFile", forbidden)
    with pytest.raises(PermissionError) as caught:
        check_workdir(tmp_path / "run")
    assert f"allowed to use {tmp_path}/run, found no way to write" in sentence(caught.value)


def test_a_full_disk_is_noticed(tmp_path, monkeypatch):
    def full(dir):
        raise OSError(errno.ENOSPC, "No space left on device", f"{dir}/tmp123")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(OSError, match="no way to write") as caught:
        check_file(tmp_path / "run/oracles.npz")
    assert sentence(caught.value).endswith("found the disk full; free some, and run this again")
