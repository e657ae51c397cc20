"""A search whose studies lie in a database server, and whose ensembles and records in a bucket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import postgresql
import processes
import pytest

from mu_jax import _files as files
from mu_jax import reporting
from mu_jax._paths import absolute

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]
ROOT = Path(__file__).parents[2]
CONFIG = """
from experiments.configs import digits

def get_config():
    config = digits.get_config()
    config.limit, config.training.epochs = 120, 10
    return config
"""


@pytest.fixture
def server():
    with postgresql.server() as address:
        yield address


def test_two_machines_search_together(server, bucket, tmp_path):
    (tmp_path / "small.py").write_text(CONFIG)
    fields = {
        "config": "small.py",
        "requests": ["class:7"],
        "reported": ["class:3"],
        "models": 3,
        "methods": {"ssd": {"alpha": [1.5, 3]}},
    }
    (tmp_path / "sweep.json").write_text(json.dumps(fields))
    command = [sys.executable, "-m", "experiments.sweep", f"--sweep={tmp_path}/sweep.json"]
    command += [f"--workdir={bucket}/work", f"--storage={server}"]
    both = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    said = processes.finish(both, 500)
    assert [code for _, code in said] == [0, 0], said
    workdir = absolute(f"{bucket}/work")
    for half, methods in (("tuning", 2), ("reporting", 1)):
        records = reporting.read(workdir / f"{half}.jsonl")
        assert [record.method for record in records].count("ssd") == methods
    halves = ["reporting.jsonl", "reporting.npz", "tuning.jsonl"]
    assert files.names(workdir) == ["arrays", "ensembles", *halves]
