"""Records put together by what they share: forget set, method, hyper-parameters, seed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from mu_jax.reporting.records import Cost, ForgetSet, Metric, Record


class Setting(NamedTuple):
    """The records of one method with one setting of its hyper-parameters.

    label: the method, with the hyper-parameters that tell its settings apart. runs: one record a
    seed; records of one seed without a common metric are one, as of single models and of ensembles.
    failed: records of runs that failed. replaced: other earlier records of the same seeds.
    """

    method: str
    label: str
    runs: tuple[Record, ...] = ()
    failed: tuple[Record, ...] = ()
    replaced: int = 0

    @property
    def collapsed(self) -> tuple[Record, ...]:
        """The runs that collapsed."""
        return tuple(run for run in self.runs if run.status == "collapsed")

    def doubtful(self, names: Iterable[str]) -> list[str]:
        """Those of the metrics of which a run has a value better than a perfect unlearner's."""
        return [
            name
            for name in names
            if any(
                n == name and m.better_than_perfect for r in self.runs for n, m in r.metrics.items()
            )
        ]


def by_forget_set(records: Iterable[Record]) -> dict[ForgetSet, list[Record]]:
    """Returns the records of each forget set, in order of appearance; ValueError for none."""
    groups: dict[ForgetSet, list[Record]] = {}
    for record in records:
        groups.setdefault(record.forget_set, []).append(record)
    if not groups:
        raise ValueError("expected at least one record, found none: run an evaluation first")
    return groups


def by_setting(records: Sequence[Record]) -> list[Setting]:
    """Returns the settings of one forget set's records, in order of appearance."""
    groups: dict[tuple, dict[int, Record]] = {}
    replaced: dict[tuple, int] = {}
    for record in records:
        key = (record.method, canonical(record.hyperparameters), record.selection)
        by_seed = groups.setdefault(key, {})
        earlier = by_seed.get(record.seed)
        if earlier is not None and _complete(earlier, record):
            record = added(earlier, record)
        else:
            replaced[key] = replaced.get(key, 0) + (earlier is not None)
        by_seed[record.seed] = record
    firsts = [next(iter(by_seed.values())) for by_seed in groups.values()]
    settings = []
    for (key, by_seed), first in zip(groups.items(), firsts):
        same_method = [other for other in firsts if other.method == first.method]
        settings.append(
            Setting(
                method=first.method,
                label=_label(first, same_method),
                runs=tuple(r for r in by_seed.values() if r.status != "failed"),
                failed=tuple(r for r in by_seed.values() if r.status == "failed"),
                replaced=replaced[key],
            )
        )
    return settings


def _complete(one: Record, other: Record) -> bool:
    """Whether the records have different metrics of one run; else the later one repeats it."""
    measured = all(each.metrics and each.status != "failed" for each in (one, other))
    return measured and not one.metrics.keys() & other.metrics.keys()


def added(record: Record, more: Record) -> Record:
    """The record with the metrics of another one; collapsed if one of them is."""
    broken = next((one for one in (record, more) if one.status != "ok"), record)
    return dataclasses.replace(
        record,
        metrics={**record.metrics, **more.metrics},
        cost=more.cost if record.cost == Cost() else record.cost,
        arrays={**record.arrays, **more.arrays},
        status=broken.status,
        reason=broken.reason,
    )


def canonical(hyperparameters: Mapping) -> str:
    """Hyper-parameters as one text, equal for equal values whatever their order."""
    return json.dumps(dict(hyperparameters), sort_keys=True, default=str)


def _label(record: Record, same_method: Sequence[Record]) -> str:
    """The method, with those hyper-parameters in which the settings of that method differ."""
    names = dict.fromkeys(name for other in same_method for name in other.hyperparameters)
    parts = [
        f"{name}={record.hyperparameters.get(name)}"
        for name in names
        if len({canonical({name: r.hyperparameters.get(name)}) for r in same_method}) > 1
    ]
    if len({other.selection for other in same_method}) > 1:
        parts.append(record.selection or "selection not stated")
    return f"{record.method} ({', '.join(parts)})" if parts else record.method


def metric_kinds(records: Iterable[Record]) -> dict[str, Metric]:
    """Returns one metric of each name, for the direction and unit that all of them share.

    Raises:
        ValueError: a metric with two directions or units.
    """
    kinds: dict[str, Metric] = {}
    for record in records:
        for name, metric in record.metrics.items():
            kind = kinds.setdefault(name, metric)
            if (kind.direction, kind.unit) != (metric.direction, metric.unit):
                raise ValueError(
                    f"expected one direction and unit of {name!r}, found {kind.direction!r} in "
                    f"{kind.unit!r} and {metric.direction!r} in {metric.unit!r}: rename one of them"
                )
    return kinds
