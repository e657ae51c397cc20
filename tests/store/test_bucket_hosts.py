"""Two hosts write one checkpoint into a bucket together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import processes
import pytest
from test_versions_crash import HOST


@pytest.mark.multiprocess
def test_two_hosts_publish_and_restore_sharded(bucket):
    port = str(processes.free_port())
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", HOST, bucket, port, str(index)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).parents[2],
            text=True,
        )
        for index in range(2)
    ]
    outputs = processes.finish(workers, 90)
    assert all("good" in text for text, _ in outputs), "\n".join(text for text, _ in outputs)
