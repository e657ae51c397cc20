"""Whether an unlearned model may serve: not if it collapsed, is damaged, or forgot nothing."""

from __future__ import annotations

from typing import Any

import mu_jax as mu
from experiments.lib import scoring
from experiments.lib.tasks import Task
from mu_jax import evaluation
from mu_jax.reporting import Metric

PyTree = Any
NOTHING = "it has forgotten nothing"  # how the reason begins that a person may override


def judge(
    task: Task,
    models: tuple[PyTree, PyTree],
    forget: mu.Batches,
    retain: mu.Batches,
    info: mu.Info,
    collapse: evaluation.Collapse,
) -> tuple[dict[str, Metric], str]:
    """What a request changed on the forget set, and why the new model should not serve.

    Args:
      models: the variables before and after. info: of the method that was run.
      collapse: what `scoring.measure` says of the new model.

    Returns:
      The metrics of `scoring.effect`, and a reason to publish the model for inspection only; "" if
      it may serve.
    """
    changes, nothing = scoring.effect(task, models, forget, retain)
    if not info.edit.finite:
        return changes, "its weights are not finite"
    if collapse.flag:
        return changes, f"it has collapsed: {collapse.reason}"
    if task.protocol is not None:
        return changes, ""  # an exact model knows of an example what the others have taught it
    return changes, f"{NOTHING}: {nothing.reason}" if nothing.flag else ""


def refusal(version: int | str, withheld: str) -> str:
    """The sentence about a version that is withheld, without what happens instead."""
    return f"Version {version} is published for inspection and does not serve, since {withheld}"
