"""From a model to the numbers of a table row, and to its record."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

import mu_jax as mu
from experiments.tasks import Task
from mu_jax import evaluation
from mu_jax.reporting import Cost, ForgetSet, Metric, Record, missing

PyTree = Any


class Split(NamedTuple):
    """Outputs and targets of one set of examples."""

    outputs: np.ndarray
    targets: np.ndarray


def collect_outputs(task: Task, variables: PyTree, examples: mu.Batches) -> Split:
    """Outputs in inference mode, in the order of the examples."""
    outputs = _apply(task.model, variables, examples.inputs)
    return Split(np.asarray(outputs), np.asarray(examples.targets))


@functools.partial(jax.jit, static_argnums=0)
def _apply(model: mu.Model, variables: PyTree, inputs: PyTree) -> PyTree:
    return model.apply(variables, inputs)


def score(
    task: Task, variables: PyTree, forget: mu.Batches, retain: mu.Batches, *, seed: int
) -> tuple[dict[str, Metric], evaluation.Collapse]:
    """The metrics of one model, and whether it has collapsed.

    Classes of which nothing is retained are left out of the test accuracy. The membership attack
    tells the forget set from the whole test set by the loss; when a class is forgotten a retrained
    model loses more on it than on the others, so the value to reach is that of retraining.
    """
    parts = {
        name: collect_outputs(task, variables, examples)
        for name, examples in (("forget", forget), ("retain", retain), ("test", task.test))
    }
    if task.info.task == "classification":
        return _classification(parts, seed)
    return _regression(parts, seed)


def quality(task: Task, part: Split, name: str) -> dict[str, float]:
    """Accuracy or squared error of one split, by a name that says which."""
    if task.info.task == "classification":
        return {f"{name} accuracy": float(evaluation.accuracy(part.outputs, part.targets))}
    return {f"{name} squared error": float(mu.losses.squared_error(*part).mean())}


def _classification(parts, seed):
    kept_test = _of_classes(parts["test"], np.unique(parts["retain"].targets))
    metrics = {
        f"{name} accuracy": Metric(
            evaluation.accuracy(part.outputs, part.targets), n=len(part.targets), unit="fraction"
        )
        for name, part in (
            ("retain", parts["retain"]),
            ("forget", parts["forget"]),
            ("test", kept_test),
        )
    }
    metrics["MIA"] = membership(
        evaluation.losses(*parts["forget"]),
        evaluation.losses(*parts["test"]),
        seed,
    )
    return metrics, evaluation.collapsed(parts["retain"].outputs, parts["retain"].targets)


def _regression(parts, seed):
    squared = {name: np.asarray(mu.losses.squared_error(*part)) for name, part in parts.items()}
    metrics = {
        f"{name} squared error": Metric(values.mean(), n=values.size)
        for name, values in squared.items()
    }
    metrics["MIA"] = membership(squared["forget"], squared["test"], seed)
    outputs = parts["retain"].outputs
    constant = not np.isfinite(outputs).all() or np.ptp(outputs) == 0
    reason = "constant or non-finite predictions on the retain set" if constant else ""
    return metrics, evaluation.Collapse(bool(constant), reason)


def membership(forget_losses, test_losses, seed) -> Metric:
    """Accuracy of the loss attack, forget against test, or the sentence why there is none."""
    try:
        attack = evaluation.loss_mia(forget_losses, test_losses, seed=seed)
    except ValueError as error:
        return missing(str(error), unit="fraction")
    return Metric(attack.accuracy, n=attack.n, stderr=attack.accuracy_std, unit="fraction")


def _of_classes(part: Split, classes: np.ndarray) -> Split:
    chosen = np.isin(part.targets, classes)
    return Split(part.outputs[chosen], part.targets[chosen])


def record(
    method: str,
    forget_set: ForgetSet,
    seed: int,
    scored: tuple[dict[str, Metric], evaluation.Collapse],
    **fields: Any,
) -> Record:
    """One line of the results."""
    metrics, collapse = scored
    status = {"status": "collapsed", "reason": collapse.reason} if collapse.flag else {}
    return Record(method, forget_set, seed, metrics=metrics, **status, **fields)


def cost(info: mu.Info | None, *, wall_s: float | None = None, compile_s: float | None = None):
    """What a method alone cost."""
    passes = None if info is None else int(info.example_passes)
    device = jax.devices()[0].device_kind
    return Cost(passes, passes, wall_s=wall_s, compile_s=compile_s, device=device)


def values(metrics: dict[str, Metric]) -> dict[str, float]:
    """The numbers that were found, by name."""
    return {name: metric.value for name, metric in metrics.items() if metric.value is not None}
