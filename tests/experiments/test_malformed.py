"""No malformed input ends in a traceback: one sentence, exit code 2, before anything is computed.

What begins to compute is cut off there: the inputs that a binary accepts are not of interest.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import shutil
import traceback
import warnings

import pytest
from malformed import FLAGS, Case, Folders, draw

import mu_jax as mu
from experiments.lib import command_line
from mu_jax import ensembles

TINY = ["--config.limit=120", "--config.training.epochs=1"]


class Computing(BaseException):
    """The input was accepted."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A working folder with a trained model."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    code, said = call(Case("train", [f"--workdir={folder}", *TINY], ""))
    assert code == 0, said
    return folder


@pytest.fixture
def cut_off(monkeypatch, trained):
    """Nothing is trained or unlearned from here on."""

    def computing(*args, **kwargs):
        raise Computing

    monkeypatch.setattr(mu, "fit", computing)
    monkeypatch.setattr(mu, "resumable", computing)
    monkeypatch.setattr(ensembles, "train", computing)


def call(case: Case) -> tuple[int | str, str]:
    """Exit code, or how else a call ended, and what it said on stderr."""
    module = importlib.import_module(f"experiments.{case.binary}")
    further = "files of records" if case.binary == "report" else ""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                argv = command_line._parse_or_exit(
                    module.FLAGS, [case.binary, *case.arguments], about="", arguments=further
                )
                module.main(argv)
            code: int | str = 0
        except Computing:
            code = "computing"
        except SystemExit as end:
            code = end.code or 0
        except Exception:
            code = "".join(traceback.format_exc().splitlines(keepends=True)[-12:])
    return code, err.getvalue()


def wrong(case: Case) -> str:
    """What is wrong with the end of a call; empty if nothing is."""
    code, said = call(case)
    if code in (0, "computing"):
        return ""
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    if code == 2 and len(lines) == 1 and "expected " in lines[0]:
        return ""
    return f"{case.binary} {case.arguments}\n{case.about}\n{code}\n{said[-600:]}"


def check(seeds, trained, tmp_path):
    """Draw inputs, call the binaries, and name those that end badly."""
    found = []
    for seed in seeds:
        scratch = tmp_path / str(seed)
        scratch.mkdir()
        folders = Folders(scratch, lambda to: shutil.copytree(trained, to))
        if failure := wrong(draw(seed, folders)):
            found.append(f"seed {seed}: {failure}")
        shutil.rmtree(scratch)
    assert not found, f"{len(found)} inputs\n" + "\n\n".join(found)


@pytest.mark.usefixtures("cut_off")
@pytest.mark.parametrize("block", range(3))
def test_a_sample_of_malformed_inputs_ends_in_sentences(block, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check(range(20 * block, 20 * (block + 1)), trained, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("cut_off")
@pytest.mark.parametrize("block", range(20))
def test_a_thousand_malformed_inputs_end_in_sentences(block, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check(range(1_000 + 50 * block, 1_000 + 50 * (block + 1)), trained, tmp_path)


def test_the_inputs_are_of_every_binary(tmp_path):
    drawn = set()
    for seed in range(120):
        scratch = tmp_path / str(seed)
        scratch.mkdir()
        (scratch / "run").mkdir()
        (scratch / "run/config.json").write_text('{"a": {"b": 1}}')
        with contextlib.suppress(FileExistsError, IsADirectoryError):
            drawn.add(draw(seed, Folders(scratch, lambda to: to)).binary)
    assert drawn == set(FLAGS)
