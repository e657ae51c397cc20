"""Records, arrays, tables over runs and the picture of a language task."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments.lib.language.methods import method_arguments
from experiments.lib.language.study import Models
from experiments.lib.language.task import Split, Task
from mu_jax import evaluation, reporting
from mu_jax.models import decoder as decoders
from mu_jax.reporting import Arrays, Curve, Examples
from mu_jax.scoring.rows import NOTHING, RETRAIN
from mu_jax.scoring.shown import shown_texts

Runs = dict[str, dict[tuple, reporting.Record]]  # by row and run


def records_of(task: Task, split: Split, rows: Mapping[str, Models]) -> list[reporting.Record]:
    """One record for each row and model; model j of a row stands beside retrained model j.

    Where fewer retrained models are given, they are used in turn.
    """
    oracles = [rows[RETRAIN].log(j) for j in range(rows[RETRAIN].number)]
    records = []
    for seed in range(rows[NOTHING].number):
        logs = {name: models.log(seed) for name, models in rows.items() if name != RETRAIN}
        own = seed % len(oracles)
        order = [oracles[own], *oracles[:own], *oracles[own + 1 :]]
        for name, metrics in split.table(logs, order).items():
            known = name in task.config.methods
            records.append(
                reporting.Record(
                    name,
                    split.forget_set,
                    seed,
                    metrics=metrics,
                    hyperparameters=method_arguments(task, name) if known else {},
                    selection=task.config.selection if known else "",
                )
            )
    return records


def split_arrays(split: Split, rows: Mapping[str, Models]) -> Arrays:
    """What every model says of every text, what comes back in relearning, and all that was read.

    Losses are those of `Split.losses`, and of its sets all texts have different ids. What further
    numbers are computed from lies in `others`, under `row/before` and, behind relearning,
    `row/after`.
    """
    examples = {name: _examples(split.losses(found.logs)) for name, found in rows.items()}
    curves, others = {}, {}
    for row, found in rows.items():
        others |= _flat(f"{row}/before", found.logs) | _flat(f"{row}/after", found.after)
        if found.curve is not None and split.relearn is not None:
            curve = np.asarray(found.curve)
            curves[row] = Curve(np.arange(curve.shape[1]), curve, split.relearn.title)
    first = next(iter(examples.values()))
    shown = shown_texts({name: (first[name].ids, texts) for name, texts in split.texts.items()})
    return Arrays(examples, relearning=curves, shown=shown, others=others)


def _examples(losses: Mapping[str, np.ndarray]) -> dict[str, Examples]:
    found, start = {}, 0
    for name, values in losses.items():
        values = np.asarray(values, np.float32)
        ids = np.arange(start, start + values.shape[1], dtype=np.int32)
        found[name] = Examples(ids, None, values, None, None)
        start += ids.size
    return found


def _flat(prefix: str, tree: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        f"{prefix}/{jax.tree_util.keystr(path, simple=True, separator='/')}": np.asarray(leaf)
        for path, leaf in leaves
    }


def write_models(
    task: Task, split: Split, rows: Mapping[str, Models], folder: pathlib.Path
) -> None:
    """Write the first model of every row, with the tokenizer that the task read from a directory.

    What is there already is left alone.
    """
    for row, found in rows.items():
        path = folder / split.name.replace(" ", "_") / row.replace(" ", "_")
        if not path.is_dir():
            first = jax.tree.map(lambda x: x[0], found.variables)
            tokenizer = task.config.model.get("directory")
            decoders.write_decoder(path, task.decoder, first, tokenizer=tokenizer)


def overview(
    records: Iterable[reporting.Record], metrics: Sequence[str] | None = None
) -> list[reporting.Table]:
    """Three tables over all runs, a run being a forget set and a seed.

    Means; differences to the retrained model of the same run; differences to the first method of
    the same run. From eight runs on with 95 % intervals (`evaluation.t_interval`).

    Args:
      records: of several forget sets and seeds. metrics: the columns; None for all.
    """
    runs: Runs = {}
    for record in records:
        run = record.forget_set, record.seed
        runs.setdefault(record.method, {})[run] = record
    kinds = {n: m for found in runs.values() for r in found.values() for n, m in r.metrics.items()}
    shown = {name: kinds[name] for name in metrics or kinds if name in kinds}
    methods = [name for name in runs if name not in (RETRAIN, NOTHING)]
    close = {n: m for n, m in shown.items() if m.direction == "closer to retrain"}
    tables = [_over_runs("Means over runs", runs, shown, None)]
    if RETRAIN in runs:
        tables.append(_over_runs(f"Differences to {RETRAIN} of the same run", runs, close, RETRAIN))
    if len(methods) > 1:
        title = f"Differences to {methods[0]} of the same run"
        tables.append(_over_runs(title, runs, shown, methods[0]))
    return tables


def _over_runs(
    title: str, runs: Runs, metrics: Mapping[str, reporting.Metric], base: str | None
) -> reporting.Table:
    special = [name for name in (RETRAIN, NOTHING) if name in runs]
    names = [*special, *(name for name in runs if name not in special)]
    rows, lonely = [], False
    for name in names:
        if name == base:
            continue
        values = {metric: _values(runs, name, metric, base) for metric in metrics}
        cells = tuple(
            _cell(found, bounded=base is None and metrics[metric].unit == "fraction")
            for metric, found in values.items()
        )
        lonely |= any(cell.n > 1 and cell.low is None for cell in cells)
        rows.append(reporting.Row(name, len(runs[name]), cells, collapsed=False, best=False))
    sets = {run[0] for found in runs.values() for run in found}
    notes = ["Cells: mean and, in brackets, its 95 % interval over runs (forget sets and seeds)."]
    if lonely:
        notes.append("Where there is none, ± is the sample deviation: fewer than 8 runs, or equal.")
    return reporting.Table(
        f"{title}: {len(sets)} forget sets, {max(len(found) for found in runs.values())} runs",
        tuple(_column(name, metric) for name, metric in metrics.items()),
        tuple(rows),
        tuple(notes),
    )


def _column(name: str, metric: reporting.Metric) -> reporting.Column:
    if metric.unit == "fraction":
        return reporting.Column(name, "%", scale=100.0, decimals=1)
    return reporting.Column(name, metric.unit, decimals=2)


def _values(runs: Runs, name: str, metric: str, base: str | None) -> np.ndarray:
    found = []
    for run, record in runs[name].items():
        value = _value(record, metric)
        if base is not None:
            other = _value(runs[base].get(run), metric)
            value = None if value is None or other is None else value - other
        found += [] if value is None else [value]
    return np.array(found, float)


def _value(record: reporting.Record | None, metric: str) -> float | None:
    found = None if record is None else record.metrics.get(metric)
    return None if found is None else found.value


def _cell(values: np.ndarray, *, bounded: bool) -> reporting.Cell:
    """Mean and interval; of fractions, that part of it which fractions can have."""
    if not values.size:
        return reporting.Cell()
    try:
        found = evaluation.t_interval(values)
    except ValueError:
        std = float(values.std(ddof=1)) if values.size > 1 else None
        return reporting.Cell(float(values.mean()), std, values.size)
    low, high = (found.low, found.high) if not bounded else np.clip(found[1:3], 0, 1).tolist()
    return reporting.Cell(found.estimate, None, values.size, low, high)


def draw(path: pathlib.Path, found: Mapping[pathlib.Path, Sequence[reporting.Record]]) -> None:
    """Draw what relearning brings back: the curve of every row, and exposure before and after.

    Args:
      path: of the picture, see `plots.save`.
      found: records by their file, beside which their arrays lie.

    Raises:
      ValueError: records without curves, or an ending that `plots.save` does not know.
    """
    from mu_jax import plots

    curves: dict[str, list[np.ndarray]] = {}
    for where in found:
        for arrays in reporting.read_run(where).arrays.values():
            for row, curve in arrays.relearning.items():
                curves.setdefault(row, []).append(curve.values)
    ends = _ends([record for records in found.values() for record in records])
    if not curves:
        raise ValueError(
            "expected records with curves of relearning, found none; draw those of "
            "experiments.language"
        )
    whole = {row: np.concatenate(parts) for row, parts in curves.items()}
    said = {name for records in found.values() for record in records for name in record.metrics}
    y = "NLL, nats" if "relearned NLL" in said else "probability"
    panels = [plots.Panel("What was never shown, along relearning", "steps", y, whole)]
    if ends:
        title, ticks = "Exposure of secrets never shown", ("before", "behind relearning")
        panels.append(plots.Panel(title, "", "bits", {row: ends[row] for row in whole}, ticks))
    plots.save(plots.panels(panels), path)


def _ends(records: Sequence[reporting.Record]) -> dict[str, np.ndarray]:
    names = ("unseen exposure", "relearned exposure")
    found: dict[str, list] = {}
    for record in records:
        pair = [_value(record, name) for name in names]
        if None not in pair:
            found.setdefault(record.method, []).append(pair)
    return {row: np.array(pairs) for row, pairs in found.items()}
