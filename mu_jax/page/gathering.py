"""The runs of a page by forget set: which records and arrays are shown together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mu_jax.reporting import Arrays, ForgetSet, Record, Run
from mu_jax.reporting.grouping import added, canonical

_BY_ROW = ("examples", "similarity", "edits", "ratios", "relearning")


class Part(NamedTuple):
    """What the page shows of one forget set, or of a sequence of requests after the last one.

    records: as they were read. rows: the records behind tables and figures, see `joined`. beside:
    metrics of another run of the same methods. notes: sentences on what was put together. sequence:
    the records of all requests of a sequence.
    """

    forget_set: ForgetSet
    records: tuple[Record, ...]
    arrays: Arrays | None
    notes: tuple[str, ...] = ()
    rows: tuple[Record, ...] = ()
    beside: tuple[str, ...] = ()
    sequence: tuple[Record, ...] = ()


def gather(runs: Sequence[Run]) -> list[Part]:
    """The records and arrays of each forget set, over all runs, in order of appearance.

    The requests of a sequence are one part: the records of its last request, and those of all.
    Of two runs with arrays of one row the later one counts, as of two records of one seed.

    Raises:
        ValueError: no records.
    """
    groups: dict[ForgetSet, list[tuple[Record, ...]]] = {}
    found: dict[ForgetSet, list[Arrays]] = {}
    for run in runs:
        sets = dict.fromkeys(record.forget_set for record in run.records)
        for one in sets:
            groups.setdefault(one, []).append(tuple(r for r in run.records if r.forget_set == one))
            if one.kind in run.arrays:
                found.setdefault(one, []).append(run.arrays[one.kind])
    if not groups:
        raise ValueError("expected runs with records, found none: run an evaluation first")
    parts = []
    for one, records in groups.items():
        arrays, notes = _merged(found.get(one, ()))
        if len(records) > 1:
            notes = (f"{len(records)} runs have records of this forget set.", *notes)
        rows, beside = joined(records)
        if beside:
            notes = (*notes, f"Of another run of the same methods: {listed(beside)}.")
        parts.append(
            Part(one, tuple(r for each in records for r in each), arrays, notes, rows, beside)
        )
    return _of_sequences(parts)


def _of_sequences(parts: Sequence[Part]) -> list[Part]:
    """The parts, those of the requests of one sequence as one."""
    found: dict[tuple[str, ForgetSet | None], list[Part]] = {}
    for part in parts:
        one = part.forget_set
        found.setdefault((one.kind, None if one.request else one), []).append(part)
    return [
        _last(several) if several[0].forget_set.request else several[0]
        for several in found.values()
    ]


def _last(several: Sequence[Part]) -> Part:
    """The part of a sequence: what there is after its last request."""
    last = max(several, key=lambda part: part.forget_set.request)
    note = (
        f"{len(several)} requests one after another, each unlearned from what the one before has "
        f"left. The table and the figures of examples are of all that was forgotten after request "
        f"{last.forget_set.request}."
    )
    records = tuple(record for part in several for record in part.records)
    return last._replace(notes=(note, *last.notes), sequence=records)


def joined(runs: Sequence[Sequence[Record]]) -> tuple[tuple[Record, ...], tuple[str, ...]]:
    """The records of several runs, in which a run that measured other things adds to the rows.

    A later record whose method and hyper-parameters an earlier run has, and none of whose metrics
    the earlier one knows, gives its metrics to the first record of that setting: the accuracies of
    three seeds and the KLoM of an ensemble stand in one row. All other records stay as they are.

    Returns:
        The records, and the names of the metrics that were added.
    """
    found, beside = list(runs[0]), dict[str, None]()
    for later in runs[1:]:
        before = list(found)
        for record in later:
            places = [k for k, one in enumerate(before) if _same_setting(one, record)]
            known = {name for k in places for name in before[k].metrics}
            if not places or not known or known & record.metrics.keys():
                found.append(record)
                continue
            beside |= dict.fromkeys(record.metrics)
            found[places[0]] = added(found[places[0]], record)
            for k in places:
                selection = found[k].selection or record.selection
                found[k] = dataclasses.replace(found[k], selection=selection)
    return tuple(found), tuple(beside)


def _same_setting(one: Record, other: Record) -> bool:
    selections = {one.selection, other.selection} - {""}
    return (
        one.method == other.method
        and canonical(one.hyperparameters) == canonical(other.hyperparameters)
        and len(selections) < 2
    )


def _merged(several: Sequence[Arrays]) -> tuple[Arrays | None, tuple[str, ...]]:
    """One set of arrays with the rows of all, and a sentence on rows that were replaced."""
    if not several:
        return None, ()
    first, *others = several
    replaced: dict[str, None] = {}
    for arrays in others:
        replaced |= dict.fromkeys(first.examples.keys() & arrays.examples.keys())
        rows = {name: {**getattr(first, name), **getattr(arrays, name)} for name in _BY_ROW}
        first = dataclasses.replace(first, **rows, shown=arrays.shown or first.shown)
    if not replaced:
        return first, ()
    names = ", ".join(sorted(replaced))
    return first, (f"Several runs have arrays of {names}: figures show those of the last run.",)


def model_count(arrays: Arrays | None) -> str:
    """How many models of each row there are arrays of, in words."""
    if arrays is None or not arrays.examples:
        return ""
    sizes: dict[int, list[str]] = {}
    for name, sets in arrays.examples.items():
        number = max((len(part.losses) for part in sets.values()), default=0)
        sizes.setdefault(number, []).append(name)
    if len(sizes) == 1:
        return f"{next(iter(sizes))} of each of {len(arrays.examples)} rows"
    return "; ".join(f"{number} of {listed(names)}" for number, names in sizes.items())


def listed(names: Iterable[str], most: int = 6) -> str:
    """Names as a text, no more than `most` of them.

    Example:
        >>> listed(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
