"""The verdict table: every number with its interval, its floor and its distance from retraining."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from mu_jax.page.definitions import Definition, define
from mu_jax.page.in_short import in_short
from mu_jax.reporting import Cell, Column, Metric, Record, Row, Table, summarize
from mu_jax.reporting.grouping import Setting, by_setting, metric_kinds
from mu_jax.reporting.summary import COSTS, GAP
from mu_jax.reporting.tables import decimals_of
from mu_jax.scoring.rows import NOTHING, RETRAIN


class Number(NamedTuple):
    """One cell. text: the number. more: lines beneath it. missing: why there is no number.

    sort: by what the column is sorted, "" for nothing. best: of the smallest gaps.
    """

    text: str = ""
    more: tuple[str, ...] = ()
    missing: str = ""
    sort: str = ""
    best: bool = False


class Line(NamedTuple):
    """One row. place: "first" stands at the top and "last" at the end however rows are sorted.

    reasons: why the row has no rank, in sentences. settings: hyper-parameters and their choice.
    """

    label: str
    seeds: int
    numbers: tuple[Number, ...]
    place: str
    grey: bool
    reasons: tuple[str, ...]
    settings: str


class Verdict(NamedTuple):
    """The table of a forget set, with the definition of each column and the notes beneath.

    short: in a sentence or some, which row is the closest to retraining.
    """

    title: str
    short: tuple[str, ...]
    columns: tuple[Definition, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


def verdict(records: Sequence[Record], beside: Sequence[str] = ()) -> Verdict:
    """The table of the records of one forget set; see `reporting.summarize` for its order.

    Args:
        records: of one forget set. beside: metrics that one record of a row has for all its seeds.
    """
    costs = [name for name in COSTS if any(_cost(r, name) is not None for r in records)]
    (table,) = summarize(records, costs=costs)
    table = _gap_first(table)
    kinds = metric_kinds(records)
    settings = {setting.label: setting for setting in by_setting(records)}
    shown = _Shown(table, kinds, settings, _decimals(table), beside)
    return Verdict(
        table.title,
        in_short(table),
        tuple(define(column, kinds.get(column.name)) for column in table.columns),
        tuple(shown.line(row) for row in table.rows),
        table.notes,
    )


def _gap_first(table: Table) -> Table:
    """The table with the column by which rows are ranked before all others."""
    order = sorted(range(len(table.columns)), key=lambda i: table.columns[i].name != GAP.name)
    return table._replace(
        columns=tuple(table.columns[i] for i in order),
        rows=tuple(row._replace(cells=tuple(row.cells[i] for i in order)) for row in table.rows),
    )


def _cost(record: Record, name: str) -> float | int | None:
    return getattr(record.cost, name)


def _decimals(table: Table) -> list[int | None]:
    found = []
    for i, column in enumerate(table.columns):
        means = [mean * column.scale for row in table.rows if (mean := row.cells[i].mean)]
        found.append(decimals_of(column, means))
    return found


class _Shown(NamedTuple):
    """The table with what the cells are made of: kinds of metrics, settings by label, decimals."""

    table: Table
    kinds: Mapping[str, Metric]
    settings: Mapping[str, Setting]
    decimals: Sequence[int | None]
    beside: Sequence[str] = ()

    def line(self, row: Row) -> Line:
        setting = self.settings.get(row.label, Setting(row.label, row.label))
        special = setting.method in (RETRAIN, NOTHING)
        grey = row.collapsed or not setting.runs
        return Line(
            row.label,
            row.seeds,
            tuple(self.number(row, setting, i) for i in range(len(self.table.columns))),
            "first" if special else "last" if grey or row.doubtful else "",
            grey,
            tuple(_reasons(row, setting)),
            _settings(setting),
        )

    def number(self, row: Row, setting: Setting, i: int) -> Number:
        cell, column = row.cells[i], self.table.columns[i]
        if cell.mean is None:
            return Number(missing=_why(setting, column))
        metrics = [r.metrics[column.name] for r in setting.runs if column.name in r.metrics]
        write = _writer(column, self.decimals[i])
        target = _mean(m.oracle.mean for m in metrics if m.oracle is not None)
        closer = bool(metrics) and metrics[0].direction == "closer to retrain"
        distance = abs(cell.mean - target) if closer and target is not None else cell.mean
        if column.name in self.beside and len(metrics) == 1:  # one record stands for all seeds
            cell = cell._replace(low=metrics[0].low, high=metrics[0].high)
            row = row._replace(seeds=1)
        more = [*_spread(cell, row, metrics, write), *_target(cell, metrics, target, write)]
        return Number(
            write(cell.mean),
            tuple(more),
            sort=repr(float(distance)),
            best=row.best and column.name == GAP.name,
        )


def _writer(column: Column, decimals: int | None):
    form = ".3g" if decimals is None else f".{decimals}f"
    return lambda value: f"{value * column.scale:{form}}"


def _spread(cell: Cell, row: Row, metrics: Sequence[Metric], write) -> Iterable[str]:
    """The spread over seeds, or the interval of a single run, or that there is neither."""
    if cell.std is not None:
        yield f"± {write(cell.std)}, {cell.n} seeds"
    elif cell.low is not None and cell.high is not None:
        yield f"[{write(cell.low)}, {write(cell.high)}]"
    elif len(metrics) == 1 and metrics[0].stderr is not None:
        yield f"± {write(metrics[0].stderr)} (standard error)"
    elif metrics and metrics[0].no_interval:
        yield "no interval"
    elif cell.n == 1:
        yield "one seed"
    if row.seeds > cell.n:
        yield f"{cell.n} of {row.seeds} seeds"


def _target(cell: Cell, metrics: Sequence[Metric], target: float | None, write) -> Iterable[str]:
    floors = {m.null for m in metrics if m.null is not None}
    if floors:
        word = "floor" if metrics[0].direction == "lower is better" else "perfect"
        yield f"{word} {write(statistics.fmean(floors))}"
    elif target is not None and cell.mean is not None:
        away = write(cell.mean - target)
        yield f"{away if away.startswith('-') else '+' + away} from retrained {write(target)}"


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return statistics.fmean(found) if found else None


def _why(setting: Setting, column: Column) -> str:
    """Why a cell has no number; never empty."""
    if not setting.runs:
        return "the run failed" if setting.failed else "no record"
    named = [run.metrics[column.name] for run in setting.runs if column.name in run.metrics]
    reasons = dict.fromkeys(metric.reason for metric in named if metric.value is None)
    if reasons:
        return "; ".join(reasons)
    if column.name == GAP.name:
        return "no gap: a value or retrained models are missing"
    costs = {one.name for one in COSTS.values()} | {"of retraining"}
    return "not measured" if column.name in costs else "not recorded"


def _reasons(row: Row, setting: Setting) -> Iterable[str]:
    for what, runs in (("Collapsed", setting.collapsed), ("Failed", setting.failed)):
        if runs:
            total = len(setting.runs) + len(setting.failed)
            said = "; ".join(dict.fromkeys(run.reason for run in runs))
            count = f" ({len(runs)} of {total} seeds)" if total > 1 else ""
            yield f"{what}{count}: {said}"
    if row.doubtful:
        yield "Better than a perfect unlearner, by chance or by a defect of the metric: not ranked"


def _settings(setting: Setting) -> str:
    """Hyper-parameters and how they were chosen, in words."""
    if not setting.runs:
        return ""
    first = setting.runs[0]
    parts = [f"{name} = {value}" for name, value in first.hyperparameters.items()]
    said = ", ".join(parts)
    if first.selection:
        said += f"{' ' if said else ''}({first.selection})"
    return said
