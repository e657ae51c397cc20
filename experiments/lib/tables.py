"""The records of a study's rows, and the order of the methods in words."""

from __future__ import annotations

import functools

import jax
import numpy as np

from experiments.lib.rows import Row, Study
from mu_jax import evaluation
from mu_jax.reporting import Cost, ForgetSet, Metric, Record, missing
from mu_jax.scoring.ensembles import collapse, measure, measure_accuracies, p95
from mu_jax.scoring.rows import record


def records(study: Study, forget_set: ForgetSet) -> list[Record]:
    """One record for each row, all of them over N models."""
    found = []
    for row in study.rows:
        retrained, klom = row.name == "retrain", study.klom[row.name]
        metrics = measure(study.yardstick, row.outputs, klom, retrained=retrained)
        found.append(_record(study, row, forget_set, metrics, _cost(row)))
    return found


def quick_records(study: Study, forget_set: ForgetSet) -> list[Record]:
    """As `records`, of accuracies and cost alone."""
    found = []
    for row in study.rows:
        metrics = measure_accuracies(study.yardstick, row.outputs, retrained=row.name == "retrain")
        found.append(_record(study, row, forget_set, metrics, _cost(row)))
    return found


def klom_records(study: Study, forget_set: ForgetSet) -> list[Record]:
    """One record for each row with the numbers of `ordering` alone, beside their floor."""
    found = []
    for row in study.rows:
        metrics = {
            f"KLoM {split} p95": _klom(study, row, split) for split in study.yardstick.positions
        }
        found.append(_record(study, row, forget_set, metrics, Cost()))
    return found


def _klom(study: Study, row: Row, split: str) -> Metric:
    """The 95th percentile over a split, without its interval, which is of the benchmark."""
    where, floor = study.yardstick.positions[split], study.klom["retrain"]
    if study.klom[row.name] is None:
        reason = "outputs of some models are not finite"
        return missing(reason, direction="lower is better", unit="nats")
    return Metric(
        p95(study.klom[row.name][where]),
        n=len(row.outputs),
        null=None if floor is None else p95(floor[where]),
        no_interval="not computed; experiments.benchmark does",
        direction="lower is better",
        unit="nats",
    )


def _record(
    study: Study, row: Row, forget_set: ForgetSet, metrics: dict[str, Metric], cost: Cost
) -> Record:
    reason = collapse(study.yardstick, row.outputs)
    return record(
        row.name,
        forget_set,
        0,
        (metrics, evaluation.Collapse(bool(reason), reason)),
        hyperparameters=row.hyperparameters,
        selection=study.task.config.selection if row.hyperparameters else "",
        cost=cost,
    )


def ordering(study: Study, request: str) -> str:
    """The methods by KLoM on the forget set, and whether each step is more than chance.

    Methods below the floor, which are so by chance or because single models spoil KLoM, are not
    ranked and come after the others; those of which a model has outputs that are not finite have no
    KLoM and come last.
    """
    forget = study.yardstick.positions["forget"]
    values = {name: klom[forget] for name, klom in study.klom.items() if klom is not None}
    floor = p95(values["retrain"]) if "retrain" in values else -np.inf
    below = [name for name in values if p95(values[name]) < floor]
    names = sorted((n for n in values if n not in below), key=lambda name: p95(values[name]))
    targets = study.yardstick.targets[forget]
    margins = {
        row.name: np.asarray(evaluation.margins(row.outputs[:, forget], targets))
        for row in study.rows
        if row.name in values
    }
    difference = functools.partial(_difference, study.yardstick.oracles[:, forget])
    lines = [
        f"{request}: 95th percentile of KLoM on the forget set, {len(study.rows[0].outputs)} "
        f"models against {len(study.yardstick.oracles)} oracles",
        f"  {'':24s} {'p95':>5s}   {'above the row before':>24s}   {'below do nothing':>24s}",
    ]
    for before, name in zip([None, *names[:-1]], names):
        step = difference(margins[name], margins[before]) if before else ""
        gain = "" if name == "do nothing" else difference(margins["do nothing"], margins[name])
        label = f"{name} (the floor)" if name == "retrain" else name
        lines.append(f"  {label:24s} {p95(values[name]):5.2f}   {step:>24s}   {gain:>24s}".rstrip())
    lines += [
        f"  {name:24s} {p95(values[name]):5.2f}   below the floor: not ranked" for name in below
    ]
    lines += [
        f"  {name:24s}     -   outputs of some models are not finite"
        for name in study.klom
        if name not in values
    ]
    lines += [
        "  In brackets 95 % intervals of the difference, over models and examples; without",
        "  0 in it, the difference is more than chance; [-] where no interval would cover.",
    ]
    return "\n".join(lines)


def _difference(oracles: np.ndarray, first: np.ndarray, second: np.ndarray) -> str:
    """KLoM of the first margins minus that of the second; [-] where models or examples are few."""
    try:
        found = evaluation.klom_difference(oracles, first, second, seed=0)
    except ValueError:
        values = (p95(np.asarray(evaluation.klom(oracles, one))) for one in (first, second))
        return f"{np.subtract(*values):.2f} [-]"
    return f"{found.estimate:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _cost(row: Row) -> Cost:
    passes = None if row.passes is None else round(row.passes)
    return Cost(
        passes,
        passes,
        wall_s=row.wall_s,
        compile_s=row.compile_s,
        precompute_s=row.precompute_s,
        device=jax.devices()[0].device_kind,
    )
