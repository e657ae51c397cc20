"""The sweep as a user starts it: exit codes, what it prints, and what it leaves behind."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from in_process import call
from recomputed import assert_equal, of_ensemble

from mu_jax import reporting

ROOT = Path(__file__).parents[3]
CONFIG = """
from experiments.configs import digits

def get_config():
    config = digits.get_config()
    config.limit, config.training.epochs = 120, 10
    return config
"""


def run(module: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def sweep(tmp_path):
    """Writes a small sweep with these methods, and starts it."""
    (tmp_path / "small.py").write_text(CONFIG)

    def start(methods, *arguments, here=False, **changes):
        fields = {
            "config": "small.py",
            "requests": ["class:7"],
            "reported": ["class:3"],
            "models": 3,
            "methods": methods,
            **changes,
        }
        path = tmp_path / "sweep.json"
        path.write_text(json.dumps(fields))
        flags = [f"--sweep={path}", f"--workdir={tmp_path}/work", *arguments]
        return call("sweep.__main__", *flags) if here else run("experiments.sweep", *flags)

    return start


GRIDS = {"ssd": {"alpha": [1.5, 3]}, "finetune": {"learning_rate": [0.01, 0.02]}}


def test_a_dry_run_prints_the_work_list_and_starts_nothing(sweep, tmp_path):
    result = sweep(GRIDS, "--dry_run", here=True)
    assert result.returncode == 0, result.stderr
    *studies, size = result.stdout.splitlines()
    assert [line.split()[1] for line in studies] == ["ssd", "finetune"]
    assert studies[0].endswith("2 settings, 2 at once")
    assert size == (
        "4 settings (grid) on 1 forget sets, 4 trials of 3 models; then the chosen settings on 1 "
        "other forget sets"
    )
    assert not (tmp_path / "work").exists()


def test_a_bad_sweep_is_one_line_and_starts_nothing(sweep, tmp_path):
    result = sweep({"ssd": {"alfa": [1]}})
    assert result.returncode == 2 and result.stdout == ""
    assert [
        line.startswith("error: expected a hyper-parameter of 'ssd'")
        for line in result.stderr.splitlines()
    ] == [True]
    assert not (tmp_path / "work").exists()


def test_a_bucket_for_a_working_directory_is_one_line(sweep):
    result = sweep(["ssd"], "--workdir=s3://bucket/sweep", "--dry_run", here=True)
    assert result.returncode == 2, result.stderr
    assert (
        "error: expected a local path or gs://bucket/folder, found 's3://bucket/sweep'"
        in result.stderr
    )


@pytest.mark.slow
def test_a_bucket_and_sqlite_are_one_line(sweep):
    pytest.importorskip("gcsfs", reason="needs pip install -e '.[cloud]'")
    result = sweep(["ssd"], "--workdir=gs://bucket/sweep", "--dry_run")
    assert result.returncode == 2 and result.stdout == ""
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "--workdir=gs://bucket/sweep, found SQLite, which needs a local file; add" in line


SPEAKS = """
import os, sys
for number in range(3):
    print(os.environ["MU_JAX_PROGRESS"], number, file=sys.stderr, flush=True)
"""


def test_workers_speak_through_the_process_that_started_them(monkeypatch, capsys):
    """Each line of a worker is passed on whole; no worker rewrites the line of another."""
    binary = importlib.import_module("experiments.sweep.__main__")
    popen = subprocess.Popen
    monkeypatch.setattr(
        binary.subprocess,
        "Popen",
        lambda command, **options: popen([sys.executable, "-c", SPEAKS], **options),
    )
    plan = SimpleNamespace(number=4)
    search = SimpleNamespace(tuned=[(SimpleNamespace(plan=plan), None)], ended=lambda: 2)
    binary.start_workers(2, search)
    assert sorted(capsys.readouterr().err.splitlines()) == sorted(
        f"off {number}" for number in range(3) for _ in range(2)
    )


@pytest.mark.slow
@pytest.mark.multiprocess
def test_workers_end_with_one_table_and_a_second_start_is_harmless(sweep, tmp_path):
    result = sweep(GRIDS, "--workers=2")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("Forget set: class:3") == result.stdout.count("Forget set:") == 1
    assert "ssd, chosen: " in result.stdout and "finetune on class:7: " in result.stdout
    tuning, reported = (
        reporting.read(tmp_path / f"work/{half}.jsonl") for half in ("tuning", "reporting")
    )
    methods = [record.method for record in tuning]
    assert sorted(methods) == sorted(["retrain", "do nothing", *["ssd", "finetune"] * 2])
    assert {record.method for record in reported} == set(methods) and len(reported) == 4
    kept = reporting.read_run(tmp_path / "work/reporting.jsonl")
    assert {record.arrays["examples"] for record in reported} == {"reporting.npz"} and kept.digest
    models = len(kept.arrays["class:3"].examples["ssd"]["test"].losses)
    for record in kept.records:
        assert_equal(record, of_ensemble(kept.arrays["class:3"].examples, record.method, models))
    printed = run("experiments.report", str(tmp_path / "work/tuning.jsonl"))
    assert printed.returncode == 0 and "ssd (alpha=1.5)" in printed.stdout
    again = sweep(GRIDS)
    assert again.returncode == 0 and " done after" not in again.stderr
    assert again.stdout.splitlines()[:-1] == result.stdout.splitlines()[:-1]


@pytest.mark.slow
def test_a_setting_that_fails_is_named_and_the_others_end(sweep, tmp_path):
    broken = CONFIG.replace("    return", "    config.methods.dmm.attribution.checkpoints = 2\n"
        "    config.methods.dmm.attribution.calibration = ('class:77',)\n    return")  # fmt: skip
    (tmp_path / "small.py").write_text(broken)
    result = sweep({"ssd": {"alpha": [3]}, "dmm": {"learning_rate": [0.01]}})
    assert result.returncode == 1, result.stderr
    assert "ssd, chosen: " in result.stdout and "class:3" not in result.stdout
    lines = [line for line in result.stderr.splitlines() if "has no result" in line]
    assert len(lines) == 1 and lines[0].startswith("tuning dmm ")
    assert "expected classes among" in lines[0]


@pytest.mark.slow
def test_settings_are_drawn_by_a_sampler(sweep, tmp_path):
    result = sweep({"ssd": {"alpha": {"log": [1.5, 5]}}}, "--block=2", sampler="tpe", trials=3)
    assert result.returncode == 0, result.stderr
    tuning = reporting.read(tmp_path / "work/tuning.jsonl")
    alphas = [record.hyperparameters["alpha"] for record in tuning if record.method == "ssd"]
    assert len(set(alphas)) == 3 and all(1.5 <= alpha <= 5 for alpha in alphas)
