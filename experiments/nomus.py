"""NoMUS: utility and forgetting by a membership attack, for every method beside retraining.

    python -m experiments.nomus
    python -m experiments.nomus --request=class:3 --seeds=5
    python -m experiments.nomus --config experiments/configs/mufac.py --config.data_dir=DIR
    python -m experiments.nomus --config experiments/configs/mucac.py --config.data_dir=DIR

The utility U is the accuracy on the test set, of several labels of yes and no their mean accuracy,
and losses are then the means over labels; the forgetting score FS is |a - 1/2|, where a is the
accuracy of an attack that tells the losses of forget examples from those of unseen ones; and
NoMUS = U / 2 + (1 - 2 FS) / 2. Unseen examples are the dataset's split of that name (`mufac`), or
else every second test example, and U is then measured on the others. What is forgotten is the
dataset's split `forget`, or a request.

NoMUS is published as higher is better, and can be gamed: a model that has lost all it knew has
FS = 0. So read U and FS, and rank by the average gap, half of |U - U of retrain| + |FS - FS of
retrain|. Seeds are those of the models, which are trained and unlearned together; they are kept in
the workdir, and a run that was stopped goes on where it was.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
import time
from typing import NamedTuple

import jax
import numpy as np
from absl import flags

import mu_jax as mu
from experiments.lib.command_line import define_config, define_seeds, define_workdir, start
from experiments.lib.ids import named_set
from experiments.lib.methods import make_checked_task
from experiments.lib.paths import check_workdir, working_directory
from experiments.lib.populations import ORACLES, ORIGINALS, positions, train_population
from experiments.lib.results import digest_of, write_results
from experiments.lib.rows import Row, constant, unlearn_all
from experiments.lib.running import exit_with_sentence, write_config
from experiments.lib.tasks import Task, location, read_ids, split
from mu_jax import datasets, evaluation, reporting
from mu_jax.scoring import kinds
from mu_jax.scoring.examples import examples_at
from mu_jax.scoring.rows import record

FLAGS = flags.FlagValues()
CONFIG = define_config(FLAGS, "nomus_digits", "What to run.")
REQUEST = flags.DEFINE_string(
    "request",
    None,
    "What to forget: class:3, random:50:seed=1, a file of ids, ...; default the dataset's split "
    "`forget`, or where it has none random:0.5:seed=1.",
    flag_values=FLAGS,
)
SEEDS = define_seeds(FLAGS, 3)
WORKDIR = define_workdir(FLAGS, "runs/nomus", "Where models and results go.")


class Scored(NamedTuple):
    """What every row is scored on: labels of all examples, and where those of each split stand."""

    targets: np.ndarray
    positions: dict[str, np.ndarray]


def main(argv: list[str]) -> None:
    with exit_with_sentence():
        run(CONFIG.value, REQUEST.value, SEEDS.value, working_directory(WORKDIR.value))


def run(config, request: str | None, seeds: int, workdir: pathlib.Path) -> None:
    start = time.monotonic()
    files = ("config.json", "results.jsonl", "results.npz")
    check_workdir(workdir, files=files, folders=("ensembles",))
    task = make_checked_task(config, "classification or multilabel")
    ids, kind = forget_ids(task, request)
    task, splits = with_unseen(task, ids)
    write_config(workdir, config)
    print(f"{kind}: forget {len(ids)} of {task.train.num_examples}", file=sys.stderr)
    rows = run_methods(task, ids, seeds, workdir / "ensembles")
    forget_set = named_set(task, kind, ids)
    records = score_rows(task, rows, splits, forget_set)
    behind = {forget_set.kind: reporting.Arrays(arrays_of(task, rows, splits))}
    digest = digest_of(config, request=kind, seeds=seeds)
    run = reporting.Run(tuple(records), behind, digest)
    path = write_results(workdir / "results.jsonl", run)
    print(reporting.render(records, width=114))
    print("\nNoMUS is U / 2 + (1 - 2 FS) / 2; a model that knows nothing gets U / 2 + 1 / 2.")
    print(f"Records: {path}   Time: {time.monotonic() - start:.0f} s")


def forget_ids(task: Task, request: str | None) -> tuple[np.ndarray, str]:
    """The ids to forget, and what they are in words."""
    if request is None and "forget" in task.info.split_sizes:
        view = datasets.source(task.config.dataset, "forget", **location(task.config))
        return view.index, f"the forget split of {task.config.dataset}"
    request = request or "random:0.5:seed=1"
    return read_ids(task, request), request


def with_unseen(task: Task, ids: np.ndarray) -> tuple[Task, Scored]:
    """The task with unseen examples behind its test set."""
    if "unseen" in task.info.split_sizes:
        found = datasets.load(task.config.dataset, "unseen", **location(task.config))
        test, unseen = task.test, mu.batches(*found[:2], batch_size=1, index=found.index)
    else:
        test, unseen = (
            task.test.take(np.arange(first, task.test.num_examples, 2)) for first in (0, 1)
        )
    task = dataclasses.replace(task, test=mu.concatenate(test, unseen))
    where = positions(task, ids)
    where["test"], where["unseen"] = np.split(where["test"], [test.num_examples])
    return task, Scored(np.concatenate([task.train.targets, task.test.targets]), where)


def run_methods(task: Task, ids: np.ndarray, seeds: int, directory: pathlib.Path) -> list[Row]:
    """Outputs of the retrained models, of the originals, and of what every method makes of them."""
    retain = split(task, ids)[1]
    originals = train_population(task, directory, "originals", models=seeds, seed=ORIGINALS)
    retrained = train_population(
        task, directory, "retrain", models=seeds, examples=retain, seed=ORACLES
    )
    return [
        Row("retrain", retrained.outputs),
        Row("do nothing", originals.outputs, wall_s=0.0),
        constant(task, retain, seeds),
        *unlearn_all(task, ids, originals, directory),
    ]


def score_rows(
    task: Task, rows: list[Row], splits: Scored, forget_set: reporting.ForgetSet
) -> list[reporting.Record]:
    """One record for each row and seed, with what a perfect unlearner scores beside its numbers."""
    floors = [score_floor(outputs, splits, seed) for seed, outputs in enumerate(rows[0].outputs)]
    floor = evaluation.Nomus(*np.mean(floors, axis=0).tolist())
    return [
        record(
            row.name,
            forget_set,
            seed,
            (score(outputs, splits, seed, floor), _collapse(outputs, splits)),
            hyperparameters=row.hyperparameters,
            selection=task.config.selection if row.hyperparameters else "",
            cost=reporting.Cost(wall_s=row.wall_s, device=jax.devices()[0].device_kind),
        )
        for row in rows
        for seed, outputs in enumerate(row.outputs)
    ]


def arrays_of(
    task: Task, rows: list[Row], splits: Scored
) -> dict[str, dict[str, reporting.Examples]]:
    """What every model says of the examples of each set, "unseen" among them, by row."""
    ids = np.concatenate([np.asarray(part.index) for part in (task.train, task.test)])
    kind, targets = task.info.task, splits.targets
    return {
        row.name: examples_at(kind, row.outputs, targets, ids, splits.positions) for row in rows
    }


def score(
    outputs: np.ndarray, splits: Scored, seed: int, floor: evaluation.Nomus
) -> dict[str, reporting.Metric]:
    """U, FS and NoMUS of one model; the last two are missing where there is nothing to attack."""
    utility, forget, unseen = _parts(outputs, splits)
    metrics = {"utility": reporting.Metric(utility, splits.positions["test"].size, unit="fraction")}
    try:
        found = evaluation.nomus(utility, forget, unseen, seed=seed)
    except ValueError as error:
        failed = {"reason": str(error), "unit": "fraction"}
        metrics["forgetting score"] = reporting.missing(**failed)
        metrics["NoMUS"] = reporting.missing(**failed, direction="higher is better")
        return metrics
    metrics["forgetting score"] = reporting.Metric(
        found.forgetting_score, found.n, null=floor.forgetting_score, unit="fraction"
    )
    metrics["NoMUS"] = reporting.Metric(
        found.value, found.n, null=floor.value, direction="higher is better", unit="fraction"
    )
    return metrics


def score_floor(outputs: np.ndarray, splits: Scored, seed: int) -> evaluation.Nomus:
    """What a perfect unlearner would score with the utility of one retrained model."""
    utility, forget, unseen = _parts(outputs, splits)
    return evaluation.nomus_floor(utility, unseen, n=min(forget.size, unseen.size), seed=seed)


def _parts(outputs: np.ndarray, splits: Scored) -> tuple[float, np.ndarray, np.ndarray]:
    """Test accuracy, and the losses of forget and unseen examples."""
    test = splits.positions["test"]
    utility = kinds.accuracy(outputs[test], splits.targets[test])
    losses = kinds.example_losses(outputs, splits.targets)
    return utility, losses[splits.positions["forget"]], losses[splits.positions["unseen"]]


def _collapse(outputs: np.ndarray, splits: Scored) -> evaluation.Collapse:
    retain = splits.positions["retain"]
    return kinds.collapse(outputs[retain], splits.targets[retain])


if __name__ == "__main__":
    start(main, FLAGS)
