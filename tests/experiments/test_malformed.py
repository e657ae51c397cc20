"""No malformed input ends in a traceback: one sentence, exit code 2, before anything is computed.

What begins to compute is cut off there: the inputs that a binary accepts are not of interest.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import signal
import subprocess
import traceback
import warnings

import jax
import pytest
from every_binary import MODULES, module_of, parse
from malformed import draw
from malformed_values import Case, Folders

import mu_jax as mu
from experiments.lib import own_flags
from launch_tpu.compile import compiled, programs, topologies
from launch_tpu.hosts import worker
from launch_tpu.hosts.engines import local
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
    """Nothing is trained, unlearned, compiled, searched or launched from here on."""

    def computing(*args, **kwargs):
        raise Computing

    sweep = module_of("sweep")
    for owner, name in (
        *((mu, "fit"), (mu, "resumable"), (ensembles, "train")),
        *((sweep.Search, "walk"), (sweep, "start_workers"), (module_of("passage"), "read_model")),
        *((programs, "record"), (compiled, "measure")),
        *((subprocess, "Popen"), (worker, "_end_after"), (local, "run_together")),
    ):
        monkeypatch.setattr(owner, name, computing)
    monkeypatch.setenv("PATH", "")  # no program of a cloud can be reached
    # The device that stands for every chip is one of this machine.
    monkeypatch.setattr(topologies, "devices", lambda topology: jax.devices())
    before = signal.getsignal(signal.SIGTERM), jax.config.jax_enable_compilation_cache
    yield
    signal.signal(signal.SIGTERM, before[0])
    jax.config.update("jax_enable_compilation_cache", before[1])


def call(case: Case) -> tuple[int | str, str]:
    """Exit code, or how else a call ended, and what it said on stderr."""
    module = module_of(case.binary)
    # A terminal takes what UTF-8 has, and no more.
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    err = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                argv = own_flags.read_or_exit(
                    module.FLAGS,
                    [case.binary, *case.arguments],
                    about="",
                    parse=lambda argv: parse(case.binary, argv[1:]),
                )
                code: int | str = module.main(argv) or 0
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
@pytest.mark.parametrize("first", [1_000, 5_000])
def test_a_thousand_malformed_inputs_end_in_sentences(first, block, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check(range(first + 50 * block, first + 50 * (block + 1)), trained, tmp_path)


def test_the_inputs_are_of_every_binary(tmp_path):
    drawn = set()
    for seed in range(200):
        scratch = tmp_path / str(seed)
        scratch.mkdir()
        for name in ("run", "damaged"):
            (scratch / name).mkdir()
            (scratch / name / "config.json").write_text('{"a": {"b": 1}}')
        with contextlib.suppress(FileExistsError, IsADirectoryError):
            drawn.add(draw(seed, Folders(scratch, lambda to: to)).binary)
    assert drawn == set(MODULES)
