"""The first lines of every host: join the others, see that all are there, run the module.

    python -m launch_tpu.hosts.worker --processes=4 --devices=16 --join_seconds=300 \\
        --max_seconds=3600 --module=experiments.train -- --workdir=/mnt/runs/digits

The same command runs on every host. On a TPU slice JAX knows who the others are. Elsewhere
JAX_COORDINATOR_ADDRESS and MU_JAX_PROCESS_ID say so.
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import signal
import sys
import threading
import traceback
from typing import NoReturn

from absl import flags

from experiments.lib.own_flags import define_count, run
from experiments.lib.sentences import refuse

_TIMED_OUT = 124
_MANY = 1_000_000
_YEAR = 365 * 24 * 3600  # timers take no more than some years
FLAGS = flags.FlagValues()
PROCESSES = define_count(FLAGS, "processes", None, "Hosts of the job.", most=_MANY, required=True)
DEVICES = define_count(
    FLAGS, "devices", None, "Devices of all hosts together.", most=_MANY, required=True
)
JOIN_SECONDS = define_count(FLAGS, "join_seconds", 300, "Wait for the others so long.", most=_YEAR)
MAX_SECONDS = define_count(
    FLAGS, "max_seconds", None, "End after so long.", most=_YEAR, required=True
)
MODULE = flags.DEFINE_string(
    "module", None, "What to run, as after python -m.", required=True, flag_values=FLAGS
)


def main(argv: list[str]) -> None:
    """Join the others and run the module with the arguments behind the flags."""
    _check_module(MODULE.value)
    _end_after(MAX_SECONDS.value)
    try:
        _join(PROCESSES.value, DEVICES.value, JOIN_SECONDS.value)
    except ValueError as error:
        _give_up(f"error: {error}", 2)
    code = _run(MODULE.value, argv[1:])
    if code:
        # Whoever leaves in an orderly way waits for the others, which wait for this one.
        _give_up(f"error: expected {MODULE.value} to succeed, found exit code {code}", code)
    if PROCESSES.value > 1:
        import jax

        jax.distributed.shutdown()


def _check_module(module: str) -> None:
    """Refuse a module that is not there, before anybody waits for others; it is not imported."""
    try:
        found = importlib.util.find_spec(module.partition(".")[0])
    except ValueError:  # an empty name, or none that a module can have
        found = None
    if found is None:
        refuse(_missing(module))


def _missing(module: str) -> str:
    return (
        f"expected a module as --module, found that there is no {module!r} to run; correct "
        "'module' of the specification, or install it in 'setup'"
    )


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
        if not index.isdecimal() or not int(index) < processes:
            raise ValueError(
                f"expected MU_JAX_PROCESS_ID from 0 to {processes - 1}, found {index!r}; give "
                "every host its own number"
            )
        if not os.environ.get("JAX_COORDINATOR_ADDRESS"):
            raise ValueError(
                "expected JAX_COORDINATOR_ADDRESS beside MU_JAX_PROCESS_ID, found none; set "
                "host:port of the first process"
            )
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
    except Exception as error:
        if isinstance(error, ImportError) and _raised_by(error) == "runpy":
            print(f"error: {_missing(module)}", file=sys.stderr)
        else:
            traceback.print_exc()
        return 1
    return 0


def _raised_by(error: BaseException) -> str:
    """The name of the module whose code has raised an error."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "")


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
    run(main, FLAGS, arguments="flags of the module, after --", least=0)
