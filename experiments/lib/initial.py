"""The variables from before training, for methods that read them: made again from its key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

import mu_jax as mu
from experiments.lib import tasks
from experiments.lib.arguments import reads_initial
from experiments.lib.methods import Request, make_method, method_arguments
from experiments.lib.tasks import Task
from mu_jax import ensembles
from mu_jax.store import Store

PyTree = Any
Make = Callable[[PyTree], mu.Transform]


def of_models(task: Task, keys: jax.Array) -> PyTree:
    """What N models were trained from, with a leading axis of N.

    They are a program of their own: within another one their last bits may differ.

    Args:
      task: by whose recipe they were trained. keys: key[N] of the trainings.
    """
    return jax.jit(jax.vmap(lambda key: tasks.initial(task, key)))(keys)


def read_by(task: Task, name: str, keys: jax.Array) -> PyTree | None:
    """`of_models` for a method of the configuration that reads it, None for another."""
    return of_models(task, keys) if is_read(task, name) else None


def of_lineage(task: Task, store: Store, version: int) -> PyTree:
    """What the model was trained from with which the lineage of a version begins.

    Args:
      task: of the configuration. store: with the version, whose lineage `experiments.train` or
        `experiments.quickstart` has begun.

    Raises:
      ValueError: another training, of which the key is not kept, or weights from elsewhere.
    """
    root, *later = reversed(store.lineage(version))
    made = [root, *(each for each in later if each.method == "retrain")]
    seed = root.hyperparameters.get("seed")
    if root.method != "train" or not isinstance(seed, int) or len(made) > 1:
        raise ValueError(
            "expected a lineage that experiments.train has begun, whose seed gives the variables "
            f"from before training, found version {made[-1].version} by {made[-1].method!r}; "
            "choose a method that does not read them"
        )
    return tasks.initial(task, jax.random.key(seed))


def maker(task: Task, name: str, request: Request) -> Make:
    """The method `name` as a function of what a model was trained from.

    A method that does not read it is made here, once for all models.
    """
    if not is_read(task, name):
        transform = make_method(task, name, request)
        return lambda initial: transform
    return lambda initial: make_method(task, name, request._replace(initial=lambda: initial))


def is_read(task: Task, name: str) -> bool:
    """Whether a method of the configuration reads what its model was trained from."""
    return reads_initial(method_arguments(task, name).get("method", name))


def unlearn(
    make: Make,
    keys: jax.Array,
    variables: PyTree,
    initial: PyTree,
    forget: mu.Batches,
    retain: mu.Batches,
) -> tuple[PyTree, Any]:
    """As `ensembles.unlearn`, by a method that is made for every model from its own `initial`."""

    def one(key: jax.Array, variables: PyTree, initial: PyTree):
        return make(initial)(key, variables, forget, retain)

    return ensembles.map_models(one, keys, variables, initial)
