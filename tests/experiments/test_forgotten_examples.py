"""What is forgotten stays forgotten, as a user of the binaries sees it."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

from mu_jax.store.versions import Store

ROOT = pathlib.Path(__file__).parents[2]
FAST = ["--config.training.epochs=8", "--config.limit=600"]


def run(binary: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{binary}", *arguments],
        cwd=ROOT,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1", "COLUMNS": "110"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_the_next_request_does_not_teach_again_what_was_forgotten(tmp_path):
    workdir = f"--workdir={tmp_path}/run"
    assert run("train", workdir, *FAST).returncode == 0
    store = Store(tmp_path / "run/store")
    first = run("unlearn", workdir, "--request=class:3", "--method=ssd")
    assert first.returncode == 0, first.stdout + first.stderr
    second = run("unlearn", workdir, "--request=class:5", "--method=finetune")
    assert second.returncode == 0, second.stdout + second.stderr
    class_3 = len(store.forgotten(2))
    assert store.serving() == 3 and len(store.forgotten()) > class_3 > 40
    evaluated = run("evaluate", workdir, "--request=class:3", "--retrain=1", "--versions=3")
    assert evaluated.returncode == 0, evaluated.stdout + evaluated.stderr
    assert f"{len(store.forgotten()) - class_3} other examples" in evaluated.stdout
    (row,) = [
        json.loads(line)
        for line in (tmp_path / "run/evaluation.jsonl").read_text().splitlines()
        if "3: finetune" in line
    ]
    assert row["metrics"]["forget accuracy"]["value"] < 0.1
    again = run("unlearn", workdir, "--request=class:3")
    assert again.returncode == 0 and "forgotten already" in again.stdout
    assert len(store.history()) == 3
