"""Who came closest to retraining, in the sentences with which a page begins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mu_jax.page.gathering import listed
from mu_jax.reporting import Row, Table
from mu_jax.reporting.summary import GAP
from mu_jax.scoring.rows import CONSTANT, NOTHING, RETRAIN

KLOM = "KLoM forget p95"


def in_short(table: Table) -> tuple[str, ...]:
    """The result of a forget set in sentences: the best rows, what they are beside, who fell.

    Never empty: where nobody can be the best, the first sentence says why.
    """
    return (*_by_gap(table), *_by_klom(table), *_collapsed(table.rows))


def _by_gap(table: Table) -> Iterable[str]:
    rows = {row.label: row for row in table.rows}
    gaps = {label: _value(table, row, GAP.name) for label, row in rows.items()}
    best = [row.label for row in table.rows if row.best]
    floor, nothing = gaps.get(RETRAIN), gaps.get(NOTHING)
    if not best:
        yield f"No method is the closest to retraining: {_why_nobody(table, rows)}."
        return
    own = gaps[best[0]] or 0.0
    beside = "" if nothing is None else f"; doing nothing has {nothing:.2f}"
    if floor is not None and own <= floor:
        are = "is" if len(best) == 1 else "are"
        yield (
            f"{_count(best)} {are} as close to retraining as retrained models are to one another: "
            f"an average gap of {_range([gaps[name] or 0.0 for name in best])} points, with "
            f"{floor:.2f} between retrained models{beside}."
        )
    else:
        level = (
            f"retrained models among themselves have {floor:.2f}"
            if floor is not None
            else "what retrained models have among themselves is not known"
        )
        yield (
            f"Closest to retraining: {_count(best)}, with an average gap of {own:.2f} points; "
            f"{level}{beside}."
        )
    if all(rows[name].seeds == 1 for name in best):
        yield "One record a row: another seed may order the methods otherwise."


def _why_nobody(table: Table, rows: dict[str, Row]) -> str:
    methods = [row for label, row in rows.items() if label not in (RETRAIN, NOTHING, CONSTANT)]
    if RETRAIN not in rows or not rows[RETRAIN].seeds:
        return "there are no retrained models to compare with"
    if not methods:
        return "there is no row of a method"
    if all(row.collapsed for row in methods):
        return "every method has collapsed"
    if all(name != GAP.name for name in (column.name for column in table.columns)):
        return "no metric is a fraction that should be as that of retrained models"
    return "every method has collapsed, lacks a value, or is better than is possible"


def _by_klom(table: Table) -> Iterable[str]:
    """The method with the least KLoM on the forget set, of those that have a rank."""
    if all(column.name != KLOM for column in table.columns):
        return
    values = {
        row.label: value
        for row in table.rows
        if not row.collapsed and not row.doubtful
        if (value := _value(table, row, KLOM)) is not None
    }
    ranked = {name: v for name, v in values.items() if name not in (RETRAIN, NOTHING, CONSTANT)}
    if not ranked:
        yield "No method has a KLoM on the forget set that can be ranked."
        return
    first = min(ranked, key=lambda name: ranked[name])
    others = {RETRAIN: "retrained models have", NOTHING: "doing nothing has"}
    beside = [f"{words} {values[name]:.3g}" for name, words in others.items() if name in values]
    found = f"Lowest KLoM on the forget set: {first}, {ranked[first]:.3g} nats"
    yield f"{'; '.join([found, *beside])}."


def _collapsed(rows: Sequence[Row]) -> Iterable[str]:
    fallen = [row.label for row in rows if row.collapsed and row.label != CONSTANT]
    if fallen:
        yield f"Collapsed: {listed(fallen)}."


def _value(table: Table, row: Row, name: str) -> float | None:
    """The mean of the row in a column; None where there is none."""
    found = [cell.mean for column, cell in zip(table.columns, row.cells) if column.name == name]
    return found[0] if found else None


def _count(names: Sequence[str]) -> str:
    return listed(names, 4)


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"
