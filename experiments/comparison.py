"""N unlearned models against N oracles: the numbers of a benchmark's row, and their order."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import scoring
from experiments.tasks import Task
from mu_jax import evaluation
from mu_jax.reporting import Cost, ForgetSet, Metric, Record, missing

SPLITS = ("forget", "retain", "test")
ATTACKED = 5  # models on which the membership attack is run
p95 = functools.partial(np.percentile, q=95)


class Row(NamedTuple):
    """One method: outputs f32[N, n, K] on the training and test examples, and what it cost."""

    name: str
    outputs: np.ndarray
    wall_s: float | None = None
    precompute_s: float | None = None
    passes: float | None = None
    hyperparameters: dict[str, Any] = {}  # noqa: RUF012


@dataclasses.dataclass(frozen=True)
class Study:
    """The rows of one forget set.

    positions: where the examples of each split stand. oracles: margins f32[N, n].
    rows: the first is retrained, the second untouched.
    """

    task: Task
    positions: dict[str, np.ndarray]
    oracles: np.ndarray
    rows: list[Row]

    @property
    def targets(self) -> np.ndarray:
        """Labels of all examples."""
        return np.concatenate([self.task.train.targets, self.task.test.targets])

    @functools.cached_property
    def klom(self) -> dict[str, np.ndarray]:
        """KLoM of every row for every example, f32[n], by name."""
        return {row.name: klom_of(self, row) for row in self.rows}


def klom_of(study: Study, row: Row) -> np.ndarray:
    """KLoM of one method for every example, f32[n]."""
    margins = evaluation.margins(row.outputs, study.targets)
    return np.asarray(evaluation.klom(study.oracles, margins))


def records(study: Study, forget_set: ForgetSet) -> list[Record]:
    """One record for each row, all of them over N models."""
    floor = study.klom[study.rows[0].name]
    return [
        scoring.record(
            row.name,
            forget_set,
            0,
            (_metrics(study, row, study.klom[row.name], floor), _collapse(study, row)),
            hyperparameters=row.hyperparameters,
            selection=study.task.config.selection if row.hyperparameters else "",
            cost=_cost(row),
        )
        for row in study.rows
    ]


def ordering(study: Study, request: str) -> str:
    """The methods by KLoM on the forget set, and whether each step is more than chance."""
    forget = study.positions["forget"]
    values = {name: klom[forget] for name, klom in study.klom.items()}
    margins = {
        row.name: np.asarray(evaluation.margins(row.outputs, study.targets))[:, forget]
        for row in study.rows
    }
    difference = functools.partial(_difference, study.oracles[:, forget])
    names = sorted(values, key=lambda name: p95(values[name]))
    lines = [
        f"{request}: 95th percentile of KLoM on the forget set, {len(study.rows[0].outputs)} "
        f"models against {len(study.oracles)} oracles",
        f"  {'':24s} {'p95':>5s}   {'above the row before':>24s}   {'below do nothing':>24s}",
    ]
    for before, name in zip([None, *names[:-1]], names):
        step = difference(margins[name], margins[before]) if before else ""
        gain = "" if name == "do nothing" else difference(margins["do nothing"], margins[name])
        label = f"{name} (the floor)" if name == "retrain" else name
        lines.append(f"  {label:24s} {p95(values[name]):5.2f}   {step:>24s}   {gain:>24s}".rstrip())
    lines.append(
        "  In brackets 95 % intervals of the difference, over models and the same examples;"
    )
    lines.append("  0 in it, the difference is more than chance; [-] where none would cover.")
    return "\n".join(lines)


def _difference(oracles: np.ndarray, first: np.ndarray, second: np.ndarray) -> str:
    """KLoM of the first margins minus that of the second; [-] where models or examples are few."""
    try:
        found = evaluation.klom_difference(oracles, first, second, seed=0)
    except ValueError:
        values = (p95(np.asarray(evaluation.klom(oracles, one))) for one in (first, second))
        return f"{np.subtract(*values):.2f} [-]"
    return f"{found.estimate:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _metrics(study: Study, row: Row, klom: np.ndarray, floor: np.ndarray) -> dict[str, Metric]:
    models = len(row.outputs)
    correct = row.outputs.argmax(-1) == study.targets
    metrics = {}
    for name in SPLITS:
        values = klom[study.positions[name]]
        low, high, why = _interval(study, row, name)
        metrics[f"KLoM {name} p95"] = Metric(
            p95(values),
            n=models,
            low=low,
            high=high,
            no_interval=why,
            null=float(p95(floor[study.positions[name]])),
            direction="lower is better",
            unit="nats",
        )
    for name in SPLITS:
        interval = evaluation.t_interval(_kept(study, name, correct).mean(axis=1))
        metrics[f"{name} accuracy"] = Metric(
            interval.estimate, n=models, low=interval.low, high=interval.high, unit="fraction"
        )
    metrics["MIA"] = _membership(study, row)
    return metrics


def _collapse(study: Study, row: Row) -> evaluation.Collapse:
    """A row has collapsed if most of its models have."""
    where = study.positions["retain"]
    found = [scoring.collapse(outputs[where], study.targets[where]) for outputs in row.outputs]
    reasons = [collapse.reason for collapse in found if collapse.flag]
    if 2 * len(reasons) <= len(found):
        return evaluation.Collapse(False, "")
    return evaluation.Collapse(True, f"{len(reasons)} of {len(found)} models, {reasons[0]}")


def _interval(study: Study, row: Row, split: str) -> tuple[float | None, float | None, str]:
    """Ends of the interval of KLoM over models and examples, or the sentence why there is none."""
    where = study.positions[split]
    margins = np.asarray(evaluation.margins(row.outputs, study.targets))[:, where]
    try:
        interval = evaluation.klom_interval(study.oracles[:, where], margins)
    except ValueError as error:
        return None, None, str(error)
    return interval.low, interval.high, ""


def _kept(study: Study, split: str, values: np.ndarray) -> np.ndarray:
    """Columns of a split; of the test examples only the classes that are retained."""
    where = study.positions[split]
    if split == "test":
        kept = np.unique(study.targets[study.positions["retain"]])
        where = where[np.isin(study.targets[where], kept)]
    return values[:, where]


def _membership(study: Study, row: Row) -> Metric:
    """Accuracy of the loss attack, forget against test, on some of the models."""
    forget, test = study.positions["forget"], study.positions["test"]
    found = []
    for seed, outputs in enumerate(row.outputs[:ATTACKED]):
        losses = np.asarray(evaluation.losses(outputs, study.targets))
        try:
            found.append(evaluation.loss_mia(losses[forget], losses[test], seed=seed).accuracy)
        except ValueError as error:
            return missing(str(error), unit="fraction")
    interval = evaluation.t_interval(found)
    return Metric(
        interval.estimate, n=len(found), low=interval.low, high=interval.high, unit="fraction"
    )


def _cost(row: Row) -> Cost:
    passes = None if row.passes is None else round(row.passes)
    return Cost(
        passes,
        passes,
        wall_s=row.wall_s,
        precompute_s=row.precompute_s,
        device=jax.devices()[0].device_kind,
    )
