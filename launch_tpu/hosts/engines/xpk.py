"""A GKE cluster through xpk, for every generation; the container image holds this package.

Without `cluster` in the specification a cluster is made for the job and deleted with it, and its
nodes have a lifetime. In an existing cluster only the job is made and deleted.
"""

from __future__ import annotations

from launch_tpu.hosts import scripts
from launch_tpu.hosts.commands import LABEL, Argv, Command, Listing, labels
from launch_tpu.hosts.spec import Spec

_PREFIX = "mu-jax-"  # a job in a cluster has no labels of the cloud, so its name carries ours


def plan(spec: Spec) -> list[Command]:
    """Make the cluster if there is none, run the job in it, delete what was made."""
    cluster = [] if spec.cluster else [_create_cluster(spec)]
    job = _create_job(spec)
    give_back = "delete the job" if spec.cluster else "delete the cluster and the job"
    wait = (
        *("xpk", "workload", "list", *_place(spec)),
        f"--wait-for-job-completion={_job(spec)}",
        f"--timeout={round(spec.queue_hours * 3600) + spec.max_seconds}",
    )
    return [
        *cluster,
        Command(_credentials(spec), "let kubectl speak to the cluster"),
        job,
        Command(wait, "wait for the job"),
        Command(job.undo or (), give_back),
    ]


def status(spec: Spec) -> list[Command]:
    """Show the jobs of the cluster."""
    return [Command(("xpk", "workload", "list", *_place(spec)), "show the jobs of the cluster")]


def reap(spec: Spec) -> list[Command | Listing]:
    """Our jobs in the cluster of the specification, or else the clusters with our label."""
    if spec.cluster:
        chosen = (f"--filter-by-job={_PREFIX}", "--force")
        argv = ("xpk", "workload", "delete", *_place(spec), *chosen)
        return [Command(argv, f"delete the jobs whose names begin with {_PREFIX}")]
    key, _, value = LABEL.partition("=")
    ours = f"--filter=resourceLabels.{key}={value} AND location:{spec.region}"
    filters = (ours, "--format=value(name)")
    place = (f"--project={spec.project}", f"--zone={spec.zone}")
    return [
        Listing(
            ("gcloud", "container", "clusters", "list", f"--project={spec.project}", *filters),
            "list the clusters with our label",
            ("xpk", "cluster", "delete", *place, "--force", "--cluster"),
        )
    ]


def _cluster(spec: Spec) -> str:
    return spec.cluster or _PREFIX + spec.name


def _job(spec: Spec) -> str:
    return _PREFIX + spec.name


def _place(spec: Spec) -> Argv:
    return (f"--project={spec.project}", f"--zone={spec.zone}", f"--cluster={_cluster(spec)}")


def _credentials(spec: Spec) -> Argv:
    place = (f"--location={spec.region}", f"--project={spec.project}")
    return ("gcloud", "container", "clusters", "get-credentials", _cluster(spec), *place)


def _create_cluster(spec: Spec) -> Command:
    # xpk appends its custom arguments to gcloud's, where the last --labels rules.
    argv = (
        *("xpk", "cluster", "create", *_place(spec)),
        f"--tpu-type={spec.slice.tpu_type}",
        f"--num-slices={spec.slices}",
        "--spot" if spec.spot else "--on-demand",
        f"--custom-cluster-arguments=--labels=gke_product_type=xpk,{labels(spec.name)}",
        f"--custom-nodepool-arguments=--max-run-duration={spec.max_seconds}s",
        *spec.create_flags,
    )
    there = (f"--location={spec.region}", f"--project={spec.project}")
    return Command(
        argv,
        f"a cluster for the job; each node ends {spec.max_hours:g} h after its start",
        undo=_delete_cluster(spec),
        probe=("gcloud", "container", "clusters", "describe", _cluster(spec), *there),
    )


def _delete_cluster(spec: Spec) -> Argv:
    return ("xpk", "cluster", "delete", *_place(spec), "--force")


def _create_job(spec: Spec) -> Command:
    delete = ("xpk", "workload", "delete", *_place(spec), f"--workload={_job(spec)}", "--force")
    argv = (
        *("xpk", "workload", "create", *_place(spec)),
        f"--workload={_job(spec)}",
        f"--tpu-type={spec.slice.tpu_type}",
        f"--num-slices={spec.slices}",
        f"--docker-image={spec.runtime}",
        "--ttl-seconds-after-finished=3600",
        f"--command={scripts.in_container(spec)}",
    )
    return Command(
        argv,
        f"run the job on {spec.hosts} hosts; it ends itself {spec.max_hours:g} h after its start",
        undo=delete if spec.cluster else _delete_cluster(spec),
        probe=("kubectl", "get", "jobsets", _job(spec)),
    )
