"""The main job: train, take a deletion request, unlearn, compare with retraining, swap the best.

    python -m experiments.quickstart
    python -m experiments.quickstart --request=random:0.05:seed=1 --seeds=5
    python -m experiments.quickstart --request=my_ids.csv --config.methods.ssd.alpha=3

For every seed it trains a model on all data and one on the retain set alone, unlearns with every
method of the configuration, and scores them all. It prints one table, writes the records behind it
as JSON lines and what they were computed from as arrays, publishes the models of the first seed as
versions of a store, and lets the version with the smallest average gap to retraining serve, of
those that are fit to: a version that has collapsed or forgotten nothing is published for
inspection, as by `experiments.unlearn`. At last it does the same to ensembles of models, as one
program each, prints how far the unlearned ones are from retrained ones by KLoM, and writes these
numbers and arrays too, as `klom.jsonl` and `klom.npz`.
"""

from __future__ import annotations

import pathlib
import time
import warnings

import jax
import numpy as np
from absl import flags

import mu_jax as mu
from experiments.lib import guard, initial, scoring, tables, tasks
from experiments.lib.command_line import (
    define_config,
    define_seed,
    define_seeds,
    define_workdir,
    start,
)
from experiments.lib.ids import named_set
from experiments.lib.insides import Insides
from experiments.lib.methods import Request, make_checked_task, method_arguments
from experiments.lib.own_flags import define_count
from experiments.lib.pages import write_page
from experiments.lib.paths import check_workdir
from experiments.lib.populations import ORIGINALS, train_population
from experiments.lib.results import digest_of, of_all_seeds, study_examples, write_results
from experiments.lib.rows import study
from experiments.lib.running import exit_with_sentence, stage, write_config
from experiments.lib.tasks import Task, read_ids, retrain, split, train
from mu_jax import _progress, evaluation, reporting
from mu_jax.scoring.rows import CONSTANT, NOTHING, RETRAIN
from mu_jax.store import Store

FLAGS = flags.FlagValues()
CONFIG = define_config(FLAGS, "digits", "What to run.")
REQUEST = flags.DEFINE_string(
    "request",
    "class:3",
    "What to forget: a CSV or JSON-lines file of ids, class:3, random:0.05:seed=0, ids:1,5,9.",
    flag_values=FLAGS,
)
SEEDS = define_seeds(FLAGS, 3)
FIRST_SEED = define_seed(FLAGS, "The first seed.", "first_seed")
MODELS = define_count(FLAGS, "models", 32, "Models of each ensemble for KLoM; 0: no KLoM.", least=0)
RUNS = ("results", "klom")  # single models, and the ensembles
WORKDIR = define_workdir(FLAGS, "runs/quickstart", "Where results go.")


def main(argv: list[str]) -> None:
    with exit_with_sentence():
        run(CONFIG.value, REQUEST.value)


def run(config, request: str) -> None:
    start = time.monotonic()
    workdir = check_workdir(
        WORKDIR.value,
        files=("config.json", *(f"{each}.{end}" for each in RUNS for end in ("jsonl", "npz"))),
        folders=("ensembles", "store"),
    )
    task = make_checked_task(
        config, "classification", "; use experiments.train, unlearn and evaluate"
    )
    ids = read_ids(task, request)
    forget, retain = split(task, ids)
    forget_set = named_set(task, request, ids)
    print(
        f"{config.dataset}: {task.train.num_examples} training examples, forget {len(ids)} "
        f"({request}), {SEEDS.value} seeds, on {jax.devices()[0].device_kind}",
        flush=True,
    )

    programs = compile_methods(task, forget, retain, workdir / "ensembles")
    results, models, withheld, examples = [], {}, {}, []
    insides = Insides(task, forget, retain)
    seeds = range(FIRST_SEED.value, FIRST_SEED.value + SEEDS.value)
    for seed in _progress.each(seeds, "", "seed"):
        found, variables, reasons = run_seed(task, programs, forget, retain, forget_set, seed)
        results += found.records
        examples.append(found.arrays)
        for name in (NOTHING, RETRAIN, *task.config.methods):
            insides.add(name, variables[name])
        if seed == FIRST_SEED.value:
            for name in task.config.methods:
                insides.add_ratios(name, name, method_arguments(task, name))
        models, withheld = models or variables, withheld or reasons
    (table,) = reporting.summarize(results)
    print()
    print(reporting.render([table], width=114))

    arrays = {forget_set.kind: insides.arrays(of_all_seeds(examples))}
    digest = digest_of(config, request=request, seeds=SEEDS.value, first_seed=FIRST_SEED.value)
    runs = [reporting.Run(tuple(results), arrays, digest)]
    path = write_results(workdir / "results.jsonl", runs[0])
    write_config(workdir, config)
    publish(Store(workdir / "store"), task, models, withheld, results, table, ids)
    if MODELS.value:
        directory = workdir / "ensembles"
        originals = train_population(
            task, directory, "originals", models=MODELS.value, seed=ORIGINALS
        )
        found = study(task, ids, originals, directory)
        print("\n" + tables.ordering(found, request))
        klom = tuple(tables.klom_records(found, forget_set))
        arrays = {forget_set.kind: reporting.Arrays(study_examples(found))}
        digest = digest_of(config, request=request, models=MODELS.value)
        runs.append(reporting.Run(klom, arrays, digest))
        write_results(workdir / "klom.jsonl", runs[1])
    with stage("draw the report"):
        report = write_page(workdir / "report.html", runs)
    print(f"\nRecords: {path}   Time: {time.monotonic() - start:.0f} s")
    print(f"The table again: python -m experiments.report {path}")
    print(f"Report, for a browser: {report}")


def compile_methods(task: Task, forget, retain, directory: pathlib.Path) -> dict:
    """Compile every method ahead of time, so that run times are run times: name -> (program, s)."""
    request = Request(forget, directory)
    key, variables = jax.random.key(0), tasks.like(task)
    again = retrain(task, retain)
    makers: dict[str, initial.Make] = {RETRAIN: lambda before: again}
    for name in _progress.each(task.config.methods, "", "method"):
        with stage(f"prepare {name}"):
            makers[name] = initial.maker(task, name, request)
    programs = {}
    for name, make in _progress.each(makers.items(), "", "program"):

        def program(before, key, variables, forget, retain, make=make):
            return make(before)(key, variables, forget, retain)

        with stage(f"compile {name}"):
            start = time.monotonic()
            lowered = jax.jit(program).lower(variables, key, variables, forget, retain)
            programs[name] = lowered.compile(), time.monotonic() - start
    return programs


def run_seed(task: Task, programs: dict, forget, retain, forget_set, seed: int):
    """One seed: the original, a constant, retraining, every method.

    Returns:
      The score; the variables by name; and by name why they should not serve, "" if they may.
    """
    with stage(f"seed {seed}: train the original"):
        original = train(task, jax.random.key(seed), task.train)
        before = tasks.initial(task, jax.random.key(seed))
    models, infos, costs = {}, {}, {NOTHING: [scoring.cost(None, wall_s=0.0)]}
    costs[CONSTANT] = costs[NOTHING]
    for name, (program, compile_s) in _progress.each(programs.items(), "", "method"):
        with stage(f"seed {seed}: {name}"):
            key = jax.random.key(10_000 + seed)
            start = time.monotonic()
            variables, info = jax.block_until_ready(program(before, key, original, forget, retain))
            wall_s = time.monotonic() - start
        for message in info.messages():
            warnings.warn(f"{name}, seed {seed}: {message}", mu.UnlearningWarning, stacklevel=2)
        models[name] = variables
        infos[name] = info
        costs[name] = [scoring.cost(info, wall_s=wall_s, compile_s=compile_s)]
    found = evaluation.score(
        task.model,
        {name: variables for name, variables in models.items() if name != RETRAIN},
        forget=forget,
        retain=retain,
        test=task.test,
        retrained=models[RETRAIN],
        original=original,
        kind=task.info.task,
        paired=True,
        seed=seed,
        forget_set=forget_set,
        hyperparameters={name: method_arguments(task, name) for name in task.config.methods},
        selection=dict.fromkeys(task.config.methods, task.config.selection),
        costs=costs,
    )
    withheld = {}
    for record in found.records:
        if record.method in infos:
            collapse = evaluation.Collapse(record.status == "collapsed", record.reason)
            pair, info = (original, models[record.method]), infos[record.method]
            _, withheld[record.method] = guard.judge(task, pair, forget, retain, info, collapse)
    return found, {NOTHING: original, **models}, withheld


def publish(
    store: Store, task: Task, models: dict, withheld: dict[str, str], results, table, ids
) -> None:
    """Publish the models of the first seed, and serve the fit one with the smallest average gap.

    Nothing is served that has seen what the serving version has forgotten by an earlier request.
    """
    found = {row.method: scoring.values(row.metrics) for row in reversed(results)}
    serving = store.serving()
    again = 0 if serving is None else np.setdiff1d(store.forgotten(serving), ids).size
    if again:
        seen = f"it was trained on {again} examples that version {serving} has forgotten"
        withheld = {name: reason or seen for name, reason in withheld.items()}
    parent = store.publish(
        models[NOTHING],
        method="train",
        hyperparameters={"seed": results[0].seed},
        metrics=found[NOTHING],
        note=task.config.dataset,
    )
    if serving is None:
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
            withheld=withheld[name],
        )
    print()
    for name, version in versions.items():
        if withheld[name]:
            print(f"{guard.refusal(f'{version} ({name})', withheld[name])}.")
    fit = [label for label in ranked(table) if label in versions and not withheld[label]]
    if not fit:
        keeps = "the original" if serving is None else f"version {serving}"
        print(f"No method is fit to serve: {keeps} keeps serving.")
        if again:
            print(
                f"Take further requests to version {serving} with `python -m experiments.unlearn`."
            )
        return
    store.swap(versions[fit[0]])
    equal = [row.label for row in table.rows if row.best]
    why = "smallest average gap"
    if len(equal) > 1 and fit[0] in equal:
        why = f"the first of {len(equal)} methods below the floor of the average gap"
    print(
        f"Serving version {versions[fit[0]]} ({fit[0]}, {why}); "
        f"the original is version {parent} in {store.directory}"
    )


def ranked(table: reporting.Table) -> list[str]:
    """Labels of the rows that have a rank, the best first."""
    columns = [column.name for column in table.columns]
    if "average gap" not in columns:
        return []
    gap = columns.index("average gap")
    return [
        row.label
        for row in table.rows
        if row.cells[gap].n == row.seeds and not row.collapsed and not row.doubtful
    ]


if __name__ == "__main__":
    start(main, FLAGS)
