"""Cloud TPU queued resources, for v4 to v6e: hosts from a queue, one command on all of them."""

from __future__ import annotations

from launch_tpu.hosts import scripts
from launch_tpu.hosts.commands import LABEL, Argv, Command, Listing, Until, labels
from launch_tpu.hosts.spec import Spec

_GROUP = ("gcloud", "compute", "tpus", "queued-resources")
_FAILED = frozenset({"FAILED", "SUSPENDING", "SUSPENDED", "DELETING"})
_LABELS = "tpu.nodeSpec[].node.labels"  # a queued resource has none of its own, its nodes have


def plan(spec: Spec) -> list[Command]:
    """Queue the hosts, wait for them, run the job on all of them, give them back."""
    delete, state = _delete(spec), _state(spec)
    end = f"{spec.max_hours:g} h after their first boot they delete themselves"
    wait = Until(frozenset({"ACTIVE"}), _FAILED, round(spec.queue_hours * 3600))
    return [
        Command(
            _create(spec),
            f"queue {spec.hosts} hosts; {end}",
            undo=delete,
            probe=state,
            file=scripts.startup(spec, last=delete),
        ),
        Command(state, "wait for the hosts", until=wait),
        Command(_ssh(spec), "run the job on all hosts at once, and wait for it"),
        Command(delete, "give the hosts back"),
    ]


def status(spec: Spec) -> list[Command]:
    """Show the queued resource."""
    return [Command((*_GROUP, "describe", spec.name, *_place(spec)), "show the queued resource")]


def reap(spec: Spec) -> list[Listing]:
    """Queued resources with our label in the project and zone."""
    key, _, value = LABEL.partition("=")
    filters = (f"--filter={_LABELS}.{key}={value}", "--format=value(name.basename())")
    return [
        Listing(
            (*_GROUP, "list", *_place(spec), *filters),
            "list the queued resources with our label",
            (*_GROUP, "delete"),
            (*_place(spec), "--force", "--quiet"),
        )
    ]


def _place(spec: Spec) -> Argv:
    return (f"--project={spec.project}", f"--zone={spec.zone}")


def _delete(spec: Spec) -> Argv:
    return (*_GROUP, "delete", spec.name, *_place(spec), "--force", "--quiet")


def _state(spec: Spec) -> Argv:
    return (*_GROUP, "describe", spec.name, *_place(spec), "--format=value(state.state)")


def _create(spec: Spec) -> Argv:
    nodes: Argv = (f"--node-id={spec.name}",)
    if spec.slices > 1:
        nodes = (f"--node-count={spec.slices}", f"--node-prefix={spec.name}")
    kind: Argv = (f"--accelerator-type={spec.slice.accelerator_type}",)
    if spec.slice.generation == "v4":  # the only one here whose shape does not follow from its size
        kind = ("--type=v4", f"--topology={spec.slice.topology}")
    return (
        *(*_GROUP, "create", spec.name, *_place(spec), *nodes, *kind),
        f"--runtime-version={spec.runtime}",
        f"--valid-until-duration={round(spec.queue_hours * 3600)}s",
        f"--labels={labels(spec.name)}",
        f"--metadata-from-file=startup-script={scripts.startup(spec, last=()).path}",
        *(("--spot",) if spec.spot else ()),
        *spec.create_flags,
        "--async",
        "--quiet",
    )


def _ssh(spec: Spec) -> Argv:
    # By default 64 workers at a time are served, and the first 64 would wait for the others.
    everywhere = ("--node=all", "--worker=all", "--batch-size=all")
    command = f"--command={scripts.over_ssh(spec)}"
    return (*_GROUP, "ssh", spec.name, *_place(spec), *everywhere, "--quiet", command)
