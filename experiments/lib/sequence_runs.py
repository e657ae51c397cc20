"""A whole sequence of requests: the rows, what they score after each, records and arrays."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from experiments.lib import tables
from experiments.lib.ids import named_set
from experiments.lib.populations import (
    ORIGINALS,
    Population,
    everything,
    positions,
    train_population,
)
from experiments.lib.results import study_examples
from experiments.lib.rows import Row, Study, constant
from experiments.lib.running import stage
from experiments.lib.sequences import SISA, Approximate, Asked, Retrained, Sharded, ask
from experiments.lib.tasks import Task
from mu_jax import _progress, evaluation
from mu_jax.reporting import Arrays, ForgetSet, Record, Run
from mu_jax.scoring.ensembles import Yardstick
from mu_jax.scoring.rows import NOTHING

ATTACKED = 8  # models on which the membership attack is run: the fewest of which a mean has limits


class Lineages(NamedTuple):
    """All that answers a sequence: originals that are left alone, and the rows that go on."""

    originals: Population
    retrained: Retrained
    methods: tuple[Approximate, ...]
    sharded: Sharded

    def rows(self, task: Task, asked: Asked) -> list[Row]:
        """The rows of a request; `retrained.others` are its oracles then."""
        return [
            self.retrained.answer(asked),
            Row(NOTHING, self.originals.outputs, wall_s=0.0),
            constant(task, asked.retain, len(self.originals.outputs)),
            *(method.answer(asked) for method in self.methods),
            self.sharded.answer(asked),
        ]


def begin(
    task: Task,
    requests: np.ndarray,
    methods: Sequence[str],
    directory: pathlib.Path,
    *,
    models: int,
    shards: int,
    slices: int,
) -> Lineages:
    """Train the originals and SISA, and compile every program for the first request.

    Args:
      task: the task. requests: ids i32[K, size]. methods: names of its configuration.
      directory: where ensembles are kept. models: N. shards, slices: of SISA.
    """
    first = ask(task, requests, 1)
    originals = train_population(task, directory, "originals", models=models, seed=ORIGINALS)
    with stage("compile retraining"):
        retrained = Retrained(task, models, first)
    compiled = []
    for name in _progress.each(methods, "", "method"):
        with stage(f"compile {name}"):
            compiled.append(Approximate(task, name, originals, first, directory))
    with stage(f"train {models} lineages of {shards} shards"):
        sharded = Sharded(task, models, shards, slices)
    return Lineages(originals, retrained, tuple(compiled), sharded)


def studies(task: Task, requests: np.ndarray, lineages: Lineages) -> Iterator[tuple[Asked, Study]]:
    """Every request with the rows after it and what they are measured against, in order."""
    targets = np.asarray(everything(task).targets)
    for number in _progress.each(range(1, len(requests) + 1), "", "request"):
        asked = ask(task, requests, number)
        rows = lineages.rows(task, asked)
        others = lineages.retrained.others
        yardstick = Yardstick(
            targets,
            positions(task, asked.so_far),
            np.asarray(evaluation.margins(others, targets)),
            rows[0].outputs,
            others=others,
            attacked=min(ATTACKED, len(others)),
        )
        yield asked, Study(task, yardstick, rows)


def run_sequence(
    task: Task, requests: np.ndarray, lineages: Lineages, *, every: int = 1, digest: str = ""
) -> Run:
    """The records of all requests, and the arrays of the last one.

    Every record has accuracies and the cost of its request; the membership attack and KLoM, which
    take longer than the requests, are measured after the first, every `every`-th and the last one.

    The arrays hold what the models say of every example after the last request, and among `others`
    the ids of the requests, [K, size], and what SISA has trained again for each: "sisa first"
    i32[K, N, S], "sisa steps" i32[K, N], "sisa passes" f32[K, N], see `sequences.Touched`.
    """
    kind = "{} random requests of {}".format(*requests.shape)
    records: list[Record] = []
    for asked, found in studies(task, requests, lineages):
        whole = asked.number in (1, len(requests)) or asked.number % every == 0
        with stage(f"score request {asked.number}"):
            records += _records(found, _forget_set(task, kind, asked), whole)
    touched = lineages.sharded.touched
    others = {"requests": requests} | {
        f"{SISA} {name}": np.stack([getattr(one, name) for one in touched])
        for name in ("first", "steps", "passes")
    }
    arrays = {kind: Arrays(study_examples(found), others=others)}
    return Run(tuple(records), arrays, digest)


def _forget_set(task: Task, kind: str, asked: Asked) -> ForgetSet:
    named = named_set(task, kind, asked.so_far)
    return dataclasses.replace(named, request=asked.number)


def _records(study: Study, forget_set: ForgetSet, whole: bool) -> list[Record]:
    """The records of a request; nothing has chosen the shards of SISA."""
    make = tables.records if whole else tables.quick_records
    return [
        dataclasses.replace(record, selection="fixed default") if record.method == SISA else record
        for record in make(study, forget_set)
    ]
