"""Two hosts write one checkpoint into a bucket together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import processes
import pytest
from test_versions_crash import HOST

from mu_jax import _files as files
from mu_jax._paths import absolute
from mu_jax.store import Store

BINARIES = """
import sys
import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 1)
jax.distributed.initialize(f"127.0.0.1:{sys.argv[2]}", 2, int(sys.argv[3]))
from experiments import train, unlearn
from experiments.lib.command_line import parse

request = ["--request=class:3", "--method=ssd", "--serve_anyway"]
small = ["--config.limit=300", "--config.training.epochs=1"]
for module, flags in ((train, small), (unlearn, request), (train, small)):
    parse(module.FLAGS, ["binary", f"--workdir={sys.argv[1]}", *flags])
    try:
        module.main(["binary"])
    except SystemExit as end:
        print("code", end.code, flush=True)
jax.distributed.shutdown()
"""


def run_on_two_hosts(script: str, *arguments: str) -> list[tuple[str, int]]:
    port = str(processes.free_port())
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", script, *arguments, port, str(index)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).parents[2],
            text=True,
        )
        for index in range(2)
    ]
    return processes.finish(workers, 200)


@pytest.mark.multiprocess
def test_two_hosts_publish_and_restore_sharded(bucket):
    outputs = run_on_two_hosts(HOST, bucket)
    assert all("good" in text for text, _ in outputs), "\n".join(text for text, _ in outputs)


@pytest.mark.multiprocess
def test_two_hosts_train_and_unlearn(bucket):
    outputs = run_on_two_hosts(BINARIES, f"{bucket}/run")
    assert [code for _, code in outputs] == [0, 0], outputs
    for text, _ in outputs:
        assert "Published and serving version 1" in text and "Version 2 is published and" in text
        assert text.count("code 0") == 1 and text.count("code 2") == 1
        assert "found version 2 serving in gs://" in text
    store = Store(f"{bucket}/run/store")
    assert (len(store.history()), store.serving()) == (2, 2)
    kept = files.names(absolute(f"{bucket}/run"))
    assert kept == ["config.json", "statistics", "store", "unlearned"]
    assert not any(each.restorable for each in Store(f"{bucket}/run/statistics").history())
