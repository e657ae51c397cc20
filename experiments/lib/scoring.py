"""From a model to the numbers of a table row, and to its record."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

import mu_jax as mu
from experiments.lib.constant import constant_outputs
from experiments.lib.tasks import Task, point
from mu_jax import evaluation
from mu_jax.reporting import Cost, ForgetSet, Metric, Record, missing

PyTree = Any


class Split(NamedTuple):
    """Outputs and targets of one set of examples."""

    outputs: np.ndarray
    targets: np.ndarray


def collect_outputs(task: Task, variables: PyTree, examples: mu.Batches) -> Split:
    """Outputs in inference mode, in the order of the examples; of a regression its predictions."""
    outputs, targets = _apply(task.model, variables, examples.inputs), examples.targets
    if task.info.task == "regression":
        outputs = point(outputs, targets)
    return Split(np.asarray(outputs), np.asarray(targets))


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
    sets = {"forget": forget, "retain": retain, "test": task.test}
    parts = {name: collect_outputs(task, variables, part) for name, part in sets.items()}
    return _scored(task, parts, seed)


def score_constant(
    task: Task, forget: mu.Batches, retain: mu.Batches, *, seed: int
) -> tuple[dict[str, Metric], evaluation.Collapse]:
    """What `score` says of the constant predictor."""
    sets = {"forget": forget, "retain": retain, "test": task.test}
    parts = {
        name: Split(constant_outputs(task, retain, part.num_examples), np.asarray(part.targets))
        for name, part in sets.items()
    }
    return _scored(task, parts, seed)


def quality(task: Task, part: Split, name: str) -> dict[str, float]:
    """Accuracy or squared error of one split, by a name that says which."""
    if task.info.task == "regression":
        return {f"{name} squared error": float(mu.losses.squared_error(*part).mean())}
    return {f"{name} accuracy": accuracy(*part)}


def accuracy(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Accuracy of one model on classes [n]; on labels of yes and no [n, K] their mean accuracy.

    NaN where an output is NaN: it would count as a "no", and be right where that is the label.
    """
    if targets.ndim > 1:
        return float(np.where(np.isnan(outputs), np.nan, (outputs > 0) == targets).mean())
    return float(evaluation.accuracy(outputs, targets))


def example_losses(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Cross-entropy of every example; of several labels of yes and no their mean, `f32[n]`."""
    find = mu.losses.binary_cross_entropy if targets.ndim > 1 else evaluation.losses
    return np.asarray(find(outputs, targets))


def collapse(outputs: np.ndarray, targets: np.ndarray) -> evaluation.Collapse:
    """Whether a classifier has collapsed; of labels of yes and no each combination is a class."""
    if targets.ndim == 1:
        return evaluation.collapsed(outputs, targets)
    if not np.isfinite(outputs).all():
        return evaluation.Collapse(True, "non-finite outputs on retained examples")
    powers = 2 ** np.arange(targets.shape[1])
    return evaluation.collapsed((outputs > 0) @ powers, targets @ powers)


def collapse_of_regression(outputs: np.ndarray) -> evaluation.Collapse:
    """Whether a regression says the same of all retained examples, or no number."""
    constant = not np.isfinite(outputs).all() or np.ptp(outputs, axis=0).max() == 0
    reason = "constant or non-finite predictions on the retain set" if constant else ""
    return evaluation.Collapse(bool(constant), reason)


def effect(
    task: Task,
    models: tuple[PyTree, PyTree],
    forget: mu.Batches,
    retain: mu.Batches,
    *,
    moved: bool,
) -> tuple[dict[str, Metric], evaluation.NothingForgotten]:
    """What a request changed on the forget set, and whether nothing was forgotten at all.

    Args:
      models: the variables before and after. moved: whether a weight differs between them.
    """
    parts = [collect_outputs(task, variables, forget) for variables in models]
    losses = [_one_loss_each(task, part) for part in parts]
    names = ("forget loss before", "forget loss")
    metrics = {name: Metric(each.mean(), n=each.size) for name, each in zip(names, losses)}
    if task.info.task != "classification":
        return metrics, evaluation.nothing_forgotten(*losses, moved=moved)
    before, after = (part.outputs.argmax(-1) == part.targets for part in parts)
    found = evaluation.nothing_forgotten(
        *losses,
        moved=moved,
        correct_before=before,
        correct_after=after,
        unretained=~np.isin(parts[0].targets, np.asarray(retain.targets)),
    )
    return metrics, found


def _one_loss_each(task: Task, part: Split) -> np.ndarray:
    find = mu.losses.squared_error if task.info.task == "regression" else example_losses
    return np.asarray(find(*part)).reshape(len(part.targets), -1).mean(1)


def _scored(task, parts, seed):
    if task.info.task == "regression":
        return _regression(parts, seed)
    return _classification(parts, seed)


def _classification(parts, seed):
    kept_test = _of_classes(parts["test"], np.unique(parts["retain"].targets))
    metrics = {
        f"{name} accuracy": Metric(accuracy(*part), n=len(part.targets), unit="fraction")
        for name, part in (
            ("retain", parts["retain"]),
            ("forget", parts["forget"]),
            ("test", kept_test),
        )
    }
    losses = (example_losses(*parts[name]) for name in ("forget", "test"))
    metrics["MIA"] = membership(*losses, seed)
    return metrics, collapse(*parts["retain"])


def _regression(parts, seed):
    squared = {name: np.asarray(mu.losses.squared_error(*part)) for name, part in parts.items()}
    metrics = {
        f"{name} squared error": Metric(values.mean(), n=values.size)
        for name, values in squared.items()
    }
    metrics["MIA"] = membership(squared["forget"], squared["test"], seed)
    return metrics, collapse_of_regression(parts["retain"].outputs)


def membership(forget_losses, test_losses, seed) -> Metric:
    """Accuracy of the loss attack, forget against test, or the sentence why there is none."""
    try:
        attack = evaluation.loss_mia(forget_losses, test_losses, seed=seed)
    except ValueError as error:
        return missing(str(error), unit="fraction")
    return Metric(attack.accuracy, n=attack.n, stderr=attack.accuracy_stderr, unit="fraction")


def _of_classes(part: Split, classes: np.ndarray) -> Split:
    if part.targets.ndim > 1:
        return part
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
