"""Attribution for datamodel matching: checkpoints, TRAK, and a multiplier from a held-out group."""

from __future__ import annotations

import functools
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.lib.populations import (
    CALIBRATION,
    CHECKPOINTS,
    Population,
    positions,
    train_population,
)
from experiments.lib.tasks import Task, like, read_ids, split
from mu_jax import attribution

UNPROJECTED = 4096  # parameters up to which nothing is projected


class Attribution(NamedTuple):
    """store: TRAK in its Gauss-Newton form. multiplier: by which to scale its effects."""

    store: attribution.Trak
    multiplier: float


def prepare(task: Task, settings: dict[str, Any], directory: pathlib.Path) -> Attribution:
    """What every request of this task shares; computed once in a process.

    Args:
      task: the task.
      settings: `checkpoints`, how many models to train for TRAK; `dim`, columns of its projection,
        None for none, chosen by the size of the model if it is absent;
        `retain_only`, see `attribution.group_direction`; `calibration`, requests for held-out
        groups; `calibration_models`, how many models to retrain without each.
      directory: where ensembles are kept.

    The multiplier is the mean over the held-out groups of the least-squares factor from predicted
    to observed changes of the outputs on the group, observed between the checkpoints and models
    retrained without it. No oracle that a result is reported against takes part.
    """
    items = tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in settings.items())
    return _prepare(task, items, directory)


@functools.lru_cache(maxsize=4)
def _prepare(task: Task, items: tuple, directory: pathlib.Path) -> Attribution:
    settings = {"dim": _dim(task), **dict(items)}
    population = train_population(
        task, directory, "attribution", models=settings["checkpoints"], seed=CHECKPOINTS
    )
    decay = task.config.training.weight_decay
    store = attribution.trak(
        task.model,
        [population.model(j) for j in range(settings["checkpoints"])],
        task.train,
        key=jax.random.key(0),
        dim=settings["dim"],
        weight_decay=decay,
        ridge=0.0 if decay else 1e-3,  # without weight decay the matrix may be singular
    )
    factors = [
        _multiplier(task, settings, directory, request, population, store)
        for request in settings["calibration"]
    ]
    return Attribution(store, float(np.mean(factors)))


def _dim(task: Task) -> int | None:
    """No projection of a small model; else 2,048 columns, or as many as there are examples."""
    shapes = task.model.params(like(task))
    size = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    return None if size <= UNPROJECTED else min(2048, task.train.num_examples)


def _multiplier(
    task: Task,
    settings: dict[str, Any],
    directory: pathlib.Path,
    request: str,
    population: Population,
    store: attribution.Trak,
) -> float:
    """The factor from predicted to observed changes on one held-out group."""
    ids = read_ids(task, request)
    forget, retain = split(task, ids)
    retrained = train_population(
        task,
        directory,
        f"calibration on {request}",
        models=settings["calibration_models"],
        examples=retain,
        seed=CALIBRATION,
    )
    rows = positions(task, ids)["forget"]
    observed = population.outputs[:, rows].mean(0) - retrained.outputs[:, rows].mean(0)
    predicted = store.effect(forget, forget, retain_only=settings.get("retain_only", False))
    return float(attribution.multiplier(predicted, observed))
