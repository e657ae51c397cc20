"""Score the versions of a store on a request, beside models retrained without it.

    python -m experiments.evaluate --workdir=runs/digits --request=class:3
    python -m experiments.evaluate --workdir=runs/digits --request=ids.csv --versions=1,4

Every version descends from one training, so the spread over seeds is that of the retrained models;
a version is compared with the mean of these. What a scored or the serving version has forgotten
beside the request is in no set, and the retrained models do not see it. Records go to
evaluation.jsonl in the workdir, and what every model says of every example to evaluation.npz.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from absl import flags

import mu_jax as mu
from experiments.lib import scoring, tasks
from experiments.lib.command_line import define_workdir, start
from experiments.lib.ids import check_ids, named_set
from experiments.lib.insides import Insides
from experiments.lib.own_flags import define_count
from experiments.lib.paths import working_directory
from experiments.lib.protocols import make_task, of_lineage
from experiments.lib.results import digest_of, write_results
from experiments.lib.running import (
    exit_with_sentence,
    read_config,
    stage,
)
from experiments.lib.tasks import Task, like, read_ids, retrain, retrains, split, without
from mu_jax import _progress, evaluation, reporting
from mu_jax.scoring import Score, rows
from mu_jax.store import Store, Version

FLAGS = flags.FlagValues()
WORKDIR = define_workdir(FLAGS, None, "Where the model was trained.")
REQUEST = flags.DEFINE_string(
    "request", None, "What was forgotten, as for unlearn.", required=True, flag_values=FLAGS
)
VERSIONS = flags.DEFINE_list("versions", [], "Versions to score; default all.", flag_values=FLAGS)
RETRAIN = define_count(FLAGS, "retrain", 3, "Number of models to retrain.")


def main(argv: list[str]) -> None:
    with exit_with_sentence():
        run(working_directory(WORKDIR.value), REQUEST.value)


def run(workdir: pathlib.Path, request: str) -> None:
    task = make_task(read_config(workdir))
    store = Store(workdir / "store")
    ids = read_ids(task, request)
    versions = chosen(store)
    for version in versions:
        check_ids(task, store, version.version)
    scope = {version.version for version in versions} | {store.serving()} - {None}
    gone = [store.forgotten(number) for number in scope]
    others = np.setdiff1d(np.concatenate([np.zeros(0, np.int64), *gone]), ids)
    task = without(task, others)
    forget, retain = split(task, ids)
    if others.size:
        print(f"{others.size} other examples that these versions have forgotten are in no set")
    insides = Insides(task, forget, retain)
    found = scored(task, store, versions, insides, named_set(task, request, ids))
    print(found.render(width=114))
    digest = digest_of(
        task.config,
        request=request,
        versions=[version.version for version in versions],
        retrain=RETRAIN.value,
    )
    arrays = {found.records[0].forget_set.kind: insides.arrays(found.arrays)}
    run = reporting.Run(found.records, arrays, digest)
    path = write_results(workdir / "evaluation.jsonl", run)
    print(f"\nRecords: {path}   The table again: python -m experiments.report {path}")


def scored(
    task: Task,
    store: Store,
    versions: list[Version],
    insides: Insides,
    forget_set: reporting.ForgetSet,
) -> Score:
    """The versions beside models retrained from scratch, each looked into when it is there.

    On the device one model is in memory at a time; the original and a retrained one stay on the
    host.
    """
    forget, retain = insides.sets.values()
    shapes, costs = like(task), []
    if task.base is not None:  # frozen in every lineage that descends from this one
        task = of_lineage(task, store.restore(versions[0].version, like=shapes))
    if not retrains(task):
        print("Nothing is retrained: the task gives weights without the recipe of their training")
    names = {version.version: f"{version.version}: {version.method}" for version in versions}
    children = [version for version in versions if version.parent is not None]
    originals = [version.version for version in versions if version.parent is None]

    def look(name: str, models: Iterator[Any]) -> Iterator[Any]:
        return insides.watched(name, models)

    found = evaluation.score(
        task.model,
        {
            names[v.version]: look(names[v.version], restored(store, v.version, shapes))
            for v in children
        },
        forget=forget,
        retain=retain,
        test=task.test,
        retrained=(
            look(rows.RETRAIN, retrained(task, forget, retain, costs)) if retrains(task) else ()
        ),
        original=look(rows.NOTHING, restored(store, originals[-1], shapes)) if originals else None,
        kind=task.info.task,
        forget_set=forget_set,
        hyperparameters={names[v.version]: v.hyperparameters for v in children},
        costs={"retrain": costs},
    )
    for version in children:
        insides.add_ratios(names[version.version], version.method, version.hyperparameters)
    return found


def restored(store: Store, version: int, like: Any) -> Iterator[Any]:
    """The variables of one version, read when they are asked for."""
    yield store.restore(version, like=like)


def retrained(task: Task, forget, retain, costs: list[reporting.Cost]) -> Iterator[Any]:
    """Variables of models trained from scratch without the forget set; fills `costs`."""
    program = retraining(task, forget, retain)
    # No seed of a version: all of these are its reference.
    for seed in _progress.each(range(1, RETRAIN.value + 1), "", "seed"):
        key = jax.random.key(10_000 + seed)
        with stage(f"retrain, seed {seed}"):
            variables, info = jax.block_until_ready(program(key))
        costs.append(scoring.cost(info))
        yield variables


def retraining(task: Task, forget, retain) -> Callable[[jax.Array], tuple[Any, mu.Info | None]]:
    """Training from scratch, `key -> (variables, info)`; a protocol counts no passes."""
    if task.protocol is not None:
        return lambda key: (tasks.train(task, key, retain), None)
    program = jax.jit(retrain(task, retain))
    return lambda key: program(key, task.init(key), forget, retain)


def chosen(store: Store) -> list[Version]:
    """The versions of the flag, in order, that can still be restored."""
    history = {version.version: version for version in store.history()}
    if not VERSIONS.value:
        return [version for version in history.values() if version.restorable]
    unknown = [text for text in VERSIONS.value if not text.isdigit() or int(text) not in history]
    if unknown:
        raise ValueError(
            f"expected versions among {', '.join(map(str, history))}, found {unknown[0]!r}; "
            "choose some of these"
        )
    return [history[int(text)] for text in VERSIONS.value]


if __name__ == "__main__":
    start(main, FLAGS)
