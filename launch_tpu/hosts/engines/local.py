"""The same job on this machine: one process with one CPU device for every host.

    python -m launch_tpu.hosts.engines.local --processes=2 --max_seconds=60 -- COMMAND

starts COMMAND so often, with what JAX needs to join the processes in the environment. When one of
them fails, or the time is over, all are killed: a process that waits for the others in a collective
ignores every milder signal.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import time

from absl import flags

from experiments.lib.own_flags import define_count, run
from launch_tpu.hosts import scripts
from launch_tpu.hosts.commands import Command, labels
from launch_tpu.hosts.spec import Spec

_MOST = 16
FLAGS = flags.FlagValues()
PROCESSES = define_count(
    FLAGS, "processes", None, "How often to start the command.", most=_MOST, required=True
)
MAX_SECONDS = flags.DEFINE_float(
    "max_seconds", None, "Kill all of them after so long.", required=True, flag_values=FLAGS
)
flags.register_validator(
    "max_seconds",
    lambda seconds: seconds is None or 0 < seconds < math.inf,
    message="it is no time above 0 s",
    flag_values=FLAGS,
)
LABELS = flags.DEFINE_string(
    "labels", None, "Shown in the list of processes, otherwise unused.", flag_values=FLAGS
)


def plan(spec: Spec) -> list[Command]:
    """One command that runs the job and leaves nothing behind."""
    if spec.hosts > _MOST:
        raise ValueError(
            f"expected at most {_MOST} hosts with the engine local, found {spec.hosts} in "
            f"{spec.topology!r} times {spec.slices}; choose a smaller topology"
        )
    argv = (
        *(spec.python, "-m", "launch_tpu.hosts.engines.local"),
        f"--processes={spec.hosts}",
        f"--max_seconds={spec.max_seconds}",
        f"--labels={labels(spec.name)}",
        "--",
        *scripts.worker(spec),
    )
    hours = f"at most {spec.max_hours:g} h"
    return [Command(argv, f"run the job as {spec.hosts} processes on this machine, {hours}")]


def status(spec: Spec) -> list[Command]:
    """Nothing outlives the command that runs the job."""
    return []


def reap(spec: Spec) -> list[Command]:
    """Nothing outlives the command that runs the job."""
    return []


def run_together(argv: list[str], *, processes: int, seconds: float) -> int:
    """Run a command as several JAX processes; 0, or the exit code of the first that fails.

    Args:
      argv: the command. processes: how many.
      seconds: after so long all are killed, and the code is 124.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started: list[subprocess.Popen] = []
    try:
        for index in range(processes):
            environment = {**os.environ, **_environment(port, processes, index)}
            started.append(subprocess.Popen(argv, env=environment))
        return _first_failure(started, time.monotonic() + seconds)
    except OSError as error:
        print(
            f"error: expected to run the program {argv[0]}, found that the system refuses it "
            f"({error.strerror}); check 'python' of the specification",
            file=sys.stderr,
        )
        return 127 if isinstance(error, FileNotFoundError) else 126
    finally:
        for process in started:
            process.kill()
            process.wait()


def _environment(port: int, processes: int, index: int) -> dict[str, str]:
    return {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "MU_JAX_PROCESS_ID": str(index),
    }


def _first_failure(started: list[subprocess.Popen], deadline: float) -> int:
    while time.monotonic() < deadline:
        codes = [process.poll() for process in started]
        if failed := [code for code in codes if code]:
            return failed[0] if failed[0] > 0 else 128 - failed[0]
        if None not in codes:
            return 0
        time.sleep(0.05)
    print("error: expected the job to end in its time, found it running; killed", file=sys.stderr)
    return 124


def main(argv: list[str]) -> int:
    """Run the processes; the exit code of the first that fails."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nobody is left behind
    return run_together(argv[1:], processes=PROCESSES.value, seconds=MAX_SECONDS.value)


if __name__ == "__main__":
    run(main, FLAGS, arguments="a command, after --")
