"""Regression unlearning: how far predictions on the forget set are from retrained models.

    python -m experiments.regression
    python -m experiments.regression --seeds=2 --config.training.epochs=20

Every seed trains an original and a retrained model and unlearns with every method of the
configuration; all seeds of a method are one program. The table has errors on the test examples to
retain and to forget, the 1-Wasserstein distance between the predictions on the forget set and those
of the retrained model of the same seed, the mean distance of these predictions one by one, a
membership attack, and the steps of relearning on a copy with their ratio to the retrained model's
(AIN). The constant predictor, the median of the retained targets, stands in every table.
"""

from __future__ import annotations

import pathlib
import time
from typing import Any

import jax
import numpy as np
import optax
from absl import app, flags
from ml_collections import config_flags

from experiments import scoring
from experiments.domains import Sets, compare, split
from experiments.methods import Request, make_method, method_arguments
from experiments.running import exit_with_sentence, flags_only, stage, write_config, write_records
from experiments.tasks import Task, check_kind, make_task, retrain, train
from mu_jax import datasets, ensembles, evaluation, probes, reporting
from mu_jax.reporting import ForgetSet, Metric, Record, missing

CONFIG = config_flags.DEFINE_config_file(
    "config",
    str(pathlib.Path(__file__).parent / "configs/digits_regression.py"),
    "What to run.",
)
SEEDS = flags.DEFINE_integer("seeds", 5, "Number of seeds.", lower_bound=1)
WORKDIR = flags.DEFINE_string("workdir", "runs/regression", "Where results go.")


def main(argv: list[str]) -> None:
    flags_only(argv, "--seeds=")
    with exit_with_sentence():
        run(CONFIG.value)


def run(config) -> None:
    start = time.monotonic()
    task = make_task(config)
    check_kind(task, "regression", "; use experiments.benchmark")
    sets = split(task, config.forget_below)
    workdir = pathlib.Path(WORKDIR.value)
    models = unlearn(task, sets, Request(sets.forget, workdir / "ensembles"))
    with stage("relearn copies"):
        curves = {name: relearn(task, sets, variables) for name, variables in models.items()}
    records = score(task, sets, models, curves)
    path = write_records(workdir / "results.jsonl", records)
    write_config(workdir, config)
    print(reporting.render(records, width=110))
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


def relearn(task: Task, sets: Sets, variables: Any) -> np.ndarray:
    """Errors on the forgotten test examples while a copy relearns all, f32[seeds, steps + 1]."""
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
            metric=probes.absolute_error,
        )

    program = jax.jit(lambda v: ensembles.map_models(one, v, layout=_layout(task)))
    return np.asarray(program(variables))


def score(task: Task, sets: Sets, models: dict, curves: dict[str, np.ndarray]) -> list[Record]:
    """One record for each row and seed, and those of the constant predictor."""
    outputs = {
        name: Sets(
            *(
                np.asarray(ensembles.ensemble_outputs(task.model, v, part, layout=_layout(task)))
                for part in sets
            )
        )
        for name, v in models.items()
    }
    constant = evaluation.constant_predictions(sets.retain.targets, task.train.targets)[0]
    outputs["constant (median)"] = Sets(
        *(np.full((SEEDS.value, part.num_examples), constant, np.float32) for part in sets)
    )
    forget_set = ForgetSet(
        f"targets below {task.config.forget_below:g}",
        sets.forget.num_examples,
        datasets.digest(np.asarray(sets.forget.index)),
    )
    records = []
    for name, found in outputs.items():
        for seed in range(SEEDS.value):
            metrics = _errors(sets, found, outputs["retrain"], seed)
            metrics |= _relearning(task, curves, name, seed)
            known = name in task.config.methods
            records.append(
                Record(
                    name,
                    forget_set,
                    seed,
                    metrics=metrics,
                    hyperparameters=method_arguments(task, name) if known else {},
                    selection=task.config.selection if known else "",
                )
            )
    return records


def _errors(sets: Sets, found: Sets, retrained: Sets, seed: int) -> dict[str, Metric]:
    def error(part: str) -> Metric:
        outputs, examples = getattr(found, part)[seed], getattr(sets, part)
        errors = evaluation.regression_errors(outputs, examples.targets)
        return Metric(float(errors.mae), n=examples.num_examples)

    mine, reference = found.forget[seed], retrained.forget[seed]
    paired = evaluation.paired_distance(mine, reference).mean_absolute
    losses = (
        evaluation.example_errors(getattr(found, part)[seed], getattr(sets, part).targets)
        for part in ("forget", "test_forget")
    )
    return {
        "retain test MAE": error("test_retain"),
        "forget test MAE": error("test_forget"),
        "W1 to retrained": Metric(
            float(evaluation.wasserstein(mine, reference)),
            n=mine.size,
            direction="lower is better",
        ),
        "paired distance": Metric(float(paired), n=mine.size, direction="lower is better"),
        "MIA": scoring.membership(*losses, seed),
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
    jax.config.config_with_absl()
    app.run(main)
