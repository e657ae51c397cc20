"""Starting several JAX processes on this machine, one device each."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
# Three quarters of the compilation time goes; results change in the last bits only.
COMPILE_FAST = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1"
)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def start(script: str, *arguments: str, processes: int = 2) -> list[subprocess.Popen]:
    """`python script PORT PROCESS *arguments` for every process, over one new port."""
    port = str(free_port())
    folders = [str(HERE), str(HERE / "contract"), os.environ.get("PYTHONPATH", "")]
    settings = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", COMPILE_FAST),
        "PYTHONPATH": os.pathsep.join(filter(None, folders)),
    }
    return [
        subprocess.Popen(
            [sys.executable, script, port, str(process), *arguments],
            env=settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(processes)
    ]


def finish(workers: list[subprocess.Popen], seconds: float) -> list[tuple[str, int]]:
    """Output and exit code of each; what is left after the time is killed (they catch SIGTERM)."""
    end = time.monotonic() + seconds
    try:
        return [
            (each.communicate(timeout=max(1, end - time.monotonic()))[0], each.returncode)
            for each in workers
        ]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
