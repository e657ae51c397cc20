"""Requests one after another: every method goes on from what it made of the request before.

All requests of a sequence are one compiled program a method. The forget sets have one size, and a
retain set has rows of weight 0 in the places of what was asked for before: copies of a row that is
retained, so that nothing of a forgotten example is in the set. Retraining and SISA take the retain
set as it is, whose number of rows their programs read as an argument.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time
from typing import Any, NamedTuple

import jax
import numpy as np

import mu_jax as mu
from experiments.lib import initial, protocols
from experiments.lib.methods import Request, method_arguments
from experiments.lib.populations import ORACLES, Population, everything
from experiments.lib.rows import Row
from experiments.lib.tasks import Task, training_optimizer
from mu_jax import ensembles, exact
from mu_jax.scoring.rows import RETRAIN

PyTree = Any
SISA = "sisa"
DEPENDENT = ("dmm",)  # their programs are made from the examples of one request
_SISA_SEED = 3_001


class Asked(NamedTuple):
    """One request of a sequence.

    number: from 1. ids: of the request. so_far: i32[n], of this and all earlier ones, in the order
    of the requests. forget: the examples of `ids`. retain: all examples but those of `so_far`.
    filled: the retain set with as many rows as at the first request, the further ones of weight 0.
    """

    number: int
    ids: np.ndarray
    so_far: np.ndarray
    forget: mu.Batches
    retain: mu.Batches
    filled: mu.Batches


def draw_requests(task: Task, number: int, size: int, seed: int) -> np.ndarray:
    """Ids of `number` disjoint random requests of `size` examples, i32[number, size].

    Raises:
      ValueError: more than half of the training examples.
    """
    index = np.asarray(task.train.index)
    if 2 * number * size > index.size:
        raise ValueError(
            f"expected requests for at most half of {index.size} training examples, found "
            f"{number} of {size}; lower --requests or --size"
        )
    drawn = np.random.default_rng(seed).permutation(index)[: number * size]
    return drawn.reshape(number, size)


def ask(task: Task, requests: np.ndarray, number: int) -> Asked:
    """The sets of request `number` of a sequence, counted from 1; see `Asked`."""
    so_far, ids = requests[:number].ravel(), requests[number - 1]
    forget = mu.split(task.train, ids)[0]
    retain = mu.split(task.train, so_far)[1]
    filled = with_room(retain, task.train.num_examples - requests.shape[1])
    return Asked(number, ids, so_far, forget, retain, filled)


def with_room(examples: mu.Batches, rows: int) -> mu.Batches:
    """The examples and, behind them, copies of the last one with weight 0, `rows` in all."""
    place = np.arange(rows)
    filled = examples.take(np.minimum(place, examples.num_examples - 1))
    used = place < examples.num_examples
    return filled.replace(weight=np.where(used, np.asarray(filled.weight), 0).astype(np.float32))


def check_suits_every_request(task: Task, name: str) -> None:
    """Refuse a method whose program is made from the examples of one request."""
    if method_arguments(task, name).get("method", name) in DEPENDENT:
        raise ValueError(
            f"expected a method whose program suits every request, found {name!r}, which is made "
            "from the examples of one; use experiments.benchmark, or leave it out of --methods"
        )


class Approximate:
    """A method of the configuration, N models as one program that is compiled ahead of time."""

    def __init__(self, task: Task, name: str, start: Population, first: Asked, where: pathlib.Path):
        check_suits_every_request(task, name)
        self.task, self.name = task, name
        self.hyperparameters = method_arguments(task, name)
        self.variables, self.models = start.variables, len(start.outputs)
        make = initial.maker(task, name, Request(first.forget, where))
        self.initial = initial.read_by(task, name, start.keys)

        def program(keys, variables, before, forget, retain):
            found, info = initial.unlearn(make, keys, variables, before, forget, retain)
            return found, info.example_passes

        begin = time.monotonic()
        self.program = jax.jit(program).lower(*self._arguments(first)).compile()
        self.compile_s = time.monotonic() - begin

    def answer(self, asked: Asked) -> Row:
        """Unlearn the request from what the one before has left."""
        arguments = self._arguments(asked)
        begin = time.monotonic()
        self.variables, passes = jax.block_until_ready(self.program(*arguments))
        wall_s = (time.monotonic() - begin) / self.models
        return Row(
            self.name,
            outputs_of(self.task, self.variables),
            wall_s=wall_s,
            passes=float(np.mean(passes)),
            hyperparameters=self.hyperparameters,
            compile_s=self.compile_s if asked.number == 1 else None,
        )

    def _arguments(self, asked: Asked) -> tuple[Any, ...]:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(2), asked.number), self.models)
        return keys, self.variables, self.initial, asked.forget, asked.filled


class Retrained:
    """2 N fresh models for every request: N oracles, and N others for the row "retrain"."""

    def __init__(self, task: Task, models: int, first: Asked):
        self.task, self.models = task, models
        self.others: np.ndarray = np.zeros(0)
        self._train(first)  # compiles

    def answer(self, asked: Asked) -> Row:
        """Train without anything that was asked for so far; the oracles are `others` then."""
        begin = time.monotonic()
        variables = jax.block_until_ready(self._train(asked))
        wall_s = (time.monotonic() - begin) / (2 * self.models)
        outputs = outputs_of(self.task, variables)
        self.others = outputs[: self.models]
        passes = self.task.config.training.epochs * asked.retain.num_examples
        return Row(RETRAIN, outputs[self.models :], wall_s=wall_s, passes=passes)

    def _train(self, asked: Asked) -> PyTree:
        training, key = self.task.config.training, jax.random.key(ORACLES)
        own = jax.random.split(jax.random.fold_in(key, asked.number), 2 * self.models)
        return ensembles.train(
            self.task.model,
            training_optimizer(self.task, asked.retain),
            asked.retain,
            own,
            init=self.task.init,
            epochs=training.epochs,
            batch_size=training.batch_size,
        )


@dataclasses.dataclass(frozen=True)
class Touched:
    """What SISA has trained again for a request, of N lineages.

    first: i32[N, S], the first slice from which each shard was trained; R where nothing was.
    steps: i32[N], optimizer steps. passes: f32[N], forward and backward passes.
    """

    first: np.ndarray
    steps: np.ndarray
    passes: np.ndarray


class Sharded:
    """N lineages of SISA, each with shards and checkpoints of its own."""

    def __init__(self, task: Task, models: int, shards: int, slices: int):
        self.task = task
        self.hyperparameters = {"shards": shards, "slices": slices}
        self.protocol = protocols.sisa(task, shards=shards, slices=slices)
        keys = jax.random.split(jax.random.key(_SISA_SEED), models)
        self.lineages = [self.protocol.train(key, task.train)[0] for key in keys]
        self.touched: list[Touched] = []
        self.outputs()  # compiles

    def answer(self, asked: Asked) -> Row:
        """Train again, in every lineage, what has seen a row of the request."""
        begin = time.monotonic()
        found = [self.protocol.unlearn(None, v, asked.forget, asked.retain) for v in self.lineages]
        jax.block_until_ready([variables.last for variables, _ in found])
        wall_s = (time.monotonic() - begin) / len(found)
        self.lineages = [variables for variables, _ in found]
        infos: list[exact.ExactInfo] = [info for _, info in found]
        passes = np.array([float(info.example_passes) for info in infos])
        first = np.stack([info.details.first for info in infos])
        self.touched.append(Touched(first, np.array([int(info.steps) for info in infos]), passes))
        return Row(
            SISA,
            self.outputs(),
            wall_s=wall_s,
            passes=float(passes.mean()),
            hyperparameters=self.hyperparameters,
        )

    def outputs(self) -> np.ndarray:
        """Outputs f32[N, n, K] of the lineages for the training and the test examples."""
        examples = everything(self.task)
        lineages = [variables._replace(earlier=()) for variables in self.lineages]
        return np.stack([mu.outputs(self.protocol.model, v, examples) for v in lineages])


def outputs_of(task: Task, variables: PyTree) -> np.ndarray:
    """Outputs f32[N, n, K] of N models for the training and the test examples."""
    return np.asarray(ensembles.ensemble_outputs(task.model, variables, everything(task)))
