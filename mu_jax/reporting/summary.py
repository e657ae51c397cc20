"""Summaries of records: methods against metrics, with spread, gap to retrain and ranking."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mu_jax.evaluation.gaps import average_gap
from mu_jax.reporting.floors import at_floor, gap_to_oracles
from mu_jax.reporting.grouping import Setting, by_forget_set, by_setting, metric_kinds
from mu_jax.reporting.notes import compose
from mu_jax.reporting.records import COST_NUMBERS, ForgetSet, Metric, Record


class Cell(NamedTuple):
    """Mean and sample standard deviation over n seeds; None where there are too few of them.

    low, high: the 95 % interval that a single run brought with it.
    """

    mean: float | None = None
    std: float | None = None
    n: int = 0
    low: float | None = None
    high: float | None = None


class Column(NamedTuple):
    """name: title. note: unit and direction. decimals: None picks them by the size of a value."""

    name: str
    note: str
    scale: float = 1.0
    decimals: int | None = None


class Row(NamedTuple):
    """One method with one setting of its hyper-parameters; `seeds` counts its runs.

    doubtful: a value lies beyond that of a perfect unlearner, so that the row is not ranked.
    refused: metrics of which its single run has no interval, and says why.
    """

    label: str
    seeds: int
    cells: tuple[Cell, ...]
    collapsed: bool
    best: bool
    doubtful: bool = False
    refused: tuple[str, ...] = ()


class Table(NamedTuple):
    """The results on one forget set: rows in printing order, sentences to print beneath."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


# Titles of costs: name and unit in place of the field's name.
COSTS = {
    "wall_s": Column("run time", "ms, lower is better", 1e3, 1),
    "compile_s": Column("compile time", "s, lower is better"),
    "precompute_s": Column("precomputation", "s, lower is better"),
    "peak_bytes": Column("peak memory", "MiB, lower is better", 2**-20, 1),
}
GAP = Column("average gap", "points, lower is better", decimals=2)
SHARE = Column("of retraining", "% of its run time, lower is better", 1e2, 1)
RANKED = 2  # after the reference and the baseline


def summarize(
    records: Iterable[Record],
    *,
    metrics: Sequence[str] | None = None,
    gap_metrics: Sequence[str] | None = None,
    costs: Sequence[str] = ("wall_s",),
    reference: str = "retrain",
    baseline: str = "do nothing",
) -> list[Table]:
    """Summarizes records, one table per forget set.

    A row is a method with one setting of its hyper-parameters, a cell the mean and the sample
    standard deviation over its seeds. The average gap is `average_gap` to the retrained model of
    the same seed, or averaged over all retrained models where that seed has none; the gap of the
    retrained row is the floor: between its own seeds, or of one seed to the other retrained models
    that its metrics name as oracles. First come the reference and the baseline, then the others by
    average gap, where those below the floor are equal (`at_floor`) and stand in order of
    appearance, then those of which a run lacks one, then those with a value better than that of a
    perfect unlearner (`Metric.better_than_perfect`: KLoM below its floor), last those with a
    collapsed run; these three kinds are never the best. All rows below the floor are the best
    together.

    Args:
        records: what to summarize. Of two records of one setting, seed and forget set the later
            one counts.
        metrics: names of the columns, in order; None takes all, in order of appearance.
        gap_metrics: names averaged in the gap; None takes the columns whose unit is "fraction"
            and whose direction is "closer to retrain". One of another unit counts relative to the
            retrained models.
        costs: fields of `Cost` to show, each where any record has it; with `wall_s` of the
            retrained models, the run time as a share of theirs as well.
        reference: method name of the retrained models.
        baseline: method name of the untouched model.

    Returns:
        Tables in order of appearance of the forget sets.

    Raises:
        ValueError: no records, a metric that no record has, one with two units or directions, a
            gap metric that is not to be close to retraining, an unknown cost, or several settings
            of the reference.

    Example:
        >>> accuracy = lambda value: {"retain accuracy": Metric(value, unit="fraction")}
        >>> forget_set = ForgetSet("class 3", 125)
        >>> table, = summarize([Record("retrain", forget_set, seed=0, metrics=accuracy(0.95)),
        ...                     Record("ssd", forget_set, seed=0, metrics=accuracy(0.91))])
        >>> [(row.label, row.seeds, row.best) for row in table.rows]
        [('retrain', 1, False), ('do nothing', 0, False), ('ssd', 1, True)]
    """
    records = list(records)
    kinds = metric_kinds(records)
    _check_names("metrics", metrics or (), kinds)
    _check_names("gap metrics", gap_metrics or (), kinds)
    _check_close({name: kinds[name] for name in gap_metrics or ()})
    _check_names("costs", costs, COST_NUMBERS)
    tables = []
    for group in by_forget_set(records).values():
        shown = {
            name: kinds[name] for name in (metric_kinds(group) if metrics is None else metrics)
        }
        gap_names = _fractions(shown) if gap_metrics is None else gap_metrics
        tables.append(_table(group, shown, gap_names, costs, special=(reference, baseline)))
    return tables


def _check_names(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    absent = sorted(set(names) - set(known))
    if absent:
        raise ValueError(
            f"expected {what} among {', '.join(known) or 'none'}, found {', '.join(absent)}: name "
            "those that a record has"
        )


def _check_close(gap_kinds: Mapping[str, Metric]) -> None:
    for name, kind in gap_kinds.items():
        if kind.direction != "closer to retrain":
            raise ValueError(
                f"expected gap metrics that are to be close to retraining, found {name!r}, of "
                f"which {kind.direction}: leave it out of gap_metrics"
            )


def _fractions(kinds: Mapping[str, Metric]) -> list[str]:
    return [
        name
        for name, kind in kinds.items()
        if kind.unit == "fraction" and kind.direction == "closer to retrain"
    ]


def _table(
    records: Sequence[Record],
    shown: Mapping[str, Metric],
    gap_names: Sequence[str],
    costs: Sequence[str],
    *,
    special: tuple[str, str],
) -> Table:
    settings = by_setting(records)
    present = {setting.method for setting in settings}
    settings += [Setting(name, name) for name in special if name not in present]
    retrained = _retrained(settings, special[0])
    gap_names = gap_names if retrained else ()
    costs = [name for name in costs if any(getattr(r.cost, name) is not None for r in records)]

    columns = [_metric_column(name, kind) for name, kind in shown.items()]
    columns += [GAP] if gap_names else []
    columns += [COSTS.get(name, Column(name, "lower is better")) for name in costs]
    whole = _mean(run.cost.wall_s for run in retrained) if "wall_s" in costs else None
    columns += [SHARE] if whole else []
    floor = _mean(_gap(run, retrained, gap_names) for run in retrained)
    rows, equal = [], []
    for setting in settings:
        gaps = [_gap(run, retrained, gap_names) for run in setting.runs]
        cells = [_metric_cell(setting, name) for name in shown]
        cells += [_cell(gaps)] if gap_names else []
        cells += [_cell(getattr(run.cost, name) for run in setting.runs) for name in costs]
        cells += [_cell(share_of(run, whole) for run in setting.runs)] if whole else []
        doubtful = bool(setting.doubtful(shown))
        rank = _rank(setting, gaps, special, floor, doubtful=doubtful)
        equal += [setting.label] if rank == (RANKED, floor) else []
        rows.append((rank, setting, tuple(cells)))
    rows.sort(key=lambda row: row[0])
    best = min((rank for rank, *_ in rows if rank[0] == RANKED), default=None)
    return Table(
        title=_title(records[0].forget_set),
        columns=tuple(columns),
        rows=tuple(
            Row(
                setting.label,
                len(setting.runs),
                cells,
                collapsed=bool(setting.collapsed),
                best=rank == best,
                doubtful=setting.method not in special and bool(setting.doubtful(shown)),
                refused=tuple(name for name in shown if _refused(setting, name)),
            )
            for rank, setting, cells in rows
        ),
        notes=compose(
            [setting for _, setting, _ in rows],
            shown,
            costs,
            gap_names=gap_names,
            reference=special[0],
            has_best=best is not None,
            floor=floor,
            equal=equal,
        ),
    )


def _rank(
    setting: Setting,
    gaps: Sequence[float | None],
    special: tuple[str, str],
    floor: float | None,
    *,
    doubtful: bool,
) -> tuple[int, float]:
    """Where the row stands: special, ranked by gap, lacking a gap, doubtful, collapsed ones."""
    if setting.method in special:
        return (special.index(setting.method), 0.0)
    if setting.collapsed:
        return (RANKED + 3, 0.0)
    if doubtful:
        return (RANKED + 2, 0.0)
    known = [gap for gap in gaps if gap is not None]
    if not known or len(known) < len(gaps):
        return (RANKED + 1, 0.0)
    return (RANKED, at_floor(statistics.fmean(known), floor))


def _title(forget_set: ForgetSet) -> str:
    title = f"Forget set: {forget_set.kind}, {forget_set.size} examples"
    return f"{title} ({forget_set.hash[:8]})" if forget_set.hash else title


def _metric_column(name: str, kind: Metric) -> Column:
    if kind.unit == "fraction":
        return Column(name, f"%, {kind.direction}", scale=100.0, decimals=2)
    return Column(name, f"{kind.unit}, {kind.direction}" if kind.unit else kind.direction)


def _retrained(settings: Sequence[Setting], reference: str) -> tuple[Record, ...]:
    found = [setting for setting in settings if setting.method == reference]
    if len(found) > 1:
        raise ValueError(
            f"expected one setting of {reference!r}, found {', '.join(s.label for s in found)}: "
            "summarize the records against one reference at a time"
        )
    return tuple(run for run in found[0].runs if run.status == "ok")


def _gap(run: Record, retrained: Sequence[Record], names: Sequence[str]) -> float | None:
    """Average gap to the retrained runs that stand for this one; None where one lacks a value.

    The only retrained run is compared with the oracles beside its metrics; with itself it has none.
    """
    others = [other for other in retrained if other is not run]
    if not others and names:
        return gap_to_oracles(run, names) or None
    if len(others) == len(retrained):
        others = [other for other in others if other.seed == run.seed] or others
    values = [[_value(record, name) for name in names] for record in (run, *others)]
    if not others or not names or any(value is None for row in values for value in row):
        return None
    own, *targets = np.array(values, np.float64)
    gap = average_gap(
        {name: np.full(len(targets), value) for name, value in zip(names, own)},
        dict(zip(names, np.transpose(targets))),
        units={name: run.metrics[name].unit for name in names},
    )
    return float(gap.value.mean())


def _value(run: Record, name: str) -> float | None:
    return run.metrics[name].value if name in run.metrics else None


def _refused(setting: Setting, name: str) -> bool:
    metrics = [run.metrics[name] for run in setting.runs if name in run.metrics]
    return len(setting.runs) == 1 and any(metric.no_interval for metric in metrics)


def _metric_cell(setting: Setting, name: str) -> Cell:
    cell = _cell(_value(run, name) for run in setting.runs)
    if cell.n != 1 or len(setting.runs) != 1:
        return cell
    metric = setting.runs[0].metrics[name]
    return cell._replace(low=metric.low, high=metric.high)


def share_of(run: Record, whole: float | None) -> float | None:
    """The run time as a share of `whole` seconds; None where either is not known."""
    return None if run.cost.wall_s is None or not whole else run.cost.wall_s / whole


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return statistics.fmean(found) if found else None


def _cell(values: Iterable[float | None]) -> Cell:
    found = [value for value in values if value is not None]
    if not found:
        return Cell()
    std = statistics.stdev(found) if len(found) > 1 else None
    return Cell(statistics.fmean(found), std, len(found))
