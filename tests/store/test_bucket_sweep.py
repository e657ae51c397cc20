"""A search whose studies lie in a database server, and whose ensembles and records in a bucket."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

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
    """The address of a PostgreSQL of this machine's, on loopback, for the time of a test."""
    pytest.importorskip("psycopg", reason="needs pip install 'psycopg[binary]'")
    found = shutil.which("initdb") or shutil.which("initdb", path=_installed())
    if found is None:
        pytest.skip("no PostgreSQL on this machine")
    who = {"user": "nobody"} if os.getuid() == 0 else {}  # it refuses to run as root
    port = str(processes.free_port())
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        os.chmod(folder, 0o777)
        data = f"{folder}/data"
        make = [found, "-D", data, "-U", "mu", "-A", "trust", "-N"]
        subprocess.run(make, check=True, capture_output=True, cwd="/", **who)
        command = [str(Path(found).resolve().with_name("postgres")), "-D", data, "-p", port]
        command += ["-k", folder, "-h", "127.0.0.1"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd="/", **who)
        stack.callback(process.wait)
        stack.callback(process.kill)
        for line in process.stderr:
            if "ready to accept connections" in line:
                break
        yield f"postgresql+psycopg://mu@127.0.0.1:{port}/postgres"
        process.stderr.close()


def _installed():
    return os.pathsep.join(map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"))))


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
    assert files.names(workdir) == ["ensembles", "reporting.jsonl", "tuning.jsonl"]
