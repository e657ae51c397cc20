"""What unlearned models are measured against: originals and retrained models of one forget set.

A search has two halves that share no model, neither originals nor oracles: settings are chosen in
the half "tuning", and what is said of the chosen ones comes from the half "reporting", whose models
are those of `experiments.benchmark`. Within a half, seed s takes the s-th N models of every
population, so that seeds share none either.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any, Literal

import jax
import numpy as np

import mu_jax as mu
from experiments import scoring
from experiments.populations import ORACLES, ORIGINALS, everything, positions, train_population
from experiments.tasks import Task, read_ids
from mu_jax import evaluation
from mu_jax.reporting import Metric, Oracle, missing

Half = Literal["tuning", "reporting"]
SEEDS = {"tuning": (2_001, 2_002), "reporting": (ORIGINALS, ORACLES)}  # of originals, of oracles
ATTACKED = 5  # models on which the membership attack is run


@dataclasses.dataclass(frozen=True, eq=False)
class Bench:
    """What all trials on one forget set with one seed share; equal to itself only.

    ids: of the forget set. positions: where the examples of each split stand. arguments: keys,
    originals, forget set, retain set and all examples, as a program takes them. oracles: margins
    f32[N, n]. retrained, untouched: outputs f32[N, n, K] of N more oracles and of the originals.
    """

    task: Task
    directory: pathlib.Path
    ids: np.ndarray
    positions: dict[str, np.ndarray]
    arguments: tuple[Any, ...]
    oracles: np.ndarray
    retrained: np.ndarray
    untouched: np.ndarray

    @property
    def targets(self) -> np.ndarray:
        """Labels of the training examples, then of the test examples."""
        return np.asarray(self.arguments[-1].targets)

    @functools.cached_property
    def reference(self) -> dict[str, Metric]:
        """The metrics of the retrained models, to which all others are compared."""
        return _measure(self, self.retrained)


@functools.lru_cache(maxsize=2)
def make_bench(
    task: Task, directory: pathlib.Path, half: Half, request: str, seed: int, models: int
) -> Bench:
    """Originals and oracles of one half and one seed, from disk where they are there.

    Args:
      task: the task.
      directory: where ensembles are kept.
      half, seed: which models. models: N.
      request: what to forget.

    Cost: trains N originals and 2 N oracles where they are not on disk.
    """
    ids = read_ids(task, request)
    forget, retain = mu.split(task.train, ids)
    first, last = models * seed, models * (seed + 1)
    originals_seed, oracles_seed = SEEDS[half]
    originals = train_population(
        task, directory, f"{half} originals", models=last, seed=originals_seed
    ).take(first, last)
    retrained = train_population(
        task,
        directory,
        f"{half} oracles of {request}",
        models=2 * last,
        examples=retain,
        seed=oracles_seed,
    ).outputs[2 * first :]
    examples = everything(task)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(2), seed), models)
    return Bench(
        task,
        directory,
        ids,
        positions(task, ids),
        (keys, originals.variables, forget, retain, examples),
        np.asarray(evaluation.margins(retrained[:models], examples.targets)),
        retrained[models:],
        originals.outputs,
    )


def collapse(bench: Bench, outputs: np.ndarray) -> str:
    """Why N models cannot be read, empty if they can: one that has collapsed is one too many."""
    where = bench.positions["retain"]
    found = [evaluation.collapsed(one[where], bench.targets[where]) for one in outputs]
    reasons = [each.reason for each in found if each.flag]
    if not reasons:
        return ""
    return f"{len(reasons)} of {len(found)} models collapsed, the first with {reasons[0]}"


def measure(bench: Bench, outputs: np.ndarray) -> dict[str, Metric]:
    """KLoM beside its floor, accuracies and membership attack beside those of retraining.

    Args:
      bench: what to compare with.
      outputs: f32[N, n, K] of N models on the training, then the test examples.

    Returns:
      Metrics by the names of `experiments.benchmark`; those that need finite outputs are missing
      where there are others.
    """
    metrics = _measure(bench, outputs)
    return {name: _beside(metric, bench.reference[name]) for name, metric in metrics.items()}


def _measure(bench: Bench, outputs: np.ndarray) -> dict[str, Metric]:
    if not np.isfinite(outputs).all():
        reason = "some outputs are NaN or infinite"
        return {
            **{f"KLoM {split} p95": _klom_metric(reason) for split in bench.positions},
            **{f"{split} accuracy": missing(reason, unit="fraction") for split in bench.positions},
            "MIA": missing(reason, unit="fraction"),
        }
    margins = evaluation.margins(outputs, bench.targets)
    klom = np.asarray(evaluation.klom(bench.oracles, margins))
    correct = outputs.argmax(-1) == bench.targets
    metrics = {
        f"KLoM {split} p95": _klom_metric(klom[where], len(outputs))
        for split, where in bench.positions.items()
    }
    for split, where in bench.positions.items():
        metrics[f"{split} accuracy"] = _mean(correct[:, _retained(bench, split, where)].mean(1))
    metrics["MIA"] = _membership(bench, outputs)
    return metrics


def _klom_metric(values: np.ndarray | str, models: int | None = None) -> Metric:
    kind: dict[str, Any] = {"direction": "lower is better", "unit": "nats"}
    if isinstance(values, str):
        return missing(values, **kind)
    return Metric(np.percentile(values, 95), n=models, **kind)


def _retained(bench: Bench, split: str, where: np.ndarray) -> np.ndarray:
    """Of the test examples only those of classes that are retained."""
    if split != "test":
        return where
    classes = np.unique(bench.targets[bench.positions["retain"]])
    return where[np.isin(bench.targets[where], classes)]


def _membership(bench: Bench, outputs: np.ndarray) -> Metric:
    """Accuracy of the loss attack, forget against test, on some of the models."""
    found = []
    for seed, one in enumerate(outputs[:ATTACKED]):
        losses = np.asarray(evaluation.losses(one, bench.targets))
        parts = (losses[bench.positions[split]] for split in ("forget", "test"))
        found.append(scoring.membership(*parts, seed=seed))
    failed = [metric for metric in found if metric.value is None]
    return failed[0] if failed else _mean([metric.value for metric in found])


def _mean(values: Any) -> Metric:
    """Mean over models; with two or more, its 95 % interval."""
    values = np.asarray(values, np.float64)
    if values.size < 2:
        return Metric(values.mean(), n=values.size, unit="fraction")
    found = evaluation.t_interval(values)
    return Metric(found.estimate, n=values.size, low=found.low, high=found.high, unit="fraction")


def _beside(metric: Metric, reference: Metric) -> Metric:
    """A metric with what retraining scores: the floor of KLoM, the oracles' value of others."""
    if metric.direction == "lower is better":
        return dataclasses.replace(metric, null=reference.value)
    if reference.value is None:
        return metric
    oracle = Oracle(reference.value, reference.low, reference.high)
    return dataclasses.replace(metric, oracle=oracle)
