"""Score the versions of a store on a request, beside models retrained without it.

    python -m experiments.evaluate --workdir=runs/digits --request=class:3
    python -m experiments.evaluate --workdir=runs/digits --request=ids.csv --versions=1,4

Every version descends from one training, so the spread over seeds is that of the retrained models;
a version is compared with the mean of these. What a scored or the serving version has forgotten
beside the request is in no set, and the retrained models do not see it. Records go to
evaluation.jsonl in the workdir.
"""

from __future__ import annotations

import pathlib

import jax
import numpy as np
from absl import flags

from experiments.lib import scoring
from experiments.lib.command_line import start
from experiments.lib.constant import CONSTANT
from experiments.lib.ids import check_ids, named_set
from experiments.lib.paths import working_directory
from experiments.lib.running import (
    exit_with_sentence,
    read_config,
    stage,
    write_records,
)
from experiments.lib.tasks import Task, make_task, read_ids, retrain, split, without
from mu_jax import reporting
from mu_jax.store import Store, Version

FLAGS = flags.FlagValues()
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the model was trained.", required=True, flag_values=FLAGS
)
REQUEST = flags.DEFINE_string(
    "request", None, "What was forgotten, as for unlearn.", required=True, flag_values=FLAGS
)
VERSIONS = flags.DEFINE_list("versions", [], "Versions to score; default all.", flag_values=FLAGS)
RETRAIN = flags.DEFINE_integer(
    "retrain", 3, "Number of models to retrain.", lower_bound=1, flag_values=FLAGS
)


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
    forget_set = named_set(task, request, ids)
    records = retrained(task, forget, retain, forget_set)
    scored = scoring.score_constant(task, forget, retain, seed=0)
    records.append(scoring.record(CONSTANT, forget_set, 0, scored))
    like = jax.eval_shape(task.init, jax.random.key(0))
    for version in versions:
        variables = store.restore(version.version, like=like)
        scored = scoring.score(task, variables, forget, retain, seed=0)
        name = "do nothing" if version.parent is None else f"{version.version}: {version.method}"
        hyperparameters = version.hyperparameters if version.parent is not None else {}
        records.append(scoring.record(name, forget_set, 0, scored, hyperparameters=hyperparameters))
    print(reporting.render(records, width=114))
    path = write_records(workdir / "evaluation.jsonl", records)
    print(f"\nRecords: {path}   The table again: python -m experiments.report {path}")


def retrained(task: Task, forget, retain, forget_set) -> list[reporting.Record]:
    """Records of models trained from scratch without the forget set."""
    program, records = jax.jit(retrain(task, retain)), []
    for seed in range(1, RETRAIN.value + 1):  # no seed of a version: all of these are its reference
        key = jax.random.key(10_000 + seed)
        with stage(f"retrain, seed {seed}"):
            variables, info = program(key, task.init(key), forget, retain)
            scored = scoring.score(task, variables, forget, retain, seed=seed)
        records.append(scoring.record("retrain", forget_set, seed, scored, cost=scoring.cost(info)))
    return records


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
