"""From a specification to commands, purely; nothing is run here."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from launch_tpu.hosts.commands import Argv, Command, Listing
from launch_tpu.hosts.engines import instance_groups, local, queued_resources, xpk
from launch_tpu.hosts.spec import Spec

_ENGINES: dict[str, ModuleType] = {
    "queued_resources": queued_resources,
    "instance_groups": instance_groups,
    "xpk": xpk,
    "local": local,
}


def plan(spec: Spec) -> list[Command]:
    """The commands that make the hosts, run the job on them and give them back, in order.

    Example:
      >>> from launch_tpu.hosts.spec import Spec
      >>> job = Spec("digits", "experiments.train", "v6e:1x1", 0.5, "runs/digits", engine="local")
      >>> [command.purpose for command in plan(job)]
      ['run the job as 1 processes on this machine, at most 0.5 h']
    """
    return _ENGINES[spec.engine].plan(spec)


def status(spec: Spec) -> list[Command]:
    """The commands that show what there is of the job."""
    return _ENGINES[spec.engine].status(spec)


def reap(spec: Spec) -> Sequence[Command | Listing]:
    """The commands that list and delete all that carries our label, of this job and of others."""
    return _ENGINES[spec.engine].reap(spec)


def down(spec: Spec) -> list[Command]:
    """The commands that have something to undo, the last first; each undo once."""
    steps: dict[Argv, Command] = {}
    for step in reversed(plan(spec)):
        if step.undo is not None:
            # The probe of the first command that an undo belongs to speaks for all of them.
            steps.pop(step.undo, None)
            steps[step.undo] = step
    return list(steps.values())


def undoing(steps: Sequence[Command]) -> list[Command]:
    """The undoing commands themselves, to be shown."""
    return [Command(step.undo, f"undo: {step.purpose}") for step in steps if step.undo is not None]


def cost(spec: Spec) -> str:
    """The most that the job can cost, in words."""
    if spec.engine == "local":
        return "no chips, this machine only"
    chips = spec.slice.chips * spec.slices
    kind = f"{spec.slice.generation}{' spot' if spec.spot else ''}"
    return f"at most {chips} {kind} chips x {spec.max_hours:g} h = {spec.chip_hours:g} chip-hours"
