"""Ensembles of a task on disk: originals, and oracles retrained without a forget set."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import mu_jax as mu
from experiments.lib.running import stored
from experiments.lib.tasks import Task, training_optimizer
from mu_jax import datasets, ensembles
from mu_jax.scoring.ensembles import FEWEST

PyTree = Any
BLOCK = 16  # models in one program

# Seeds: models of different populations share nothing, and no result is reported against models
# that have served to choose something.
ORIGINALS, ORACLES, CHECKPOINTS, CALIBRATION = 0, 1, 1_001, 1_002


class Population(NamedTuple):
    """N models, and their outputs [N, n, K] on the training and the test examples.

    keys: key[N], by which they were trained.
    """

    variables: PyTree
    outputs: np.ndarray
    keys: jax.Array | None = None  # follow from the seed: not kept on disk

    def take(self, start: int, stop: int) -> Population:
        """Models `start` to `stop - 1`."""
        return jax.tree.map(lambda x: x[start:stop], self)

    def model(self, number: int) -> PyTree:
        """Variables of one model."""
        return jax.tree.map(lambda x: x[number], self.variables)


def check_models(models: int) -> None:
    """Refuse so few models a row that KLoM is noise.

    Raises:
      ValueError: fewer than `mu_jax.scoring.ensembles.FEWEST`.
    """
    if models < FEWEST:
        raise ValueError(
            f"expected at least {FEWEST} models, below which KLoM is noise, found {models}; "
            "raise --models"
        )


def train_population(
    task: Task,
    directory: pathlib.Path,
    label: str,
    *,
    models: int,
    examples: mu.Batches | None = None,
    seed: int = 0,
) -> Population:
    """N models trained on `examples` (default all) by the recipe of the task; reused when on disk.

    Model j of a seed is the same whatever N is. Populations that are compared with each other must
    have different seeds, or their models share their initialization.
    """
    examples = task.train if examples is None else examples

    def compute(numbers, examples, everything):
        variables = _train(task, examples, numbers, seed)
        return Population(variables, ensembles.ensemble_outputs(task.model, variables, everything))

    identity = recipe(task, examples, seed)
    found = _stored(task, directory, label, compute, models, examples, identity)
    return found._replace(keys=_keys(seed, np.arange(models)))


def training_seconds(
    task: Task, directory: pathlib.Path, examples: mu.Batches, *, seed: int
) -> float | None:
    """Seconds that a model of a population has taken to train; None where none is known."""
    identity = recipe(task, examples, seed)
    return ensembles.seconds_per_model(directory, identity, examples, everything(task))


class Subsets(NamedTuple):
    """As `Population`, and masks bool[N, n]: the training examples that each model has seen."""

    variables: PyTree
    outputs: np.ndarray
    masks: np.ndarray


def train_subsets(
    task: Task,
    directory: pathlib.Path,
    label: str,
    *,
    models: int,
    fraction: float,
    seed: int = 0,
) -> Subsets:
    """N models, each on its own random subset of the training set; what datamodels and LiRA need.

    Models 2j and 2j + 1 see the first and the last part of one random order, so that halves
    complement each other. An example that is left out has weight 0; in training mode a batch
    normalization still sees it, so these models are for architectures without one.
    """
    kept = round(fraction * task.train.num_examples)
    if not 0 < kept < task.train.num_examples:
        raise ValueError(f"expected a fraction in (0, 1), found {fraction}; 0.5 is usual")

    def mask(number):
        order = jax.random.fold_in(jax.random.key(seed), number // 2)
        place = jax.random.permutation(jax.random.fold_in(order, 1), task.train.num_examples)
        return jnp.where(number % 2 == 0, place < kept, place >= place.size - kept)

    def compute(numbers, examples, everything):
        masks = jax.vmap(mask)(numbers)
        variables = _train(task, examples, numbers, seed, masks.astype(jnp.float32))
        outputs = ensembles.ensemble_outputs(task.model, variables, everything)
        return Subsets(variables, outputs, masks)

    identity = {**recipe(task, task.train, seed), "fraction": fraction}
    return _stored(task, directory, label, compute, models, task.train, identity)


def _train(
    task: Task,
    examples: mu.Batches,
    numbers: jax.Array,
    seed: int,
    weights: jax.Array | None = None,
) -> PyTree:
    """The models of these numbers, by the recipe of the task."""
    training = task.config.training
    return ensembles.train(
        task.model,
        training_optimizer(task, examples),
        examples,
        _keys(seed, numbers),
        weights,
        init=task.init,
        epochs=training.epochs,
        batch_size=training.batch_size,
    )


def _keys(seed: int, numbers: Any) -> jax.Array:
    key = jax.random.key(seed)
    return jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)


def _stored(
    task: Task,
    directory: pathlib.Path,
    label: str,
    compute: Callable[..., Any],
    models: int,
    examples: mu.Batches,
    identity: dict[str, Any],
) -> Any:
    """The population that `compute` gives, from disk where it is there."""
    return stored(
        label,
        directory,
        identity,
        compute,
        models,
        examples,
        everything(task),
        block=min(BLOCK, models),
    )


def recipe(task: Task, examples: mu.Batches, seed: int) -> dict[str, Any]:
    """What tells one population from another, as JSON."""
    names = ("dataset", "label", "limit", "loss", "model", "training")
    config = {name: value for name, value in task.config.to_dict().items() if name in names}
    absent = np.setdiff1d(np.asarray(task.train.index), np.asarray(examples.index))
    return {**config, "without": datasets.digest(absent) if absent.size else "", "seed": seed}


def everything(task: Task) -> mu.Batches:
    """The training examples, then the test examples."""
    return mu.concatenate(task.train, task.test)


def positions(task: Task, forget_ids: np.ndarray) -> dict[str, np.ndarray]:
    """Where the examples of each split stand in `everything`."""
    train = np.arange(task.train.num_examples)
    forget = np.isin(np.asarray(task.train.index), forget_ids)
    test = train.size + np.arange(task.test.num_examples)
    return {"forget": train[forget], "retain": train[~forget], "test": test}
