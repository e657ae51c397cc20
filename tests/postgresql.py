"""A PostgreSQL of this machine's, on loopback, for the time of a test."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import processes
import pytest


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The address of a new one, empty; the test is skipped where Debian's package is missing."""
    pytest.importorskip("psycopg", reason="needs pip install 'mu_jax[postgresql]'")
    found = shutil.which("initdb") or shutil.which("initdb", path=_installed())
    if found is None:
        pytest.skip("no PostgreSQL on this machine: apt-get install postgresql")
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


def _installed() -> str:
    return os.pathsep.join(map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"))))
