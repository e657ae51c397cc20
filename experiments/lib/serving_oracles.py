"""How far an unlearned model is from models that somebody retrained for the same request."""

from __future__ import annotations

import jax
import numpy as np

from experiments.lib import scoring
from experiments.lib.tasks import Task
from mu_jax.service import Job
from mu_jax.store import Store

GAP = "oracle gap"
_ACCURACIES = ("retain accuracy", "forget accuracy", "test accuracy")


def gap_to_oracles(task: Task, oracles: Store | None, variables, job: Job) -> dict[str, float]:
    """The mean absolute difference of accuracies to the oracles of a request.

    An oracle is a version of a store of retrained models that has forgotten the very examples
    that the new version has, with those of its ancestors. Where there is none, nothing is said.

    Args:
      oracles: the store, or None. variables: of the unlearned model. job: what it was made of.

    Returns:
      `{"oracle gap": ..., "oracles": how many}`, or nothing.
    """
    if oracles is None:
        return {}
    index, retained = np.asarray(task.train.index), np.asarray(job.retain.index)
    unseen = np.setdiff1d(index, retained)
    numbers = [
        each.version
        for each in oracles.history()
        if each.restorable and np.array_equal(oracles.forgotten(each.version), unseen)
    ]
    if not numbers:
        return {}
    like = jax.eval_shape(task.init, jax.random.key(0))
    models = [variables, *(oracles.restore(number, like=like) for number in numbers)]
    rows = np.array([_accuracies(task, model, job) for model in models])
    gap = float(np.abs(rows[0] - rows[1:].mean(axis=0)).mean())
    return {GAP: gap, "oracles": float(len(numbers))}


def _accuracies(task: Task, variables, job: Job) -> list[float]:
    found, _ = scoring.score(task, variables, job.forget, job.retain, seed=0)
    metrics = (found.get(name) for name in _ACCURACIES)
    return [each.value for each in metrics if each is not None and each.value is not None]
