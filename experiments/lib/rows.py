"""The rows of a study: N originals, what every method makes of them, and retrained models.

A search has two halves that share no model, neither originals nor oracles: settings are chosen in
the half "tuning", and what is said of the chosen ones comes from the half "reporting", whose models
are those of `experiments.benchmark`. Within a half, seed s takes the s-th N models of every
population, so that seeds share none either.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import time
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

import mu_jax as mu
from experiments.lib import initial
from experiments.lib.constant import constant_outputs
from experiments.lib.methods import Request, method_arguments
from experiments.lib.populations import (
    ORACLES,
    ORIGINALS,
    Population,
    everything,
    positions,
    train_population,
    training_seconds,
)
from experiments.lib.running import stage
from experiments.lib.tasks import Task, read_ids, split
from mu_jax import _progress, ensembles, evaluation
from mu_jax.scoring.ensembles import Yardstick, klom_of
from mu_jax.scoring.rows import CONSTANT, NOTHING, RETRAIN

Half = Literal["tuning", "reporting"]
SEEN = 3  # models of a row that are looked into
SEEDS = {"tuning": (2_001, 2_002), "reporting": (ORIGINALS, ORACLES)}  # of originals, of oracles


class Row(NamedTuple):
    """One method: outputs f32[N, n, K] on the training and test examples, and what it cost.

    seen: variables of the first `SEEN` models, to look inside; None where there are none.
    compile_s: seconds of compilation, where they were measured.
    """

    name: str
    outputs: np.ndarray
    wall_s: float | None = None
    precompute_s: float | None = None
    passes: float | None = None
    hyperparameters: dict[str, Any] = {}  # noqa: RUF012
    seen: Any = None
    compile_s: float | None = None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Bench(Yardstick):
    """What all methods on one forget set share; equal to itself only.

    ids: of the forget set. arguments: keys, originals, forget set, retain set and all examples, as
    a program takes them. untouched: outputs f32[N, n, K] of the originals. trained_by: their keys.
    """

    task: Task
    directory: pathlib.Path
    ids: np.ndarray
    arguments: tuple[Any, ...]
    untouched: np.ndarray
    trained_by: jax.Array

    @functools.cached_property
    def initial(self) -> Any:
        """What the originals were trained from."""
        return initial.of_models(self.task, self.trained_by)


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """The rows of one forget set and what they are measured against.

    rows: the first is retrained, the second untouched.
    """

    task: Task
    yardstick: Yardstick
    rows: list[Row]

    @functools.cached_property
    def klom(self) -> dict[str, np.ndarray | None]:
        """KLoM of every row for every example, f32[n], by name; see `klom_of`."""
        return {row.name: klom_of(self.yardstick, row.outputs) for row in self.rows}


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
    found = train_population(
        task, directory, "retrain", models=2 * models, examples=retain, seed=ORACLES
    )
    retrained = found.outputs
    rows = [
        Row(
            RETRAIN,
            retrained[models:],
            wall_s=training_seconds(task, directory, retain, seed=ORACLES),
            passes=task.config.training.epochs * retain.num_examples,
            seen=found.take(models, models + SEEN).variables,
        ),
        Row(NOTHING, originals.outputs, wall_s=0.0, seen=originals.take(0, SEEN).variables),
        constant(task, retain, models),
        *unlearn_all(task, ids, originals, directory),
    ]
    targets = np.asarray(everything(task).targets)
    if oracles is None:
        oracles = np.asarray(evaluation.margins(retrained[:models], targets))
    yardstick = Yardstick(
        targets, positions(task, ids), oracles, retrained[models:], others=retrained[:models]
    )
    return Study(task, yardstick, rows)


@functools.lru_cache(maxsize=2)
def make_bench(
    task: Task, directory: pathlib.Path, half: Half, request: str, seed: int, models: int
) -> Bench:
    """Originals and oracles of one half and one seed, from disk where they are there.

    Args:
      task: the task.
      directory: where ensembles are kept.
      half, seed: which models. models: N.
      request: what to forget.

    Cost: trains N originals and 2 N oracles where they are not on disk.
    """
    ids = read_ids(task, request)
    forget, retain = mu.split(task.train, ids)
    first, last = models * seed, models * (seed + 1)
    originals_seed, oracles_seed = SEEDS[half]
    originals = train_population(
        task, directory, f"{half} originals", models=last, seed=originals_seed
    ).take(first, last)
    label = f"{half} oracles of {request}"
    retrained = train_population(
        task, directory, label, models=2 * last, examples=retain, seed=oracles_seed
    ).outputs[2 * first :]
    examples = everything(task)
    targets = np.asarray(examples.targets)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(2), seed), models)
    return Bench(
        targets=targets,
        positions=positions(task, ids),
        oracles=np.asarray(evaluation.margins(retrained[:models], targets)),
        retrained=retrained[models:],
        others=retrained[:models],
        task=task,
        directory=directory,
        ids=ids,
        arguments=(keys, originals.variables, forget, retain, examples),
        untouched=originals.outputs,
        trained_by=originals.keys,
    )


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
    for name in _progress.each(task.config.methods, label.strip(" :"), "method"):
        with stage(f"{label}{name}, {len(originals.outputs)} models"):
            rows.append(unlearn(task, name, Request(forget, directory), retain, originals))
    return rows


def unlearn(
    task: Task, name: str, request: Request, retain: mu.Batches, originals: Population
) -> Row:
    """Outputs of the N models that a method makes of the originals, and its time for one."""
    start = time.monotonic()
    make = initial.maker(task, name, request)
    precompute_s = time.monotonic() - start
    models = len(originals.outputs)
    before = initial.read_by(task, name, originals.keys)

    @jax.jit
    def program(keys, variables, before, forget, retain, examples):
        found, info = initial.unlearn(make, keys, variables, before, forget, retain)
        outputs = ensembles.ensemble_outputs(task.model, found, examples)
        return outputs, info.example_passes, jax.tree.map(lambda x: x[:SEEN], found)

    keys = jax.random.split(jax.random.key(2), models)
    arguments = keys, originals.variables, before, request.forget, retain, everything(task)
    compiled = program.lower(*arguments).compile()
    start = time.monotonic()
    outputs, passes, seen = jax.block_until_ready(compiled(*arguments))
    return Row(
        name,
        np.asarray(outputs),
        wall_s=(time.monotonic() - start) / models,
        precompute_s=precompute_s,
        passes=float(np.mean(passes)),
        hyperparameters=method_arguments(task, name),
        seen=jax.device_get(seen),
    )
