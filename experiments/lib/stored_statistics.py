"""Statistics over all training examples at the variables that serve, kept for the next request.

A statistic is valid for its variables, examples and definition alone. It lies in a
`mu_jax.store.Store`, under the digest of these: another statistic is never found in its place, and
a damaged one is computed again. Those of other variables are deleted, since no request may use
them, and since they were summed over examples that may be forgotten by now.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import mu_jax as mu
from experiments.lib import pending
from experiments.lib.running import stage
from experiments.lib.tasks import Task
from mu_jax import _progress
from mu_jax.statistics import Accumulator, Statistic
from mu_jax.store import Store, Version

PyTree = Any
FOLDER = "statistics"
OverAll = Callable[[Statistic], Accumulator]


def over_all(task: Task, variables: PyTree, workdir: pathlib.Path) -> OverAll:
    """What gives statistics over the training examples of a task, from disk where they are there.

    Args:
      task: without the examples that are forgotten or wait to be, but for those of the request.
      variables: before the request.
    """
    return functools.partial(_over_all, task, variables, workdir / FOLDER)


def discard(workdir: pathlib.Path) -> None:
    """Delete what is kept: the variables that serve are others now."""
    _keep(Store(workdir / FOLDER), lambda version: False)


def _over_all(
    task: Task, variables: PyTree, folder: pathlib.Path, statistic: Statistic
) -> Accumulator:
    store, own = Store(folder), pending.fingerprint(variables)
    this = pending.describe(folder, "", task, variables=own, statistic=statistic.definition)
    if stale := _keep(store, lambda version: version.hyperparameters["variables"] == own):
        _progress.say(f"  {stale} stored for other variables: not valid any more, deleted")
    what = f"{statistic.definition} over {task.train.num_examples} examples"
    if (number := store.find(this.identity)) is not None:
        found = store.restore(number, like=statistic.init(variables))
        _progress.say(f"  {what}: as stored")
        return found
    with stage(what):
        found = mu.collect(statistic, variables, task.train)
    hyperparameters = {"variables": own, "examples": task.train.num_examples}
    store.publish(
        found,
        method=statistic.definition,
        hyperparameters=hyperparameters,
        identity=this.identity,
    )
    return found


def _keep(store: Store, valid: Callable[[Version], bool]) -> str:
    """Delete the arrays of statistics that are not valid; which they were, in words."""
    there = [version for version in store.history() if version.restorable]
    stale = [version.method for version in there if not valid(version)]
    if stale:
        store.prune(keep=0, pinned=[version.version for version in there if valid(version)])
    return ", ".join(dict.fromkeys(stale))
