"""The sentences under a table: what collapsed, what is missing, how the numbers are to be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from mu_jax.reporting.grouping import Setting
from mu_jax.reporting.records import Record


def compose(
    settings: Sequence[Setting],
    metrics: Iterable[str],
    costs: Iterable[str],
    *,
    gap_names: Sequence[str],
    reference: str,
    has_best: bool,
    floor: float | None,
    equal: Sequence[str],
) -> tuple[str, ...]:
    """Returns the sentences for a table with these settings (rows), metrics and costs (columns).

    floor: average gap of the reference. equal: labels of the rows that are not above it.
    """
    notes = [_broken(setting, "collapsed", setting.collapsed) for setting in settings]
    notes += [_broken(setting, "failed", setting.failed) for setting in settings]
    notes += [
        f"{s.label}: no record, so the row is empty." for s in settings if not s.runs + s.failed
    ]
    metrics = list(metrics)
    notes += _doubtful(settings, metrics)
    notes += [_missing(settings, name, _why_no_metric) for name in metrics]
    notes += _said(settings, metrics)
    notes += [_missing(settings, name, _why_no_cost) for name in costs]
    notes += _gap(settings, gap_names, reference, floor)
    notes += _order(reference, floor, equal, has_best=has_best)
    notes += _null_levels(settings, metrics)
    notes += _replaced(settings)
    notes += _selection(settings)
    notes.append(_cells(settings))
    return tuple(note for note in notes if note)


def _cells(settings: Sequence[Setting]) -> str:
    metrics = [m for s in settings for run in s.runs for m in run.metrics.values()]
    note = "Cells: mean ± sample standard deviation over seeds; one seed has no deviation"
    if any(metric.low is not None for metric in metrics):
        note += "; in brackets a 95 % interval"
    if any(metric.no_interval for metric in metrics):
        note += "; [-] where an interval would not cover"
    return note + "."


def _joined(parts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(parts))


def _broken(setting: Setting, what: str, records: Sequence[Record]) -> str:
    """One sentence about the runs of a setting that collapsed or failed; empty for none."""
    if not records:
        return ""
    total = len(setting.runs) + len(setting.failed)
    reasons = "; ".join(dict.fromkeys(record.reason for record in records))
    ranking = ", not ranked" if what == "collapsed" else ""
    return f"{setting.label} {what} ({len(records)} of {total} seeds{ranking}): {reasons}."


def _doubtful(settings: Sequence[Setting], metrics: Iterable[str]) -> list[str]:
    """A sentence on each row with a value beyond that of a perfect unlearner."""
    return [
        f"{s.label} is better than a perfect unlearner in {', '.join(names)}, by chance or because "
        "single models spoil the metric: not ranked."
        for s in settings
        if (names := s.doubtful(metrics))
    ]


def _said(settings: Sequence[Setting], metrics: Iterable[str]) -> list[str]:
    """What the records say of their values, and why there is no interval."""
    notes = []
    for name in metrics:
        for before, field in ((name, "note"), (f"{name} has no interval [-]", "no_interval")):
            rows: dict[str, list[str]] = {}
            for s in settings:
                for run in s.runs:
                    if name in run.metrics and (text := getattr(run.metrics[name], field)):
                        rows.setdefault(text, []).append(s.label)
            if rows:
                said = "; ".join(f"{text} ({_joined(labels)})" for text, labels in rows.items())
                notes.append(f"{before}: {said}.")
    return notes


def _why_no_metric(run: Record, name: str) -> str:
    if name not in run.metrics:
        return "not recorded"
    return run.metrics[name].reason if run.metrics[name].value is None else ""


def _why_no_cost(run: Record, name: str) -> str:
    return "not measured" if getattr(run.cost, name) is None else ""


def _missing(settings: Sequence[Setting], name: str, why: Callable[[Record, str], str]) -> str:
    """One sentence with the reasons why runs lack a value, and the rows; empty if none does."""
    rows: dict[str, list[str]] = {}
    for setting in settings:
        for run in setting.runs:
            if reason := why(run, name):
                rows.setdefault(reason, []).append(setting.label)
    if not rows:
        return ""
    reasons = "; ".join(f"{reason} ({_joined(labels)})" for reason, labels in rows.items())
    return f"{name} is missing (-): {reasons}."


def _gap(
    settings: Sequence[Setting], names: Sequence[str], reference: str, floor: float | None
) -> list[str]:
    runs = [run for s in settings for run in s.runs]
    retrained = [run for run in runs if run.method == reference and run.status == "ok"]
    if not retrained:
        return [f"No average gap: it is measured against {reference}."]
    if not names:
        return [f"No average gap: no fraction is to be compared with {reference}."]
    notes = [
        f"Average gap: mean |value - {reference}| over {', '.join(names)}, in percentage points, "
        f"with the same seed where {reference} has it."
    ]
    if len(retrained) > 1:
        notes.append(f"The gap of {reference} is between its own seeds: the level of noise.")
    elif floor is None:
        notes.append(f"{reference} has one seed, so the level of noise of the gap is not known.")
    else:
        notes.append(f"The gap of {reference} is to other retrained models: the level of noise.")
    if any(_why_no_metric(run, name) for run in runs for name in names):
        notes.append("A run that lacks one of these has no average gap, and its row is not ranked.")
    return notes


def _order(
    reference: str, floor: float | None, equal: Sequence[str], *, has_best: bool
) -> list[str]:
    """How the star is to be read: rows below the floor are not ranked among themselves."""
    if not has_best:
        return []
    if len(equal) < 2:
        below = f", below the gap of {reference} ({floor:.2f})" if equal else ""
        return [f"* smallest average gap among the ranked methods{below}."]
    return [
        f"* average gap not above that of {reference} ({floor:.2f}), the floor: {_joined(equal)} "
        "are equal and not ranked among themselves."
    ]


def _null_levels(settings: Sequence[Setting], metrics: Iterable[str]) -> list[str]:
    """What a perfect unlearner scores, and N, where that is not the best value."""
    notes = []
    for name in metrics:
        found = [run.metrics[name] for s in settings for run in s.runs if name in run.metrics]
        levels = _joined(
            f"{metric.null:.3g}" + (f" (N = {metric.n})" if metric.n is not None else "")
            for metric in found
            if metric.null is not None
        )
        if levels:
            notes.append(f"{name}: a perfect unlearner scores {levels}.")
    return notes


def _replaced(settings: Sequence[Setting]) -> list[str]:
    return [
        f"{s.label}: {s.replaced} earlier record(s) of the same seeds do not count."
        for s in settings
        if s.replaced
    ]


def _selection(settings: Sequence[Setting]) -> list[str]:
    rows: dict[str, list[str]] = {}
    for setting in settings:
        for run in setting.runs:
            if run.selection:
                rows.setdefault(run.selection, []).append(setting.label)
    if not rows:
        return []
    parts = "; ".join(f"{how} ({_joined(labels)})" for how, labels in rows.items())
    return [f"Hyper-parameters: {parts}."]
