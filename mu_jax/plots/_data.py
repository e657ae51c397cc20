"""Rows of a chart: rounded numbers, means with their spread, models that can be read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mu_jax import evaluation
from mu_jax.plots._altair import alt
from mu_jax.plots.looks import ORACLES
from mu_jax.plots.nothing import NothingToDraw
from mu_jax.reporting.arrays import Arrays, Examples
from mu_jax.scoring.rows import CONSTANT, NOTHING, RETRAIN

DIGITS = 5  # significant ones of every number in a chart: finer than an eye or a pixel


NO_METHODS = (RETRAIN, NOTHING, CONSTANT, ORACLES)


class Spread(NamedTuple):
    """A mean over n models or seeds with its ends, and what the ends are, in words."""

    mean: float
    low: float
    high: float
    n: int
    what: str


def spread(values: ArrayLike, *, fraction: bool = False, models: str = "models") -> Spread:
    """The mean and its 95 % interval (`evaluation.t_interval`), for few models their range.

    Args:
        values: float [n], finite. fraction: the interval of a fraction ends at 0 and 1.
        models: what there are n of.
    """
    values = np.asarray(values, np.float64)
    mean, low, high = float(values.mean()), float(values.min()), float(values.max())
    if len(values) == 1:
        return Spread(mean, low, high, 1, f"one of {models}, no interval")
    try:
        found = evaluation.t_interval(values)
    except ValueError:  # too few, or equal: the range is all there is
        return Spread(mean, low, high, len(values), f"range of {len(values)} {models}")
    low, high = np.clip(found[1:3], 0, 1).tolist() if fraction else found[1:3]
    return Spread(mean, low, high, len(values), f"95 % interval over {len(values)} {models}")


def one_each(sizes: Iterable[int], what: str = "model") -> list[str]:
    """The sentence on rows of which none has more than one model, so that they have no spread."""
    if max(sizes, default=2) > 1:
        return []
    return [f"One {what} of each row: nothing says how far another one would lie."]


def number(value: Any) -> float | None:
    """The number to five significant digits; None for None, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{float(value):.{DIGITS}g}")


def inline(rows: Iterable[Mapping[str, Any]]) -> Any:
    """Data that stand in the chart, every number rounded by `number`."""
    plain = [{name: _plain(value) for name, value in row.items()} for row in rows]
    return alt.InlineData(values=plain)


def _plain(value: Any) -> Any:
    if isinstance(value, (float, np.floating)):
        return number(value)
    return value.item() if isinstance(value, np.generic) else value


def ordered(names: Iterable[str]) -> list[str]:
    """Retrained first, then the untouched model, then methods as they come; no constant."""
    names = list(dict.fromkeys(names))
    special = [name for name in (RETRAIN, NOTHING) if name in names]
    return special + [name for name in names if name not in NO_METHODS]


def readable(values: ArrayLike) -> np.ndarray:
    """Which of N models have finite values [N, n] only, bool[N]."""
    return np.asarray(np.isfinite(np.asarray(values, np.float64)).all(axis=1))


def finite_rows(
    arrays: Arrays, field: str, sets: Sequence[str], rows: Sequence[str] | None = None
) -> tuple[dict[str, dict[str, Examples]], list[str]]:
    """The rows that have a field on all sets, with their readable models, and who is left out.

    Args:
        arrays: of a forget set. field: "losses" or "margins". sets: their names.
        rows: the rows to look at; None for all.

    Returns:
        Examples by row and set, in which models with a NaN or an infinity are left out, and a
        sentence on each row that lacks some or all of its models.

    Raises:
        NothingToDraw: no row is left.
    """
    found: dict[str, dict[str, Examples]] = {}
    notes, lacking = [], []
    wanted = ordered(arrays.examples) if rows is None else list(dict.fromkeys(rows))
    for name in wanted:
        parts = {one: arrays.examples.get(name, {}).get(one) for one in sets}
        values: dict[str, Any] = {one: getattr(part, field, None) for one, part in parts.items()}
        if any(value is None or not np.size(value) for value in values.values()):
            lacking.append(name)
            continue
        good = np.logical_and.reduce([readable(value) for value in values.values()])
        if not good.all():
            notes.append(
                f"{name}: {(~good).sum()} of {good.size} models have NaN or infinite {field}."
            )
        if good.any():
            found[name] = {one: _chosen(part, good) for one, part in parts.items() if part}
    if not found:
        why = " ".join(notes) or f"no row has {field} on {words(sets)}."
        raise NothingToDraw(f"Nothing to draw: {why}")
    if lacking:
        notes.append(f"Without {field} on {words(sets)}: {words(lacking)}.")
    return found, [*notes, *constant(arrays, found)]


def constant(arrays: Arrays, rows: Iterable[str]) -> list[str]:
    """A sentence on each of the rows whose models say one class of all retained examples."""
    notes = []
    for row in rows:
        part = arrays.examples.get(row, {}).get("retain")
        if part is None or part.predictions is None or np.unique(part.targets).size < 2:
            continue
        said = np.asarray(part.predictions)
        if said.ndim != 2 or not said.size or not np.issubdtype(said.dtype, np.integer):
            continue
        same = (said == said[:, :1]).all(axis=1)
        if same.any():
            notes.append(
                f"{row}: {same.sum()} of {same.size} models have collapsed to one class on all "
                "retained examples."
            )
    return notes


def _chosen(part: Examples, good: np.ndarray) -> Examples:
    fields: dict[str, Any] = {
        name: None if (value := getattr(part, name)) is None else np.asarray(value)[good]
        for name in ("losses", "margins", "predictions")
    }
    return part._replace(**fields)


def words(names: Iterable[Any], most: int = 8) -> str:
    """Names as a text, no more than `most` of them.

    Example:
        >>> words(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    names = [str(name) for name in names]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
