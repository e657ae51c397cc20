"""How a configuration answers requests: its methods as recipes of `mu_jax.service.Service`."""

from __future__ import annotations

import contextlib
import functools
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

import mu_jax as mu
from experiments.lib import guard, initial, pending, scoring, stored_statistics, tasks
from experiments.lib.methods import Request, make_method, method_arguments
from experiments.lib.protocols import of_lineage
from experiments.lib.running import stage
from experiments.lib.serving_oracles import gap_to_oracles
from experiments.lib.tasks import Task
from mu_jax.service import APPROXIMATE, Guarantee, Job, Made, Recipe, Work
from mu_jax.store import Store

RETRAINING = Guarantee(
    "exact", "training by the recipe of the configuration on the retained examples"
)
_KEYS = {False: "the key of the lineage", True: "a key of its own"}


def split(task: Task, work: Work) -> tuple[mu.Batches, mu.Batches]:
    """The sets of a run: nothing that was ever asked for and not refused is retained."""
    return tasks.split(_left(task, work), work.forget)


def unlearning(
    task: Task,
    store: Store,
    method: str,
    workdir: pathlib.Path,
    *,
    seed: int,
    oracles: Store | None = None,
) -> Recipe:
    """The configured method; what later requests need lies in `ensembles` and `statistics`.

    Args:
      store: whose version is unlearned from.
      method: of the configuration, complete. seed: of the method; each run has a key of its own,
        which a protocol does not read.
      oracles: of models that were retrained for requests to come.
    """
    arguments = method_arguments(task, method)
    named = arguments.get("method", method)
    parameters = arguments if task.protocol is not None else {**arguments, "seed": seed}

    def make(job: Job) -> Made:
        left = _left(task, job.work)
        begun = functools.partial(initial.of_lineage, task, store, job.work.parent)
        known = stored_statistics.over_all(left, job.before, workdir)
        request = Request(job.forget, workdir / "ensembles", begun, known)
        transform = make_method(left, method, request)
        transform = mu.watched(transform, False)  # the guard measures, and says it in a sentence
        key = jax.random.fold_in(jax.random.key(seed), job.work.run)
        with _state(workdir, job) as claim:
            with stage(method):
                variables, info = transform(key, job.before, job.forget, job.retain)
            if not info.edit.finite:
                return Made(None, withheld="its weights are not finite")
            found, collapse = scoring.score(task, variables, job.forget, job.retain, seed=seed)
            models = (job.before, variables)
            changes, withheld = guard.judge(task, models, job.forget, job.retain, info, collapse)
            claim.require_held()
        if named == "retrain" and withheld.startswith(guard.NOTHING):
            withheld = ""  # what a retrained model knows of an example, the others have taught it
        gap = gap_to_oracles(task, oracles, found, job)
        return Made(variables, scoring.values(found | changes) | gap, withheld)

    return Recipe(
        method,
        make,
        parameters,
        _decides(task, oracles),
        guarantee=_removal(task, named),
        whole=task.protocol is not None,
    )


def retraining(task: Task, workdir: pathlib.Path, *, seed: int) -> Recipe:
    """Training from scratch, by the recipe of the configuration, on what is retained."""

    def make(job: Job) -> Made:
        key = jax.random.fold_in(jax.random.key(seed), job.work.run)
        with _state(workdir, job) as claim:
            with stage("retrain"):
                variables = tasks.train(of_lineage(task, job.before), key, job.retain)
            found, collapse = scoring.score(task, variables, job.forget, job.retain, seed=seed)
            claim.require_held()
        withheld = f"it has collapsed: {collapse.reason}" if collapse.flag else ""
        return Made(variables, scoring.values(found), withheld)

    parameters = {"seed": seed, **tasks.recipe(task)}
    guarantee = RETRAINING if task.protocol is None else exactly(task.protocol, anew=True)
    return Recipe("retrain", make, parameters, _decides(task), guarantee=guarantee)


def exactly(protocol: mu.exact.SISA | mu.exact.S3T, *, anew: bool = False) -> Guarantee:
    """What a removal by a protocol promises, or a new lineage."""
    name, on = "SISA", "on the retained examples"
    words = f"{protocol.shards} shards, {protocol.slices} slices"
    if isinstance(protocol, mu.exact.S3T):
        name, words = "S3T", f"{words}, {len(protocol.orders)} orders, a frozen base"
        on += "" if anew else " without the slices that lost one"
    return Guarantee("exact", f"{name}, {words}: training {on}, with {_KEYS[anew]}")


def _removal(task: Task, named: str) -> Guarantee:
    if task.protocol is not None:
        return exactly(task.protocol)
    return RETRAINING if named == "retrain" else APPROXIMATE


def _left(task: Task, work: Work) -> Task:
    """The task without what earlier runs have forgotten, and what waits to be."""
    return tasks.without(task, np.setdiff1d(work.excluded, work.forget))


def _decides(task: Task, oracles: Store | None = None) -> dict[str, Any]:
    found = pending.describe(pathlib.Path(), "serve_requests", task).decides
    where = None if oracles is None else str(oracles.directory)
    return json.loads(json.dumps(found | {"oracles": where}))


@contextlib.contextmanager
def _state(workdir: pathlib.Path, job: Job) -> Iterator[pending.Claim]:
    """The state of a run, which goes on where it was after a stop."""
    decides, folder = {"identity": job.identity}, workdir / "state" / job.identity[:16]
    this = pending.Run(f"run {job.work.run} of the ledger", decides, job.identity, folder)
    with pending.alone(this, restart=False) as claim, mu.resumable(folder, config=decides):
        yield claim
