"""The scripts under `examples/` run as their users would run them."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def run(*arguments, folder):
    """Output of a module that runs from the checkout."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_own_task_in_the_binaries(tmp_path):
    request = ["--workdir=w", "--request=cultivar:2"]
    train = ["experiments.train", "--workdir=w", "--task=examples.own_task:make_trained_task"]
    assert "serving version 1" in run(*train, folder=tmp_path)
    assert "Version 2 is published and serving" in run(
        "experiments.unlearn", *request, folder=tmp_path
    )
    table = run("experiments.evaluate", *request, folder=tmp_path)
    rows = {line.split()[0]: line for line in table.splitlines() if line.strip()}
    assert {"retrain", "do", "2:", "constant"} <= set(rows)
