"""How far an unlearned model is from models that somebody retrained for the same request."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from experiments.lib import scoring
from experiments.lib.tasks import Task, like
from mu_jax.reporting import Metric
from mu_jax.service import Job
from mu_jax.store import Store

GAP = "oracle gap"
_ACCURACIES = ("retain accuracy", "forget accuracy", "test accuracy")


def gap_to_oracles(
    task: Task, oracles: Store | None, scored: Mapping[str, Metric], job: Job
) -> dict[str, float]:
    """The mean absolute difference of accuracies to the oracles of a request.

    An oracle is a version of a store of retrained models that has forgotten the very examples
    that the new version has, with those of its ancestors. Where there is none, nothing is said.

    Args:
      oracles: the store, or None. scored: metrics of the unlearned model. job: what it was made of.

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
    shapes, others = like(task), []
    for number in numbers:
        oracle = oracles.restore(number, like=shapes)
        found, _ = scoring.score(task, oracle, job.forget, job.retain, seed=0)
        others.append(_accuracies(found))
    gap = float(np.abs(np.array(_accuracies(scored)) - np.mean(others, axis=0)).mean())
    return {GAP: gap, "oracles": float(len(numbers))}


def _accuracies(found: Mapping[str, Metric]) -> list[float]:
    metrics = (found.get(name) for name in _ACCURACIES)
    return [each.value for each in metrics if each is not None and each.value is not None]
