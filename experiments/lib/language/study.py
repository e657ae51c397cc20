"""The rows of a language task: N targets, N retrained models, what methods make, what comes back.

Every population is computed as one program over its models, block by block, and is found again on
disk by its recipe and the bytes of what it was computed from: a run that was stopped goes on behind
the last block that it finished.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.lib.language.methods import make_method, method_arguments
from experiments.lib.language.task import Split, Task
from experiments.lib.running import stored
from mu_jax import ensembles, probes

PyTree = Any
# Seeds of populations, which share no initialization; of methods, and of relearning.
TARGETS, RETRAINED, UNLEARN, RELEARN = 0, 1, 2, 3


class Models(NamedTuple):
    """N models of a row: variables with a leading axis, and what was read of them.

    logs: before relearning. after: behind it, and curve f32[N, steps + 1]; None without it.
    """

    variables: PyTree
    logs: PyTree
    after: PyTree = None
    curve: np.ndarray | None = None

    @property
    def number(self) -> int:
        """How many models there are."""
        return len(jax.tree.leaves(self.logs)[0])

    def log(self, number: int) -> PyTree:
        """The log of one model, `{"before": ...}` and, relearned, `"after"`."""
        parts = {"before": self.logs} | ({} if self.after is None else {"after": self.after})
        return jax.tree.map(lambda x: x[number], parts)


class Folder(NamedTuple):
    """Where populations are kept, how many models each has, and how many are one program."""

    directory: pathlib.Path
    models: int
    block: int

    def stored(self, recipe: dict, label: str, compute: Callable, *frozen: PyTree) -> PyTree:
        """As `ensembles.stored`, with its progress, and a line with its time if it has computed."""
        block = min(self.block, self.models)
        return stored(label, self.directory, recipe, compute, self.models, *frozen, block=block)


def targets(task: Task, folder: Folder) -> PyTree:
    """Variables of N models that are trained on all rows, or N times the model that is given."""
    if not task.config.training.epochs:
        given = task.start(jax.random.key(TARGETS))
        return jax.tree.map(lambda x: np.broadcast_to(x, (folder.models, *x.shape)), given)
    everything = np.ones(task.train.num_examples, np.float32)
    return _trained(task, folder, "targets", everything, TARGETS)


def retrained(task: Task, split: Split, folder: Folder) -> PyTree:
    """Variables of models that are trained without the forget set, or those that are given.

    N models from seeds of their own, which share nothing with the targets.
    """
    if task.retrained:
        return jax.tree.map(lambda *leaves: np.stack(leaves), *task.retrained)
    return _trained(task, folder, f"{split.name}: retrained", split.weight, RETRAINED)


def unlearned(task: Task, split: Split, folder: Folder, name: str, before: PyTree) -> PyTree:
    """Variables of N models after a method of the configuration."""
    transform = make_method(task, name)

    def compute(numbers, before, forget, retain):
        keys = _keys(UNLEARN, numbers)
        chosen = jax.tree.map(lambda x: x[numbers], before)
        return ensembles.unlearn(transform, keys, chosen, forget, retain, layout=_layout())[0]

    recipe = {"what": "unlearned", "method": name, "arguments": method_arguments(task, name)}
    recipe |= {"model": task.config.model.to_dict()}
    label = f"{split.name}: {name}"
    return folder.stored(recipe, label, compute, before, split.forget, split.retain)


def measured(task: Task, split: Split, folder: Folder, name: str, variables: PyTree) -> Models:
    """What `task.read` says of the models of a row, before and behind relearning."""
    folder = folder._replace(models=len(jax.tree.leaves(variables)[0]))
    relearn, sets = split.relearn, ()
    recipe = {"what": "measured", "model": task.config.model.to_dict()}
    if relearn is not None:
        sets = relearn.shown, relearn.unseen
        recipe |= {"relearn": [relearn.title, *relearn[4:]]}
    label = f"{split.name}: {name} measured"
    compute = _measurement(task, relearn and relearn[2:])
    found = folder.stored(recipe, label, compute, variables, split.arrays, *sets)
    return Models(variables, found["before"], found.get("after"), found.get("curve"))


@functools.lru_cache(maxsize=8)
def _measurement(task: Task, relearn: tuple | None) -> Callable:
    """The program that measures models, the same object for all rows: it is compiled once."""

    def one(number, variables, arrays, *sets):
        found = {"before": task.read(variables, arrays)}
        if relearn is None:
            return found
        metric, _, steps, batch_size, learning_rate = relearn
        after = probes.relearn(
            task.model,
            optax.adam(learning_rate),
            variables,
            *sets,
            key=_keys(RELEARN, number),
            steps=steps,
            batch_size=batch_size,
            metric=metric,
        )
        return found | {"after": task.read(after.variables, arrays), "curve": after.curve}

    def compute(numbers, variables, *arrays):
        chosen = jax.tree.map(lambda x: x[numbers], variables)
        return ensembles.map_models(
            lambda number, own: one(number, own, *arrays), numbers, chosen, layout=_layout()
        )

    return compute


def _trained(task: Task, folder: Folder, label: str, weight: np.ndarray, seed: int) -> PyTree:
    """Models of one seed that see the rows with these weights."""
    recipe = {"what": "trained", "training": task.config.training.to_dict()}
    recipe |= {"model": task.config.model.to_dict()}
    return folder.stored(recipe, label, _training(task), task.train, weight, np.int32(seed))


@functools.lru_cache(maxsize=2)
def _training(task: Task) -> Callable:
    """The program that trains models, the same object for all populations."""
    training = task.config.training
    steps = task.train.replace(batch_size=training.batch_size).num_batches * training.epochs
    warm = min(training.warmup, steps // 2)
    peak = training.learning_rate
    schedule = optax.warmup_cosine_decay_schedule(0.0, peak, warm, steps, peak / 10)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))

    def compute(numbers, train, weight, seed):
        return ensembles.train(
            task.model,
            optimizer,
            train,
            _keys(seed, numbers),
            jnp.broadcast_to(weight, (numbers.size, weight.size)),
            init=task.start,
            epochs=training.epochs,
            batch_size=training.batch_size,
            layout=_layout(),
        )

    return compute


def _layout() -> str | None:
    """On a CPU one model after another in the program: measured, 0.6 of the time of all at once."""
    return "one_by_one" if jax.default_backend() == "cpu" else None


def _keys(seed: jax.Array | int, numbers: jax.Array) -> jax.Array:
    """A key for each number, which does not depend on the others."""
    fold = jax.numpy.vectorize(lambda j: jax.random.fold_in(jax.random.key(seed), j))
    return fold(numbers)
