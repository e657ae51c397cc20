"""Results that lack something: one seed, no oracle, NaN, a collapse, many methods, no class."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from plot_cases import (
    FEW,
    SHIFTS,
    ensemble_records,
    make_arrays,
    make_records,
    make_sweep,
)

from mu_jax import plots
from mu_jax.reporting import missing
from mu_jax.scoring.rows import RETRAIN

MANY = tuple(f"method {k:02}" for k in range(40))
EMPTY = 4  # the class without examples
BROKEN = "ssd"


@dataclasses.dataclass(frozen=True)
class Case:
    """arrays and records of a forget set; `settings` of a sweep, `requests` one after another."""

    arrays: object
    records: list
    ensemble: list
    settings: list
    requests: list


def _case(arrays, change=lambda record: record, seeds=3):
    records = [change(r) for r in make_records(arrays, seeds)]
    requests = [
        dataclasses.replace(r, forget_set=dataclasses.replace(r.forget_set, request=k))
        for k in (1, 2)
        for r in records
    ]
    sweep = make_sweep(make_arrays(rows=FEW), methods=(BROKEN,))
    settings = [change(r) for r in sweep if seeds > 1 or r.method != RETRAIN or r.seed == 0]
    return Case(arrays, records, [change(r) for r in ensemble_records(arrays)], settings, requests)


def without_oracle(case):
    keep = lambda found: {name: one for name, one in found.items() if name != RETRAIN}  # noqa: E731
    arrays = case.arrays
    similarity = {
        row: {s: _without_oracle(one) for s, one in sets.items()}
        for row, sets in arrays.similarity.items()
    }
    edits = {row: one._replace(toward_oracle=None) for row, one in arrays.edits.items()}
    arrays = dataclasses.replace(
        arrays,
        examples=keep(arrays.examples),
        relearning=keep(arrays.relearning),
        similarity=similarity,
        edits=edits,
    )
    plain = lambda records: [  # noqa: E731
        dataclasses.replace(
            r, metrics={n: dataclasses.replace(m, oracle=None) for n, m in r.metrics.items()}
        )
        for r in records
        if r.method != RETRAIN
    ]
    lists = (case.records, case.ensemble, case.settings, case.requests)
    return Case(arrays, *map(plain, lists))


def nan(values):
    return np.full_like(np.asarray(values, float), np.nan)


def _without_oracle(one):
    return one._replace(to_oracle=nan(one.to_oracle), low=nan(one.low), high=nan(one.high))


def nan_arrays(arrays):
    """One row whose numbers are all NaN."""
    parts = {
        name: part._replace(losses=nan(part.losses), margins=nan(part.margins))
        for name, part in arrays.examples[BROKEN].items()
    }
    similarity = {
        name: one._replace(to_original=nan(one.to_original), to_oracle=nan(one.to_oracle))
        for name, one in arrays.similarity[BROKEN].items()
    }
    edits = arrays.edits[BROKEN]
    edits = edits._replace(
        **{name: nan(getattr(edits, name)) for name in ("changed", "moved", "toward_oracle")}
    )
    curve = arrays.relearning[BROKEN]
    counts = arrays.ratios[BROKEN]._replace(counts=nan(arrays.ratios[BROKEN].counts))
    return dataclasses.replace(
        arrays,
        examples={**arrays.examples, BROKEN: parts},
        similarity={**arrays.similarity, BROKEN: similarity},
        edits={**arrays.edits, BROKEN: edits},
        ratios={BROKEN: counts},
        relearning={**arrays.relearning, BROKEN: curve._replace(values=nan(curve.values))},
    )


def nan_record(record):
    if record.method != BROKEN:
        return record
    absent = {n: missing("the value was nan", unit=m.unit) for n, m in record.metrics.items()}
    return dataclasses.replace(record, metrics=absent)


def collapsed_arrays(arrays):
    """One row that says class 0 whatever it sees."""
    parts = {
        name: part._replace(
            predictions=np.zeros_like(part.predictions),
            margins=np.where(part.targets == 0, 9.0, -9.0) + 0 * part.margins,
        )
        for name, part in arrays.examples[BROKEN].items()
    }
    return dataclasses.replace(arrays, examples={**arrays.examples, BROKEN: parts})


def collapsed_record(record):
    if record.method != BROKEN:
        return record
    return dataclasses.replace(record, status="collapsed", reason="constant predictions: class 0")


def empty_class(arrays):
    """No test and no retain example has the last class; the forget set has it alone."""

    def kept(name, part):
        here = part.targets != EMPTY
        if name == "forget" or here.all():
            return part
        pick = lambda values: None if values is None else np.asarray(values)[:, here]  # noqa: E731
        return part._replace(
            ids=part.ids[here],
            targets=part.targets[here],
            losses=pick(part.losses),
            margins=pick(part.margins),
            predictions=pick(part.predictions),
        )

    examples = {
        row: {
            name: kept(name, part._replace(targets=np.full_like(part.targets, EMPTY)))
            if name == "forget"
            else kept(name, part)
            for name, part in sets.items()
        }
        for row, sets in arrays.examples.items()
    }
    return dataclasses.replace(arrays, examples=examples)


@functools.cache
def case(name):
    if name == "one seed":
        return _case(make_arrays(models=1, rows=FEW), seeds=1)
    if name == "40 methods":
        shifts = {**SHIFTS, **dict.fromkeys(MANY, (1.0, 0.0, 0.0))}
        rows = (*FEW, *MANY)
        return _case(make_arrays(rows=rows, shifts=shifts))
    arrays = make_arrays(rows=FEW)
    if name == "no oracle":
        return without_oracle(_case(arrays))
    if name == "NaN":
        return _case(nan_arrays(arrays), nan_record)
    if name == "collapsed":
        return _case(collapsed_arrays(arrays), collapsed_record)
    assert name == "empty class"
    return _case(empty_class(arrays))


CASES = ("one seed", "no oracle", "NaN", "collapsed", "40 methods", "empty class")
DRAWN = {
    "tradeoff": lambda c: plots.tradeoff(c.records),
    "klom": lambda c: plots.klom(c.ensemble, c.arrays),
    "membership": lambda c: plots.membership(c.arrays),
    "losses": lambda c: plots.losses(c.arrays),
    "classes": lambda c: plots.classes(c.arrays),
    "confusion": lambda c: plots.confusion(c.arrays, BROKEN),
    "similarity": lambda c: plots.similarity(c.arrays, BROKEN),
    "edits": lambda c: plots.edits(c.arrays, BROKEN),
    "ratios": lambda c: plots.ratios(c.arrays, BROKEN),
    "relearning": lambda c: plots.relearning(c.arrays),
    "run_time": lambda c: plots.run_time(c.records),
    "landscape": lambda c: plots.landscape(c.settings),
    "drift": lambda c: plots.drift(c.requests),
    "examples": lambda c: plots.examples(c.arrays, "do nothing", BROKEN),
}
