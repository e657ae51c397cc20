"""Compute Engine managed instance groups, for v5p and later: the hosts run the job when they boot.

A slice of several hosts needs a workload policy with its shape. The hosts power themselves off when
the job is over, and Compute Engine deletes them when their time is.
"""

from __future__ import annotations

from launch_tpu.hosts import scripts
from launch_tpu.hosts.commands import LABEL, Argv, Command, Listing, Until, labels
from launch_tpu.hosts.spec import Spec

_POLICIES = ("gcloud", "compute", "resource-policies")
_TEMPLATES = ("gcloud", "compute", "instance-templates")
_GROUPS = ("gcloud", "compute", "instance-groups", "managed")
_INSTANCES = ("gcloud", "compute", "instances")


def plan(spec: Spec) -> list[Command]:
    """Make policy, template and group, wait until the hosts have powered off, delete all three."""
    made = [*_policy(spec), _template(spec), _group(spec)]
    watch = (
        *(*_INSTANCES, "list", f"--project={spec.project}"),
        f"--filter=labels.run={spec.name} AND zone:{spec.zone}",
        "--format=value(status)",
    )
    stable = (f"--timeout={round(spec.queue_hours * 3600)}", *_zonal(spec), "--quiet")
    over = Until(frozenset({"TERMINATED", "STOPPED", ""}), frozenset(), spec.max_seconds + 600)
    return [
        *made,
        Command((*_GROUPS, "wait-until", spec.name, "--stable", *stable), "wait for the hosts"),
        Command(watch, "wait until all hosts have powered off or are gone", until=over),
        *(
            Command(step.undo, f"clean up: {step.purpose}")
            for step in reversed(made)
            if step.undo is not None
        ),
    ]


def status(spec: Spec) -> list[Command]:
    """Show the group and its hosts."""
    return [
        Command((*_GROUPS, "describe", spec.name, *_zonal(spec)), "show the group"),
        Command((*_GROUPS, "list-instances", spec.name, *_zonal(spec)), "show its hosts"),
    ]


def reap(spec: Spec) -> list[Listing]:
    """Groups, templates and policies with our label; groups and policies have it as description."""
    key, _, value = LABEL.partition("=")
    described = f'--filter=description:"{LABEL}"'
    names = "--format=value(name)"
    quiet = ("--quiet",)
    project = f"--project={spec.project}"
    return [
        Listing(
            (*_GROUPS, "list", project, f"{described} AND zone:{spec.zone}", names),
            "list the groups with our label",
            (*_GROUPS, "delete"),
            (*_zonal(spec), *quiet),
        ),
        Listing(
            (*_TEMPLATES, "list", project, f"--filter=properties.labels.{key}={value}", names),
            "list the templates with our label",
            (*_TEMPLATES, "delete"),
            (project, *quiet),
        ),
        Listing(
            (*_POLICIES, "list", project, f"{described} AND region:{spec.region}", names),
            "list the policies with our label",
            (*_POLICIES, "delete"),
            (*_regional(spec), *quiet),
        ),
    ]


def _zonal(spec: Spec) -> Argv:
    return (f"--project={spec.project}", f"--zone={spec.zone}")


def _regional(spec: Spec) -> Argv:
    return (f"--project={spec.project}", f"--region={spec.region}")


def _policy(spec: Spec) -> list[Command]:
    """The shape of a slice of several hosts; it costs nothing and has no lifetime."""
    if spec.hosts == 1:
        return []
    place = _regional(spec)
    shape = ("--type=HIGH_THROUGHPUT", f"--accelerator-topology={spec.slice.topology}")
    create = (*_POLICIES, "create", "workload-policy", spec.name, *place, *shape)
    return [
        Command(
            (*create, f"--description={labels(spec.name)}", "--quiet"),
            "the policy that joins the hosts to one slice",
            undo=(*_POLICIES, "delete", spec.name, *place, "--quiet"),
            probe=(*_POLICIES, "describe", spec.name, *place),
        )
    ]


def _template(spec: Spec) -> Command:
    project = f"--project={spec.project}"
    script = scripts.startup(spec, last=None)
    argv = (
        *(*_TEMPLATES, "create", spec.name, project),
        f"--machine-type={spec.slice.machine_type}",
        f"--image-family={spec.runtime}",
        "--image-project=ubuntu-os-accelerator-images",
        "--boot-disk-size=100GB",
        *(("--boot-disk-type=hyperdisk-balanced",) if spec.slice.generation == "v7x" else ()),
        "--maintenance-policy=TERMINATE",
        f"--provisioning-model={'SPOT' if spec.spot else 'STANDARD'}",
        f"--max-run-duration={spec.max_seconds}s",
        "--instance-termination-action=DELETE",
        "--scopes=cloud-platform",
        f"--labels={labels(spec.name)}",
        f"--metadata-from-file=startup-script={script.path}",
        *spec.create_flags,
        "--quiet",
    )
    return Command(
        argv,
        f"the template of a host; it is deleted {spec.max_hours:g} h after its start",
        undo=(*_TEMPLATES, "delete", spec.name, project, "--quiet"),
        probe=(*_TEMPLATES, "describe", spec.name, project),
        file=script,
    )


def _group(spec: Spec) -> Command:
    policy = f"projects/{spec.project}/regions/{spec.region}/resourcePolicies/{spec.name}"
    argv = (
        *(*_GROUPS, "create", spec.name, *_zonal(spec)),
        f"--template={spec.name}",
        f"--size={spec.hosts}",
        # A host that has powered off has done its work; it must not be made again.
        "--default-action-on-vm-failure=do-nothing",
        *((f"--workload-policy={policy}",) if spec.hosts > 1 else ()),
        f"--description={labels(spec.name)}",
        "--quiet",
    )
    return Command(
        argv,
        f"{spec.hosts} hosts, which run the job when they boot",
        undo=(*_GROUPS, "delete", spec.name, *_zonal(spec), "--quiet"),
        probe=(*_GROUPS, "describe", spec.name, *_zonal(spec)),
    )
