"""Corrective unlearning: how much of a manipulation is repaired when only a part of it is known.

    python -m experiments.corrective
    python -m experiments.corrective --manipulations=poison --fractions=0.1,0.25,0.5,0.75,1
    python -m experiments.corrective --config.manipulations.interclass.classes="(4, 9)"
    python -m experiments.corrective --config experiments/configs/corrective_cifar10.py \\
        --config.data_dir=DIR

A part of the training set is manipulated: by `poison`, which writes a trigger into the corner of
images and gives them one label, or by `interclass`, which swaps labels of two classes. Only a
fraction of what was manipulated is known; the unlearner is asked to forget that, and is given all
the rest as data to retain, the unknown manipulated examples among it. Two numbers count: the
corrected accuracy, on the true labels of what the manipulation strikes (test images of other
classes with the trigger, or test examples of the two classes), and the retained accuracy, on all
clean test images, or on those of the other classes.

The row "retrain" is trained without the whole manipulated set: it is what to reach. The row
"retrain without the known" is what the oracle of ordinary unlearning would be; it keeps what is
unknown, and is not the reference. Seeds are those of the models, which are trained and unlearned
together; the manipulated set is drawn once (`--config.manipulations.poison.seed`). Models and
compiled programs are kept in the workdir, and a run that was stopped goes on where it was.
"""

from __future__ import annotations

import pathlib
import sys
import time

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

import mu_jax as mu
from experiments.lib.cases import Case, make_case
from experiments.lib.command_line import define_config, define_seeds, define_workdir, start
from experiments.lib.methods import check_methods
from experiments.lib.paths import check_workdir
from experiments.lib.populations import (
    ORACLES,
    ORIGINALS,
    everything,
    positions,
    train_population,
)
from experiments.lib.results import beside, digest_of, earlier, write_results
from experiments.lib.rows import Row, constant, unlearn_all
from experiments.lib.running import exit_with_sentence, keep_programs, write_config
from experiments.lib.tasks import make_task, split
from mu_jax import datasets, evaluation, reporting
from mu_jax.scoring.examples import examples_at
from mu_jax.scoring.rows import record

FLAGS = flags.FlagValues()
CONFIG = define_config(FLAGS, "corrective_digits", "What to run.")
MANIPULATIONS = flags.DEFINE_list(
    "manipulations",
    None,
    "Some of those in the configuration, by commas; default all of them.",
    flag_values=FLAGS,
)
FRACTIONS = flags.DEFINE_list(
    "fractions",
    ["0.1", "0.5", "1"],
    "Known fractions of the manipulated set, by commas.",
    flag_values=FLAGS,
)
SEEDS = define_seeds(FLAGS, 3)
WORKDIR = define_workdir(FLAGS, "runs/corrective", "Where models and results go.")

RETRAIN, NAIVE = "retrain", "retrain without the known"
KNOWN = 2  # seed of the models retrained without the known part, beside those of the populations

Curves = dict[str, evaluation.CorrectiveCurve]
Metrics = dict[str, reporting.Metric]


def main(argv: list[str]) -> None:
    with exit_with_sentence():
        run(CONFIG.value, MANIPULATIONS.value, parse_fractions(FRACTIONS.value))


def run(config: ConfigDict, names: list[str] | None, fractions: list[float]) -> None:
    start = time.monotonic()
    if "manipulations" not in config:
        raise ValueError(
            "expected a configuration with manipulations, found none; begin with "
            "experiments/configs/corrective_digits.py"
        )
    workdir = check_workdir(
        WORKDIR.value,
        files=("config.json", "results.jsonl", "results.npz"),
        folders=("ensembles", "programs"),
    )
    task = make_task(config)
    cases = [make_case(task, name) for name in names or config.manipulations]
    for case in cases:
        check_methods(case.task)
    write_config(workdir, config)
    keep_programs(workdir / "programs")
    digest = digest_of(
        config, manipulations=[c.name for c in cases], fractions=fractions, seeds=SEEDS.value
    )
    path, records, tables, arrays = workdir / "results.jsonl", [], [], {}
    kept = earlier(path, digest)
    for case in cases:
        print(
            f"\n{case.name}: {case.ids.size} of {task.train.num_examples} manipulated",
            file=sys.stderr,
        )
        rows = run_case(case, fractions, workdir / "ensembles")
        curves = {
            name: case.curve(fractions, [row.outputs for row in found])
            for name, found in rows.items()
        }
        records += case_records(case, fractions, rows, curves)
        arrays |= case_arrays(case, fractions, rows)
        tables.append(curve_table(case, curves))
        write_results(path, beside(kept, reporting.Run(tuple(records), arrays, digest)))
    print(reporting.render(records, width=114))
    print("\n" + reporting.render(tables, width=114))
    print(f"\nRecords: {path}   Time: {time.monotonic() - start:.0f} s")


def parse_fractions(texts: list[str]) -> list[float]:
    """Different numbers in (0, 1], in ascending order."""
    try:
        found = sorted({float(text) for text in texts})
    except ValueError:
        found = []
    if not found or not all(0 < fraction <= 1 for fraction in found):
        raise ValueError(
            f"expected known fractions in (0, 1], found {','.join(texts)!r}; write "
            "--fractions=0.1,0.5,1"
        )
    return found


def run_case(case: Case, fractions: list[float], directory: pathlib.Path) -> dict[str, list[Row]]:
    """The rows of every method, one for each fraction."""
    task, seeds = case.task, SEEDS.value

    def population(label: str, seed: int, examples: mu.Batches) -> Row:
        found = train_population(task, directory, label, models=seeds, seed=seed, examples=examples)
        return Row(label, found.outputs)

    originals = train_population(task, directory, "originals", models=seeds, seed=ORIGINALS)
    clean = split(task, case.ids)[1]
    rows = {
        RETRAIN: [population(RETRAIN, ORACLES, clean)] * len(fractions),
        "do nothing": [Row("do nothing", originals.outputs, wall_s=0.0)] * len(fractions),
    }
    for fraction in fractions:
        known = case.known(fraction)
        retain = split(task, known)[1]
        found = [population(NAIVE, KNOWN, retain), constant(task, retain, seeds)]
        label = f"{case.name}, {fraction:.0%} known: "
        found += unlearn_all(task, known, originals, directory, label)
        for row in found:
            rows.setdefault(row.name, []).append(row)
    return rows


def case_records(
    case: Case, fractions: list[float], rows: dict[str, list[Row]], curves: Curves
) -> list[reporting.Record]:
    """One record for each fraction, method and seed."""
    records = []
    for place, fraction in enumerate(fractions):
        forget_set = known_set(case, fraction)
        for name, found in rows.items():
            for seed in range(SEEDS.value):
                metrics = curve_metrics(curves[name], place, seed)
                records.append(case_record(case, found[place], forget_set, seed, metrics))
    return records


def known_set(case: Case, fraction: float) -> reporting.ForgetSet:
    """What is known of the manipulated set, for the records."""
    ids = case.known(fraction)
    kind = f"{case.name}, {ids.size} of {case.ids.size} known"
    return reporting.ForgetSet(kind, ids.size, datasets.digest(ids))


def case_arrays(
    case: Case, fractions: list[float], rows: dict[str, list[Row]]
) -> dict[str, reporting.Arrays]:
    """What every model says of the examples, by the known part of the manipulated set.

    The sets are "forget" and "retain", with the labels that were trained on; "test", examples that
    are not struck, of which the retained accuracy is; and "affected" with true labels, of which the
    corrected accuracy is.
    """
    task, found = case.task, {}
    size, targets = task.train.num_examples, np.asarray(everything(task).targets)
    index = np.asarray(everything(task).index)
    for place, fraction in enumerate(fractions):
        where = positions(task, case.known(fraction))
        where |= {"test": size + case.retained, "affected": size + case.affected}
        found[known_set(case, fraction).kind] = reporting.Arrays(
            {
                name: examples_at(task.info.task, each[place].outputs, targets, index, where)
                for name, each in rows.items()
            }
        )
    return found


def curve_metrics(
    curve: evaluation.CorrectiveCurve, place: int, seed: int
) -> dict[str, reporting.Metric]:
    """The two numbers of one model."""
    corrected, retained = curve.corrected[place, seed], curve.retained[place, seed]
    return {
        "corrected accuracy": reporting.Metric(corrected, n=curve.n_corrected, unit="fraction"),
        "retained accuracy": reporting.Metric(retained, n=curve.n_retained, unit="fraction"),
    }


def case_record(
    case: Case, row: Row, forget_set: reporting.ForgetSet, seed: int, metrics: Metrics
) -> reporting.Record:
    """The record of one model; one that fails on the retained test examples has collapsed."""
    outputs = case.outputs(row.outputs, case.retained)[seed]
    return record(
        row.name,
        forget_set,
        seed,
        (metrics, evaluation.collapsed(outputs, case.targets(case.retained))),
        hyperparameters=row.hyperparameters,
        selection=case.task.config.selection if row.hyperparameters else "",
        cost=reporting.Cost(wall_s=row.wall_s, device=jax.devices()[0].device_kind),
    )


def curve_table(case: Case, curves: Curves) -> reporting.Table:
    """Corrected accuracy by method and known fraction."""
    fractions = next(iter(curves.values())).fraction
    rows = []
    for name, curve in curves.items():
        values = np.asarray(curve.corrected, np.float64)
        stds = values.std(axis=1, ddof=1) if SEEDS.value > 1 else [None] * len(values)
        cells = [
            reporting.Cell(mean, std, SEEDS.value) for mean, std in zip(values.mean(axis=1), stds)
        ]
        rows.append(reporting.Row(name, SEEDS.value, tuple(cells), collapsed=False, best=False))
    return reporting.Table(
        title=f"Corrected accuracy by the known part of the manipulated set: {case.name}",
        columns=tuple(
            reporting.Column(f"{fraction:.0%} known", "%, closer to retrain", 100.0, 1)
            for fraction in fractions
        ),
        rows=tuple(rows),
        notes=(
            f"{RETRAIN}: without the whole manipulated set, whatever is known; what to reach.",
            f"{NAIVE}: the naive oracle, which keeps the rest of the manipulated set.",
            "Cells: mean ± sample standard deviation over seeds.",
        ),
    )


if __name__ == "__main__":
    start(main, FLAGS)
