"""The frozen base of S3T: a model that has seen none of the rows that may have to be forgotten."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import mu_jax as mu
from experiments.lib import tasks
from experiments.lib.paths import working_directory
from experiments.lib.running import read_config
from experiments.lib.tasks import Task
from mu_jax.store import Store

PyTree = Any


def base_of(task: Task, where: str) -> Callable[[jax.Array], PyTree]:
    """How the base of a new lineage is found, `key -> variables`.

    Args:
      task: of ordinary training. where: a working directory of `experiments.train` with a model of
        the same architecture; "" for a model as it is initialized.

    Raises:
      ValueError, OSError: when it is asked for: no model there, one of another architecture, or one
        that was trained on rows of the task.
    """
    if not where:
        return lambda key: task.init(jax.random.fold_in(key, 2))
    return lambda key: _read(task, where)


def _read(task: Task, where: str) -> PyTree:
    folder = working_directory(where)
    seen = tasks.make_task(read_config(folder))
    shared = _digests(task.train) & _digests(seen.train)
    if shared:
        raise ValueError(
            f"expected a base that has seen none of the {task.train.num_examples} training "
            f"examples, found that the model in {where} was trained on {len(shared)} of them; "
            "train one on other data"
        )
    return Store(folder / "store").restore(like=tasks.like(task))


def _digests(examples: mu.Batches) -> set[bytes]:
    """A digest of the inputs of every example."""
    leaves = [np.ascontiguousarray(leaf) for leaf in jax.tree.leaves(examples.inputs)]
    return {
        hashlib.sha256(b"".join(leaf[row].tobytes() for leaf in leaves)).digest()
        for row in range(examples.num_examples)
    }
