"""Regression unlearning: how far predictions on the forget set are from retrained models.

    python -m experiments.regression
    python -m experiments.regression --seeds=2 --config.training.epochs=20
    python -m experiments.regression --config experiments/configs/diabetes.py
    python -m experiments.regression --config experiments/configs/electricity.py \\
        --config.data_dir=DIR --config.forget=client:12

What is forgotten is a domain of the data, `forget` in the configuration: targets below or above a
number (`below:3`), or examples with values of an attribute (`client:200-209`). Every seed trains an
original and a retrained model and unlearns with every method of the configuration; all seeds of a
method are one program. The table has mean absolute errors on the test examples to retain and to
forget, the 1-Wasserstein distance between the predictions on the forget set and those of the
retrained model of the same seed, the mean distance of these predictions one by one, a membership
attack, and the steps of relearning on a copy with their ratio to the retrained model's (AIN).
Errors and distances are in units of the target, where the dataset knows them. Where a model
forecasts quantiles, the median counts. The constant predictor, the median of the retained targets,
stands in every table.
"""

from __future__ import annotations

import functools
import time
from typing import Any

import jax
import numpy as np
import optax
from absl import flags

import mu_jax as mu
from experiments.lib import configurations
from experiments.lib.command_line import define_config, define_seeds, define_workdir, start
from experiments.lib.constant import constant_outputs
from experiments.lib.domains import Sets, compare, split
from experiments.lib.ids import named_set
from experiments.lib.methods import Request, make_checked_task, make_method, method_arguments
from experiments.lib.paths import check_workdir
from experiments.lib.results import digest_of, write_results
from experiments.lib.running import exit_with_sentence, stage, write_config
from experiments.lib.tasks import Task, in_units, retrain, train
from mu_jax import ensembles, evaluation, losses, probes, reporting
from mu_jax.reporting import Arrays, Curve, Examples, Metric, Record, missing
from mu_jax.scoring.kinds import collapse_of_regression, point
from mu_jax.scoring.rows import CONSTANT, record
from mu_jax.scoring.single import membership

FLAGS = flags.FlagValues()
CONFIG = define_config(FLAGS, "digits_regression", "What to run.")
SEEDS = define_seeds(FLAGS, 5)
WORKDIR = define_workdir(FLAGS, "runs/regression", "Where results go.")


def main(argv: list[str]) -> None:
    with exit_with_sentence():
        run(CONFIG.value)


def run(config) -> None:
    start = time.monotonic()
    workdir = check_workdir(
        WORKDIR.value,
        files=("config.json", "results.jsonl", "results.npz"),
        folders=("ensembles",),
    )
    task = make_checked_task(config, "regression", "; use experiments.benchmark")
    configurations.check_fields(config, configurations.REGRESSION)
    sets = split(task, config.forget)
    write_config(workdir, config)
    models = unlearn(task, sets, Request(sets.forget, workdir / "ensembles"))
    with stage("relearn copies"):
        curves = relearn(task, sets, models)
    outputs = predict(task, sets, models)
    records = score(task, sets, outputs, curves)
    arrays = {records[0].forget_set.kind: arrays_of(task, sets, outputs, curves)}
    digest = digest_of(config, seeds=SEEDS.value)
    run = reporting.Run(tuple(records), arrays, digest)
    path = write_results(workdir / "results.jsonl", run)
    print(reporting.render(records, width=114))
    if config.get("expected"):
        print("\n" + compare(records, config.expected))
    print(f"\nRecords: {path}   Time: {time.monotonic() - start:.0f} s")


def unlearn(task: Task, sets: Sets, request: Request) -> dict[str, Any]:
    """Variables with a leading axis of seeds, by row: original, retrained, every method."""
    keys = jax.vmap(jax.random.key)(np.arange(SEEDS.value))
    with stage("do nothing"):
        originals = jax.jit(
            lambda keys: ensembles.map_models(
                lambda key: train(task, key, task.train), keys, layout=_layout(task)
            )
        )(keys)
    models = {"do nothing": originals}
    transforms = {"retrain": retrain(task, sets.retain)}
    transforms |= {name: make_method(task, name, request) for name in task.config.methods}
    program = jax.jit(ensembles.unlearn, static_argnums=0, static_argnames="layout")
    for name, transform in transforms.items():
        with stage(name):
            models[name], _ = program(
                transform, keys, originals, sets.forget, sets.retain, layout=_layout(task)
            )
            jax.block_until_ready(models[name])
    return models


def _layout(task: Task) -> str:
    """One model after the other where convolutions make that faster."""
    shapes = jax.eval_shape(jax.vmap(task.init), jax.random.split(jax.random.key(0), 2))
    return ensembles.choose_layout(shapes)


def relearn(task: Task, sets: Sets, models: dict[str, Any]) -> dict[str, np.ndarray]:
    """Errors on the forgotten test examples while copies relearn all, f32[seeds, steps + 1]."""
    settings = task.config.relearning
    optimizer = optax.adam(settings.learning_rate)

    def one(variables):
        return probes.relearning_curve(
            task.model,
            optimizer,
            variables,
            task.train,
            sets.test_forget,
            key=jax.random.key(11),
            epochs=settings.epochs,
            batch_size=task.config.training.batch_size,
            metric=_error,
        )

    program = jax.jit(lambda v: ensembles.map_models(one, v, layout=_layout(task)))
    return {name: np.asarray(program(variables)) for name, variables in models.items()}


def _error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Absolute error of the point prediction of each example, f32[B]."""
    return losses.absolute_error(point(outputs, targets), targets)


def arrays_of(
    task: Task, sets: Sets, outputs: dict[str, Sets], curves: dict[str, np.ndarray]
) -> Arrays:
    """What every model predicts, its absolute errors, and what relearning brings back.

    The sets are "forget", "retain", "test" (test examples to retain) and "forget test".
    """
    names = Sets("forget", "retain", "forget test", "test")
    targets = targets_of(task, sets)

    def examples(found: np.ndarray, part: mu.Batches, wanted: np.ndarray) -> Examples:
        errors = np.stack([evaluation.example_errors(one, wanted) for one in found])
        return Examples(np.asarray(part.index), wanted, errors, None, found)

    rows = {
        row: {name: examples(*each) for name, *each in zip(names, found, sets, targets)}
        for row, found in outputs.items()
    }
    title = "mean absolute error on forgotten test examples"
    relearning = {
        row: Curve(np.arange(curve.shape[1]), curve, title) for row, curve in curves.items()
    }
    return Arrays(rows, relearning=relearning)


def targets_of(task: Task, sets: Sets) -> Sets:
    """Targets in original units."""
    return Sets(*(in_units(task, np.asarray(part.targets)) for part in sets))


def score(
    task: Task, sets: Sets, outputs: dict[str, Sets], curves: dict[str, np.ndarray]
) -> list[Record]:
    """One record for each row and seed."""
    targets = targets_of(task, sets)
    forget_set = named_set(task, task.config.forget, np.asarray(sets.forget.index))
    records = []
    for name, found in outputs.items():
        for seed in range(SEEDS.value):
            own, reference = (Sets(*(x[seed] for x in o)) for o in (found, outputs["retrain"]))
            metrics = _errors(targets, own, reference, seed)
            metrics |= _relearning(task, curves, name, seed)
            known = name in task.config.methods
            records.append(
                record(
                    name,
                    forget_set,
                    seed,
                    (metrics, collapse_of_regression(own.retain)),
                    hyperparameters=method_arguments(task, name) if known else {},
                    selection=task.config.selection if known else "",
                )
            )
    return records


def predict(task: Task, sets: Sets, models: dict[str, Any]) -> dict[str, Sets]:
    """Point predictions of every seed's model in original units, `f32[seeds, n, ...]`.

    The constant predictor is among the rows, as often as there are seeds.
    """
    program = jax.jit(
        functools.partial(ensembles.ensemble_outputs, task.model, layout=_layout(task))
    )

    def of(variables, part):
        outputs = np.asarray(program(variables, part))
        return in_units(task, np.stack([point(one, part.targets) for one in outputs]))

    found = {name: Sets(*(of(v, part) for part in sets)) for name, v in models.items()}
    constants = (constant_outputs(task, sets.retain, part.num_examples) for part in sets)
    found[CONSTANT] = Sets(*(np.stack([in_units(task, part)] * SEEDS.value) for part in constants))
    return found


def _errors(targets: Sets, found: Sets, retrained: Sets, seed: int) -> dict[str, Metric]:
    """The numbers of one model, from predictions and targets of the four sets."""

    def error(part: str) -> Metric:
        wanted = getattr(targets, part)
        errors = evaluation.regression_errors(getattr(found, part), wanted)
        return Metric(float(errors.mae), n=len(wanted))

    mine, reference = found.forget, retrained.forget
    paired = evaluation.paired_distance(mine, reference).mean_absolute
    attacked = (
        evaluation.example_errors(getattr(found, part), getattr(targets, part))
        for part in ("forget", "test_forget")
    )
    return {
        "retain test MAE": error("test_retain"),
        "forget test MAE": error("test_forget"),
        "W1 to retrained": Metric(
            float(evaluation.wasserstein(mine.ravel(), reference.ravel())),
            n=len(mine),
            direction="lower is better",
        ),
        "paired distance": Metric(float(paired), n=len(mine), direction="lower is better"),
        "MIA": membership(*attacked, seed),
    }


def _relearning(
    task: Task, curves: dict[str, np.ndarray], name: str, seed: int
) -> dict[str, Metric]:
    if name not in curves:
        return {
            "relearn steps": missing("a constant does not learn"),
            "AIN": missing("a constant does not learn"),
        }
    target = probes.relearn_target(
        curves["do nothing"][seed, 0],
        alpha=task.config.relearning.alpha,
        direction="fall",
    )
    times = {
        row: probes.relearn_time(curves[row][seed], target, direction="fall")
        for row in (name, "retrain")
    }
    index = probes.anamnesis_index(times[name], times["retrain"])
    steps = Metric(float(times[name].steps), n=1)
    if not bool(index.is_exact):
        return {"relearn steps": steps, "AIN": missing("a relearning was cut off: a bound only")}
    return {"relearn steps": steps, "AIN": Metric(float(index.value), n=1)}


if __name__ == "__main__":
    start(main, FLAGS)
