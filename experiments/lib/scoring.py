"""From a model of a task to its numbers, by the rules of `mu_jax.scoring`."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

import mu_jax as mu
from experiments.lib.tasks import Task
from mu_jax import evaluation
from mu_jax.reporting import Cost, Examples, Metric
from mu_jax.scoring import kinds, single
from mu_jax.scoring.examples import examples_of
from mu_jax.scoring.kinds import Part

PyTree = Any


def collect_outputs(task: Task, variables: PyTree, examples: mu.Batches) -> Part:
    """Outputs in inference mode, in the order of the examples; of a regression its predictions."""
    outputs, targets = _apply(task.model, variables, examples.inputs), examples.targets
    if task.info.task == "regression":
        outputs = kinds.point(outputs, targets)
    return Part(np.asarray(outputs), np.asarray(targets))


@functools.partial(jax.jit, static_argnums=0)
def _apply(model: mu.Model, variables: PyTree, inputs: PyTree) -> PyTree:
    return model.apply(variables, inputs)


def measure(
    task: Task, parts: dict[str, Part], *, seed: int
) -> tuple[dict[str, Metric], evaluation.Collapse]:
    """The metrics of one model, from `outputs_of`, and whether it has collapsed."""
    return single.measure_model(task.info.task, parts, seed)


def score(
    task: Task, variables: PyTree, forget: mu.Batches, retain: mu.Batches, *, seed: int
) -> tuple[dict[str, Metric], evaluation.Collapse]:
    """`measure` where nobody asks for the outputs."""
    return measure(task, outputs_of(task, variables, forget, retain), seed=seed)


def outputs_of(
    task: Task, variables: PyTree, forget: mu.Batches, retain: mu.Batches
) -> dict[str, Part]:
    """Outputs and targets of one model on the forget, retain and test examples."""
    sets = {"forget": forget, "retain": retain, "test": task.test}
    return {name: collect_outputs(task, variables, part) for name, part in sets.items()}


def examples(
    task: Task, parts: dict[str, Part], forget: mu.Batches, retain: mu.Batches
) -> dict[str, Examples]:
    """What one model says of single examples, from `outputs_of`: the arrays behind its metrics."""
    sets = {"forget": forget, "retain": retain, "test": task.test}
    return {
        name: examples_of(
            task.info.task,
            parts[name].outputs[None],
            parts[name].targets,
            np.asarray(part.index),
        )
        for name, part in sets.items()
    }


def quality(task: Task, part: Part, name: str) -> dict[str, float]:
    """Accuracy or squared error of one split, by a name that says which."""
    if task.info.task == "regression":
        return {f"{name} squared error": float(mu.losses.squared_error(*part).mean())}
    return {f"{name} accuracy": kinds.accuracy(*part)}


def effect(
    task: Task, models: tuple[PyTree, PyTree], forget: mu.Batches, retain: mu.Batches
) -> tuple[dict[str, Metric], evaluation.NothingForgotten]:
    """What a request changed on the forget set, and whether nothing was forgotten at all.

    Args:
      models: the variables before and after.
    """
    found = mu.effect(_scored(task), *models, forget, retain)
    names = ("forget loss before", "forget loss")
    losses = zip(names, found.forget.loss, strict=True)
    metrics = {name: Metric(float(loss), n=forget.num_examples) for name, loss in losses}
    return metrics, found.nothing_forgotten()


def _scored(task: Task) -> mu.Model:
    """The model with the loss by which a task of this kind is scored."""
    kind = task.info.task
    return dataclasses.replace(task.model, loss=_LOSSES.get(kind, mu.losses.cross_entropy))


def _squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return mu.losses.squared_error(kinds.point(outputs, targets), targets)


_LOSSES = {"regression": _squared_error, "multilabel": mu.losses.binary_cross_entropy}


def cost(info: mu.Info | None, *, wall_s: float | None = None, compile_s: float | None = None):
    """What a method alone cost."""
    passes = None if info is None else int(info.example_passes)
    device = jax.devices()[0].device_kind
    return Cost(passes, passes, wall_s=wall_s, compile_s=compile_s, device=device)


def values(metrics: dict[str, Metric]) -> dict[str, float]:
    """The numbers that were found, by name."""
    return {name: metric.value for name, metric in metrics.items() if metric.value is not None}
