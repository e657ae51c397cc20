"""The main job: train, take a deletion request, unlearn, compare with retraining, swap the best.

    python -m experiments.quickstart
    python -m experiments.quickstart --request=random:0.05:seed=1 --seeds=5
    python -m experiments.quickstart --request=my_ids.csv --config.methods.ssd.alpha=3

For every seed it trains a model on all data and one on the retain set alone, unlearns with every
method of the configuration, and scores them all. It prints one table, writes the records behind it
as JSON lines, publishes the models of the first seed as versions of a store, and lets the version
with the smallest average gap to retraining serve. At last it does the same to ensembles of models,
as one program each, and prints how far the unlearned ones are from retrained ones by KLoM.
"""

from __future__ import annotations

import pathlib
import time
import warnings

import jax
from absl import flags

import mu_jax as mu
from experiments.lib import scoring, tables
from experiments.lib.command_line import define_config, define_seed, start
from experiments.lib.constant import CONSTANT
from experiments.lib.ids import named_set
from experiments.lib.methods import Request, check_methods, make_method, method_arguments
from experiments.lib.paths import check_workdir
from experiments.lib.populations import ORIGINALS, train_population
from experiments.lib.rows import study
from experiments.lib.running import (
    exit_with_sentence,
    stage,
    write_config,
    write_records,
)
from experiments.lib.tasks import Task, check_kind, make_task, read_ids, retrain, split, train
from mu_jax import reporting
from mu_jax.store import Store

FLAGS = flags.FlagValues()
CONFIG = define_config(FLAGS, "digits", "What to run.")
REQUEST = flags.DEFINE_string(
    "request",
    "class:3",
    "What to forget: a CSV or JSON-lines file of ids, class:3, random:0.05:seed=0, ids:1,5,9.",
    flag_values=FLAGS,
)
SEEDS = flags.DEFINE_integer("seeds", 3, "Number of seeds.", lower_bound=1, flag_values=FLAGS)
FIRST_SEED = define_seed(FLAGS, "The first seed.", "first_seed")
MODELS = flags.DEFINE_integer(
    "models", 32, "Models of each ensemble for KLoM; 0: no KLoM.", flag_values=FLAGS
)
WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart", "Where results go.", flag_values=FLAGS)


def main(argv: list[str]) -> None:
    with exit_with_sentence():
        run(CONFIG.value, REQUEST.value)


def run(config, request: str) -> None:
    start = time.monotonic()
    workdir = check_workdir(
        WORKDIR.value,
        files=("config.json", "results.jsonl"),
        folders=("ensembles", "store"),
    )
    task = make_task(config)
    check_kind(task, "classification", "; use experiments.train, unlearn and evaluate")
    check_methods(task)
    ids = read_ids(task, request)
    forget, retain = split(task, ids)
    forget_set = named_set(task, request, ids)
    print(
        f"{config.dataset}: {task.train.num_examples} training examples, forget {len(ids)} "
        f"({request}), {SEEDS.value} seeds, on {jax.devices()[0].device_kind}",
        flush=True,
    )

    programs = compile_methods(task, forget, retain, workdir / "ensembles")
    results, models = [], {}
    for seed in range(FIRST_SEED.value, FIRST_SEED.value + SEEDS.value):
        rows, variables = run_seed(task, programs, forget, retain, forget_set, seed)
        results += rows
        models = models or variables
    (table,) = reporting.summarize(results)
    print()
    print(reporting.render([table], width=114))

    path = write_records(workdir / "results.jsonl", results)
    write_config(workdir, config)
    publish(Store(workdir / "store"), task, models, results, table, ids)
    if MODELS.value:
        directory = workdir / "ensembles"
        originals = train_population(
            task, directory, "originals", models=MODELS.value, seed=ORIGINALS
        )
        found = study(task, ids, originals, directory)
        print("\n" + tables.ordering(found, request))
    print(f"\nRecords: {path}   Time: {time.monotonic() - start:.0f} s")
    print(f"The table again: python -m experiments.report {path}")


def compile_methods(task: Task, forget, retain, directory: pathlib.Path) -> dict:
    """Compile every method ahead of time, so that run times are run times: name -> (program, s)."""
    request = Request(forget, directory)
    key, variables = jax.random.key(0), jax.eval_shape(task.init, jax.random.key(0))
    transforms = {"retrain": retrain(task, retain)}
    for name in task.config.methods:
        with stage(f"prepare {name}"):
            transforms[name] = make_method(task, name, request)
    programs = {}
    for name, transform in transforms.items():
        with stage(f"compile {name}"):
            start = time.monotonic()
            lowered = jax.jit(transform).lower(key, variables, forget, retain)
            programs[name] = lowered.compile(), time.monotonic() - start
    return programs


def run_seed(task: Task, programs: dict, forget, retain, forget_set, seed: int):
    """Records and variables of one seed: the original, a constant, retraining, every method."""
    with stage(f"seed {seed}: train the original"):
        original = train(task, jax.random.key(seed), task.train)
    models = {"do nothing": original}
    rows = [
        scoring.record(
            "do nothing",
            forget_set,
            seed,
            scoring.score(task, original, forget, retain, seed=seed),
            cost=scoring.cost(None, wall_s=0.0),
        ),
        scoring.record(
            CONSTANT,
            forget_set,
            seed,
            scoring.score_constant(task, forget, retain, seed=seed),
            cost=scoring.cost(None, wall_s=0.0),
        ),
    ]
    for name, (program, compile_s) in programs.items():
        with stage(f"seed {seed}: {name}"):
            key = jax.random.key(10_000 + seed)
            start = time.monotonic()
            variables, info = jax.block_until_ready(program(key, original, forget, retain))
            wall_s = time.monotonic() - start
        for message in info.messages():
            warnings.warn(f"{name}, seed {seed}: {message}", mu.UnlearningWarning, stacklevel=2)
        models[name] = variables
        rows.append(
            scoring.record(
                name,
                forget_set,
                seed,
                scoring.score(task, variables, forget, retain, seed=seed),
                cost=scoring.cost(info, wall_s=wall_s, compile_s=compile_s),
                hyperparameters=method_arguments(task, name),
                selection=task.config.selection if name in task.config.methods else "",
            )
        )
    return rows, models


def publish(store: Store, task: Task, models: dict, results, table, ids) -> None:
    """Publish the models of the first seed, and serve the one with the smallest average gap."""
    found = {row.method: scoring.values(row.metrics) for row in reversed(results)}
    parent = store.publish(
        models["do nothing"], method="train", metrics=found["do nothing"], note=task.config.dataset
    )
    store.swap(parent)
    versions = {}
    for name in task.config.methods:
        versions[name] = store.publish(
            models[name],
            parent=parent,
            method=name,
            hyperparameters=method_arguments(task, name),
            forgotten=ids,
            metrics=found[name],
        )
    best = [row.label for row in table.rows if row.best and row.label in versions]
    if not best:
        print("\nNo method is better than a collapsed model: the original keeps serving.")
        return
    store.swap(versions[best[0]])
    print(
        f"\nServing version {versions[best[0]]} ({best[0]}, smallest average gap); "
        f"the original is version {parent} in {store.directory}"
    )


if __name__ == "__main__":
    start(main, FLAGS)
