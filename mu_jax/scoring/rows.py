"""From the outputs of all rows to records: each model by itself, or N models of a row as one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mu_jax import evaluation
from mu_jax.evaluation import Collapse
from mu_jax.model import Model
from mu_jax.reporting.arrays import Examples
from mu_jax.reporting.records import Cost, ForgetSet, Metric, Oracle, Record
from mu_jax.scoring import ensembles, kinds
from mu_jax.scoring.collecting import ExampleSet
from mu_jax.scoring.examples import examples_of
from mu_jax.scoring.kinds import Kind, Part
from mu_jax.scoring.result import Score
from mu_jax.scoring.single import Own, measure_model

RETRAIN, NOTHING, CONSTANT = "retrain", "do nothing", "constant"
Rows = dict[str, dict[str, Any]]  # outputs [N, n, ...] by row and set


class Asked(NamedTuple):
    """What a call of `score` asks for, beside the outputs."""

    model: Model
    sets: dict[str, ExampleSet]
    kind: Kind
    own: dict[str, Own]
    paired: bool
    seed: int
    forget_set: ForgetSet
    fields: dict[str, Mapping[str, Any]]


def make_score(asked: Asked, rows: Rows) -> Score:
    """The records of all rows, and the arrays behind them."""
    number, why_not = _ensemble_size(asked, rows)
    rows = rows | _constant(asked, rows)
    arrays = {name: _examples(asked, outputs) for name, outputs in rows.items()}
    if number:
        records = tuple(_of_ensembles(asked, rows, number))
    else:
        records = tuple(_with_oracle(asked, list(_of_models(asked, rows, arrays))))
    return Score(records, arrays, tuple(_notes(asked, rows, why_not)))


def record(
    method: str,
    forget_set: ForgetSet,
    seed: int,
    scored: tuple[dict[str, Metric], Collapse],
    **fields: Any,
) -> Record:
    """One line of the results, of metrics and of whether the model has collapsed."""
    metrics, collapse = scored
    if collapse.flag:
        fields |= {"status": "collapsed", "reason": collapse.reason}
    return Record(method, forget_set, seed, metrics=metrics, **fields)


def _size(outputs: Mapping[str, Any]) -> int:
    return jax.tree.leaves(outputs)[0].shape[0]


def _parts(asked: Asked, outputs: Mapping[str, Any], j: int) -> dict[str, Part]:
    """Outputs and targets of model j on every set; of numbers, one prediction a target."""
    numbers = asked.kind == "regression"
    parts = {}
    for name, found in outputs.items():
        one, targets = jax.tree.map(lambda x: x[j], found), asked.sets[name].targets
        parts[name] = Part(kinds.point(one, targets) if numbers else one, targets)
    return parts


def _constant(asked: Asked, rows: Rows) -> Rows:
    """The outputs of the constant predictor, one model."""
    if asked.kind == "other":
        return {}
    outputs = next(iter(rows.values()))["retain"]
    classes = outputs.shape[-1] if asked.kind == "classification" else None
    answer = kinds.constant_answer(asked.kind, asked.sets["retain"].targets, classes=classes)
    found = {name: kinds.repeated(answer, part.ids.size)[None] for name, part in asked.sets.items()}
    return {CONSTANT: found}


def _examples(asked: Asked, outputs: Mapping[str, Any]) -> dict[str, Examples]:
    """What every model says of every example, by set."""
    return {
        name: examples_of(asked.kind, outputs[name], part.targets, part.ids, loss=asked.model.loss)
        for name, part in asked.sets.items()
    }


def _of_models(asked: Asked, rows: Rows, arrays: Mapping[str, Any]) -> Iterator[Record]:
    """A record for each model, in the order of the rows."""
    most = max(_size(outputs) for name, outputs in rows.items() if name != RETRAIN)
    _check_pairs(asked, rows)
    for name, outputs in rows.items():
        first = asked.seed + (most if name == RETRAIN and not asked.paired else 0)
        for j in range(_size(outputs)):
            losses = {part: arrays[name][part].losses[j] for part in asked.sets}
            parts = _parts(asked, outputs, j)
            scored = measure_model(asked.kind, parts, first + j, losses=losses, own=asked.own)
            yield record(name, asked.forget_set, first + j, scored, **_fields(asked, name, j))


def _check_pairs(asked: Asked, rows: Rows) -> None:
    sizes = {name: _size(outputs) for name, outputs in rows.items() if name != CONSTANT}
    if asked.paired and (RETRAIN not in sizes or len(set(sizes.values())) > 1):
        found = ", ".join(f"{size} of {name!r}" for name, size in sizes.items())
        raise ValueError(
            f"expected as many models in every row as retrained ones, found {found}: pair them, or "
            "leave out paired=True"
        )


def _fields(asked: Asked, name: str, j: int) -> dict[str, Any]:
    costs: Sequence[Cost] = asked.fields["cost"].get(name, ())
    found = {"cost": costs[j]} if j < len(costs) else {}
    for field in ("hyperparameters", "selection"):
        if name in asked.fields[field]:
            found[field] = asked.fields[field][name]
    return found


def _with_oracle(asked: Asked, records: list[Record]) -> Iterator[Record]:
    """The records with the retrained models' mean and range beside every number."""
    retrained = [one for one in records if one.method == RETRAIN]
    for one in records:
        others = [r for r in retrained if not asked.paired or r.seed == one.seed]
        metrics = {
            name: beside(metric, [r.metrics[name].value for r in others])
            for name, metric in one.metrics.items()
        }
        yield dataclasses.replace(one, metrics=metrics)


def beside(metric: Metric, retrained: Iterable[float | None]) -> Metric:
    """The metric with the mean and range of the retrained models' values that there are."""
    values = [value for value in retrained if value is not None]
    if not values:
        return metric
    oracle = Oracle(float(np.mean(values)), min(values), max(values))
    return dataclasses.replace(metric, oracle=oracle)


def _ensemble_size(asked: Asked, rows: Rows) -> tuple[int, str]:
    """How many models of each row a record is over, or 0 and the sentence why there is no KLoM."""
    sizes = {name: _size(outputs) for name, outputs in rows.items()}
    if asked.kind != "classification" or RETRAIN not in sizes or asked.paired:
        return 0, ""
    if len(sizes) == 1:
        return 0, ""
    retrained = sizes.pop(RETRAIN)
    least = min(sizes, key=lambda name: sizes[name])
    number = min(sizes[least], retrained // 2)
    if number >= ensembles.FEWEST:
        return number, ""
    return 0, (
        f"No KLoM: it needs {ensembles.FEWEST} models of every row and twice as many retrained "
        f"ones, found {sizes[least]} of {least} and {retrained} retrained."
    )


def _of_ensembles(asked: Asked, rows: Rows, number: int) -> Iterator[Record]:
    """A record for each row, over N models of it."""
    targets = np.concatenate([part.targets for part in asked.sets.values()])
    ends = np.cumsum([part.ids.size for part in asked.sets.values()])
    positions = dict(zip(asked.sets, np.split(np.arange(ends[-1]), ends[:-1])))
    whole = {
        name: np.concatenate([outputs[part] for part in asked.sets], axis=1)
        for name, outputs in rows.items()
    }
    others, whole[RETRAIN] = whole[RETRAIN][:-number], whole[RETRAIN][-number:]
    oracles = np.asarray(evaluation.margins(others, targets))
    whole[CONSTANT] = np.broadcast_to(whole[CONSTANT], (number, *whole[CONSTANT].shape[1:]))
    yardstick = ensembles.Yardstick(targets, positions, oracles, whole[RETRAIN], others)
    for name, outputs in whole.items():
        chosen = outputs[:number]
        metrics = ensembles.measure(yardstick, chosen, retrained=name == RETRAIN)
        for split, where in positions.items():
            metrics |= ensembles.measure_own(asked.own, chosen[:, where], targets[where], split)
        reason = ensembles.collapse(yardstick, chosen)
        scored = metrics, Collapse(bool(reason), reason)
        yield record(name, asked.forget_set, asked.seed, scored, **_fields(asked, name, 0))


def _notes(asked: Asked, rows: Rows, why_not: str) -> Iterator[str]:
    """What this table cannot say."""
    if RETRAIN not in rows:
        yield (
            "Without retrained models nobody can say whether these numbers are good: there is no "
            "average gap, no floor and no KLoM; pass retrained=[...], three models or more that "
            "were trained on the retain set alone."
        )
    if NOTHING not in rows:
        yield "Without original= the table does not show what doing nothing scores."
    if "test" not in asked.sets:
        yield "Without test examples there is no test accuracy and no membership attack."
    if asked.kind == "other":
        yield (
            "No constant row and no accuracies: the targets are neither classes nor labels of yes "
            "and no nor numbers; the loss is the model's."
        )
    if why_not:
        yield why_not
