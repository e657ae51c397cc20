"""Choosing among the settings of a search: by the average gap to retrained models."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mu_jax.reporting import Record, at_floor, gap_to_oracles

REFERENCE = "retrain"
UNTUNED = (REFERENCE, "do nothing")


class Setting(NamedTuple):
    """One setting of a method and its average gap in points on every forget set, by kind.

    floors: the gap between retrained models and other retrained ones, by kind, where it is known.
    """

    method: str
    hyperparameters: Mapping[str, Any]
    gaps: Mapping[str, float]
    floors: Mapping[str, float] = {}

    @property
    def gap(self) -> float:
        """Mean over the forget sets."""
        return statistics.fmean(self.gaps.values())

    @property
    def floor(self) -> float | None:
        """Mean of the floors over the forget sets; None where one is not known."""
        known = [self.floors[kind] for kind in self.gaps if kind in self.floors]
        return statistics.fmean(known) if len(known) == len(self.gaps) else None

    def rank(self, kind: str | None = None) -> float:
        """What the setting is ranked by, on one forget set or on all: its gap, or the floor."""
        if kind is None:
            return at_floor(self.gap, self.floor)
        return at_floor(self.gaps[kind], self.floors.get(kind))


def rank(records: Iterable[Record]) -> dict[str, list[Setting]]:
    """The settings of every method, the one with the smallest mean gap first.

    Settings below the floor are equal (`reporting.at_floor`, as in the tables) and stand in the
    order in which they were tried; the floor is the gap of the records of retrained models, which
    name other retrained models as their oracles. A setting that has collapsed, failed or lacks a
    metric on any forget set or with any seed, or that was not tried on all of them, is left out: a
    method may have none. KLoM does not count here, nor its floor: of nine values of a perfect
    unlearner some lie below it by chance. The table of the chosen settings names them.

    Example:
      >>> from mu_jax.reporting import ForgetSet, Metric, Oracle
      >>> def tried(value, method="ssd", **fields):
      ...     metric = Metric(value, unit="fraction", oracle=Oracle(0.9))
      ...     fields = {"hyperparameters": {"alpha": value}, **fields}
      ...     return Record(method, ForgetSet("class 3", 9), 0, {"test accuracy": metric}, **fields)
      >>> broken = tried(0.9, status="collapsed", reason="constant predictions")
      >>> [round(setting.gap, 3) for setting in rank([tried(0.8), tried(0.85), broken])["ssd"]]
      [5.0, 10.0]
      >>> floor = tried(0.84, method="retrain")
      >>> [round(s.gap, 3) for s in rank([tried(0.8), tried(0.85), tried(0.86), floor])["ssd"]]
      [5.0, 4.0, 10.0]
    """
    tried: dict[str, dict[str, list[Record]]] = {}
    records = list(records)
    for record in records:
        if record.method not in UNTUNED:
            point = json.dumps(dict(record.hyperparameters), sort_keys=True)
            tried.setdefault(record.method, {}).setdefault(point, []).append(record)
    floors = _floors(records)
    return {
        method: sorted(_whole(by_point.values(), floors), key=Setting.rank)
        for method, by_point in tried.items()
    }


def _floors(records: Iterable[Record]) -> dict[str, float]:
    """The mean floor of every forget set; none where retrained models stand beside themselves."""
    found: dict[str, list[float]] = {}
    for record in records:
        if record.method == REFERENCE and (gap := gap_to_oracles(record)):
            found.setdefault(record.forget_set.kind, []).append(gap)
    return {kind: statistics.fmean(gaps) for kind, gaps in found.items()}


def _whole(tried: Iterable[list[Record]], floors: Mapping[str, float]) -> list[Setting]:
    tried = list(tried)
    runs = max(len({(r.forget_set, r.seed) for r in records}) for records in tried)
    found = []
    for records in tried:
        by_kind: dict[str, list[float | None]] = {}
        for record in records:
            by_kind.setdefault(record.forget_set.kind, []).append(gap_to_oracles(record))
        gaps = [value for values in by_kind.values() for value in values]
        if len(gaps) == runs and None not in gaps:
            means = {kind: statistics.fmean(values) for kind, values in by_kind.items()}
            found.append(Setting(records[0].method, records[0].hyperparameters, means, floors))
    return found


def describe(ranked: Mapping[str, list[Setting]]) -> str:
    """The best setting of every method on each forget set, and the one that is chosen."""
    lines = ["Best settings by average gap to retrained models, in points (lower is better)"]
    everything = [setting for settings in ranked.values() for setting in settings]
    if any(setting.floor is None for setting in everything):
        lines[0] += "; the gap between retrained models is not known everywhere"
    if everything and everything[0].floors:
        floors = (f"{kind} {floor:.2f}" for kind, floor in everything[0].floors.items())
        lines.append(f"  floor, the gap between retrained models: {', '.join(floors)}")
    for method, settings in ranked.items():
        if not settings:
            lines.append(f"  {method}: none, every setting collapsed or lacks a value")
            continue
        for kind in settings[0].gaps:
            lines.append(f"  {method} on {kind}: {_best(settings, kind)}")
        lines.append(f"  {method}, chosen: {_best(settings)}")
    return "\n".join(lines)


def _best(settings: Sequence[Setting], kind: str | None = None) -> str:
    """The first of the best settings, and how many are equal to it, being below the floor."""
    best = min(settings, key=lambda setting: setting.rank(kind))
    value = best.gap if kind is None else best.gaps[kind]
    text = f"{value:.2f} with {_words(best, list(settings))}"
    equal = sum(setting.rank(kind) == best.rank(kind) for setting in settings)
    floor = best.floor if kind is None else best.floors.get(kind)
    if floor is None or value > floor:
        return text
    if equal == 1:
        return f"{text}, below the floor"
    return f"{text}, the first tried of {equal} below the floor, which are equal"


def _words(setting: Setting, others: list[Setting]) -> str:
    """The hyper-parameters in which the settings differ, or all of them where there is but one."""
    values = setting.hyperparameters
    differing = [n for n in values if any(o.hyperparameters.get(n) != values[n] for o in others)]
    return " ".join(f"{name}={values[name]}" for name in differing or values) or "no arguments"
