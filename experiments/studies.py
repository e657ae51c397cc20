"""One forget set on N models: oracles, the retrained row, every method from the same originals."""

from __future__ import annotations

import pathlib
import time

import jax
import numpy as np

import mu_jax as mu
from experiments.comparison import Row, Study
from experiments.constant import CONSTANT, constant_outputs
from experiments.methods import Request, make_method, method_arguments
from experiments.populations import (
    ORACLES,
    Population,
    everything,
    positions,
    train_population,
)
from experiments.running import stage
from experiments.tasks import Task, split
from mu_jax import ensembles, evaluation


def study(
    task: Task,
    ids: np.ndarray,
    originals: Population,
    directory: pathlib.Path,
    *,
    oracles: np.ndarray | None = None,
) -> Study:
    """Retrain 2 N models without the forget set, and unlearn it from N originals with every method.

    Args:
      task: the task; its configuration names the methods.
      ids: of the forget set.
      originals: N models trained on everything.
      directory: where ensembles are kept.
      oracles: margins f32[N', n] of other oracles, on `everything`; default the first N retrained.
    """
    models = len(originals.outputs)
    retain = split(task, ids)[1]
    retrained = train_population(
        task, directory, "retrain", models=2 * models, examples=retain, seed=ORACLES
    )
    if oracles is None:
        first = retrained.take(0, models).outputs
        oracles = np.asarray(evaluation.margins(first, everything(task).targets))
    rows = [
        Row("retrain", retrained.take(models, 2 * models).outputs),
        Row("do nothing", originals.outputs, wall_s=0.0),
        constant(task, retain, models),
        *unlearn_all(task, ids, originals, directory),
    ]
    return Study(task, positions(task, ids), oracles, rows)


def constant(task: Task, retain: mu.Batches, models: int) -> Row:
    """The row of the constant predictor, in place of N models."""
    outputs = constant_outputs(task, retain, everything(task).num_examples)
    return Row(CONSTANT, np.broadcast_to(outputs, (models, *outputs.shape)), wall_s=0.0)


def unlearn_all(
    task: Task, ids: np.ndarray, originals: Population, directory: pathlib.Path, label: str = ""
) -> list[Row]:
    """The rows of every method of the configuration, from the same originals."""
    forget, retain = split(task, ids)
    rows = []
    for name in task.config.methods:
        with stage(f"{label}{name}, {len(originals.outputs)} models"):
            rows.append(unlearn(task, name, Request(forget, directory), retain, originals))
    return rows


def unlearn(
    task: Task, name: str, request: Request, retain: mu.Batches, originals: Population
) -> Row:
    """Outputs of the N models that a method makes of the originals, and its time for one."""
    start = time.monotonic()
    transform = make_method(task, name, request)
    precompute_s = time.monotonic() - start
    models = len(originals.outputs)

    @jax.jit
    def program(keys, variables, forget, retain, examples):
        found, info = ensembles.unlearn(transform, keys, variables, forget, retain)
        return ensembles.ensemble_outputs(task.model, found, examples), info.example_passes

    keys = jax.random.split(jax.random.key(2), models)
    arguments = keys, originals.variables, request.forget, retain, everything(task)
    compiled = program.lower(*arguments).compile()
    start = time.monotonic()
    outputs, passes = jax.block_until_ready(compiled(*arguments))
    return Row(
        name,
        np.asarray(outputs),
        wall_s=(time.monotonic() - start) / models,
        precompute_s=precompute_s,
        passes=float(np.mean(passes)),
        hyperparameters=method_arguments(task, name),
    )
