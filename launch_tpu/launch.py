"""Run a job on TPU hosts that exist only for it, at a cost that is known before.

    python -m launch_tpu.launch --spec=job.json --dry_run up
    python -m launch_tpu.launch --spec=job.json --budget_chip_hours=64 up
    python -m launch_tpu.launch --spec=job.json status | down | reap
    python -m launch_tpu.launch --spec=job.json --engine=local up

up      makes the hosts, waits for them, runs the job and gives the hosts back. If a step fails, or
        you press Ctrl-C, all that was made is undone, the last first. What is there already is used
        and left. A job that was preempted goes on from its workdir when it is launched again.
status  shows what there is of the job.
down    deletes what there is of the job.
reap    deletes everything that carries our label in the project and zone, whoever launched it; it
        shows the names and asks before.

The specification is a JSON file with the fields of launch_tpu.hosts.spec.Spec, among them
max_hours, without which nothing starts. docs/launch.md has one for every engine. The exit code is
0, 2 for bad input, or that of the command that failed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import sys
from collections.abc import Callable, Sequence

from absl import flags

from experiments.lib.own_flags import only, run
from experiments.lib.sentences import refuse
from launch_tpu.hosts import execute
from launch_tpu.hosts import plan as plans
from launch_tpu.hosts.commands import Command, Listing, render
from launch_tpu.hosts.spec import ENGINES, Spec, read_spec

FLAGS = flags.FlagValues()
SPEC = flags.DEFINE_string(
    "spec",
    None,
    "JSON file that says what to run, where, and how long.",
    required=True,
    flag_values=FLAGS,
)
DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Print the commands as a script and run none.", flag_values=FLAGS
)
BUDGET = flags.DEFINE_float(
    "budget_chip_hours",
    None,
    "For up: refuse what can cost more; without it, up asks before it creates anything.",
    lower_bound=0,
    flag_values=FLAGS,
)
ENGINE = flags.DEFINE_enum(
    "engine", None, ENGINES, "Use this one, whatever the file says.", flag_values=FLAGS
)
YES = flags.DEFINE_bool("yes", False, "For reap: answer its question with yes.", flag_values=FLAGS)
_EVERYWHERE = ("spec", "dry_run", "engine")


def main(argv: list[str]) -> None:
    """Do what the first argument says."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        act = _verb(argv[1:])
        _check_flags()
        act(_specification(SPEC.value))
    except (ValueError, OSError) as error:
        refuse(error)
    except execute.LaunchError as error:
        refuse(str(error), error.code)
    except KeyboardInterrupt:
        refuse("interrupted; nothing that was made remains", 130)


def _verb(words: list[str]) -> Callable[[Spec], None]:
    """What to do; refused if a flag is given that it does not look at."""
    verbs = {
        "up": (_up, "budget_chip_hours"),
        "down": (_down,),
        "reap": (_reap, "yes"),
        "status": (_status,),
    }
    if len(words) > 1 or words[0] not in verbs:
        raise ValueError(
            f"expected one of {', '.join(verbs)} after the flags, found {' '.join(words)!r}; see "
            "--help"
        )
    act, *further = verbs[words[0]]
    only(FLAGS, words[0], *_EVERYWHERE, *further)
    return act


def _check_flags() -> None:
    if BUDGET.value is not None and not math.isfinite(BUDGET.value):
        raise ValueError(
            f"expected a number as --budget_chip_hours, found {BUDGET.value}; no cost is above it"
        )


def _specification(path: str) -> Spec:
    changes = {} if ENGINE.value is None else {"engine": ENGINE.value}
    spec = read_spec(path, **changes)
    if spec.engine == "local" and spec.python == "python3":
        return dataclasses.replace(spec, python=sys.executable)
    return spec


def _up(spec: Spec) -> None:
    steps = plans.plan(spec)
    mark = "# " if DRY_RUN.value else ""  # a dry run is a script from its first line on
    print(f"{mark}{spec.name}: {plans.cost(spec)}", flush=True)
    _check_budget(spec)
    if not _shown(steps):
        _check_agreed(spec)
        execute.up(steps, say=_say)


def _down(spec: Spec) -> None:
    steps = plans.down(spec)
    if not _shown(plans.undoing(steps)):
        _check_gone(execute.undo(steps, say=_say))


def _reap(spec: Spec) -> None:
    steps = plans.reap(spec)
    if not _shown(steps):
        _check_gone(execute.reap(steps, agree=_agree_to_reap, say=_say))


def _status(spec: Spec) -> None:
    steps = plans.status(spec)
    if _shown(steps):
        return
    if not steps:
        print("nothing outlives the command that runs the job")
    for step in steps:
        if code := execute.in_shell(step.argv, False).code:
            raise execute.LaunchError(
                f"expected to {step.purpose}, found exit code {code}; was it launched?", code
            )


def _shown(steps: Sequence[Command | Listing]) -> bool:
    """Whether this is a dry run; then the steps are printed."""
    if DRY_RUN.value:
        print(render(steps), end="")
    return DRY_RUN.value


def _check_budget(spec: Spec) -> None:
    """Refuse what costs too much."""
    if BUDGET.value is not None and spec.chip_hours > BUDGET.value:
        raise ValueError(
            f"expected at most {BUDGET.value:g} chip-hours, found {plans.cost(spec)}; lower "
            "max_hours, or raise --budget_chip_hours"
        )


def _check_agreed(spec: Spec) -> None:
    """Ask if there is no budget."""
    if BUDGET.value is None and spec.chip_hours and not _agree("launch it?"):
        raise ValueError(
            f"expected a yes or a budget for {plans.cost(spec)}, found neither; give "
            f"--budget_chip_hours={spec.chip_hours:g}"
        )


def _agree_to_reap(deletions: str) -> bool:
    if YES.value or _agree(f"run {deletions}?"):
        return True
    raise ValueError(f"expected a yes to {deletions}, found none; give --yes")


def _agree(question: str) -> bool:
    if not sys.stdin.isatty():
        return False
    with contextlib.suppress(EOFError):
        return input(f"{question} [yes/no] ").strip().lower() in ("y", "yes")
    return False


def _check_gone(failed: list[tuple[str, ...]]) -> None:
    if failed:
        raise execute.LaunchError(
            f"expected to delete everything, found {len(failed)} commands that failed"
            f"{execute.told(failed)}"
        )


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    run(main, FLAGS, arguments="up, down, reap or status")
