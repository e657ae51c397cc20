"""The first lines of every host: join the others, see that all are there, run the module.

    python -m launch_tpu.hosts.worker --processes=4 --devices=16 --join_seconds=300 \\
        --max_seconds=3600 --module=experiments.train -- --workdir=/mnt/runs/digits

The same command runs on every host. On a TPU slice JAX knows who the others are. Elsewhere
JAX_COORDINATOR_ADDRESS and MU_JAX_PROCESS_ID say so.
"""

from __future__ import annotations

import argparse
import os
import runpy
import signal
import sys
import threading
import traceback
from typing import NoReturn

from launch_tpu.hosts.arguments import count

_TIMED_OUT = 124


def main() -> None:
    """Parse the command line and run the module."""
    given = _parser().parse_args()
    _end_after(given.max_seconds)
    try:
        _join(given.processes, given.devices, given.join_seconds)
    except ValueError as error:
        _give_up(f"error: {error}", 2)
    code = _run(given.module, given.flags)
    if code:
        # Whoever leaves in an orderly way waits for the others, which wait for this one.
        _give_up(f"error: expected {given.module} to succeed, found exit code {code}", code)
    if given.processes > 1:
        import jax

        jax.distributed.shutdown()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=count, required=True, help="hosts of the job")
    parser.add_argument(
        "--devices", type=count, required=True, help="devices of all hosts together"
    )
    parser.add_argument(
        "--join_seconds", type=count, default=300, help="wait for the others so long"
    )
    parser.add_argument("--max_seconds", type=count, required=True, help="end after so long")
    parser.add_argument("--module", required=True, help="what to run, as after python -m")
    parser.add_argument("flags", nargs="*", help="flags of the module, after --")
    return parser


def _end_after(seconds: int) -> None:
    """End this process when its time is over, even if it hangs in a collective."""
    _later(seconds, f"error: expected the job to end within {seconds} s, found it running; ended")
    if hasattr(signal, "alarm"):
        signal.alarm(seconds + 30)  # in case that no Python thread gets a turn


def _join(processes: int, devices: int, seconds: int) -> None:
    """Join the other processes, and compare what has come together with what was asked for."""
    # JAX aborts the process where its own time is over, so ours has to be over before.
    timer = _later(
        seconds,
        f"error: expected {processes} hosts to join within {seconds} s, found fewer; was the "
        "command sent with --worker=all?",
    )
    import jax

    if processes > 1:
        _initialize(seconds + 60, processes)
    _check(processes, jax.process_count(), devices, jax.device_count())
    timer.cancel()
    # One write, so that the lines of hosts that share a terminal stay whole.
    sys.stdout.write(
        f"process {jax.process_index()} of {jax.process_count()}: {jax.local_device_count()} local "
        f"and {jax.device_count()} global {jax.default_backend()} devices\n"
    )
    sys.stdout.flush()


def _initialize(seconds: int, processes: int) -> None:
    import jax

    index = os.environ.get("MU_JAX_PROCESS_ID")
    if index is None:
        try:
            jax.distributed.initialize(initialization_timeout=seconds)
        except ValueError as error:
            raise ValueError(
                f"expected one of {processes} hosts of a TPU slice, found none ({error}); "
                "elsewhere set JAX_COORDINATOR_ADDRESS and MU_JAX_PROCESS_ID"
            ) from error
    else:
        jax.distributed.initialize(
            num_processes=processes,
            process_id=int(index),
            initialization_timeout=seconds,
            cluster_detection_method="deactivate",
        )


def _check(processes: int, joined: int, devices: int, found: int) -> None:
    if joined != processes:
        raise ValueError(
            f"expected {processes} hosts, found that {joined} joined; was the command sent with "
            "--worker=all?"
        )
    if found != devices:
        raise ValueError(
            f"expected {devices} devices on {processes} hosts, found {found}; correct 'topology' "
            "and 'slices' of the specification"
        )


def _run(module: str, flags: list[str]) -> int:
    """Run a module as `python -m` does; its exit code."""
    sys.argv = [module, *flags]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _later(seconds: int, sentence: str) -> threading.Timer:
    timer = threading.Timer(seconds, _give_up, [sentence, _TIMED_OUT])
    timer.daemon = True
    timer.start()
    return timer


def _give_up(sentence: str, code: int) -> NoReturn:
    """Leave at once, without waiting for other processes."""
    print(sentence, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
