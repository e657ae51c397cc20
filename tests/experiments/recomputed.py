"""The numbers of records, computed again from the arrays of a run."""

from __future__ import annotations

import numpy as np
import pytest

from mu_jax import evaluation, reporting
from mu_jax.reporting import Examples
from mu_jax.scoring.ensembles import p95
from mu_jax.scoring.single import membership

Sets = dict[str, Examples]


def correct(examples: Examples) -> np.ndarray:
    """Whether each model is right on each example."""
    return examples.predictions == examples.targets


def accuracies(sets: Sets, name: str) -> np.ndarray:
    """Of every model; on test examples of the classes that are retained."""
    hits = correct(sets[name])
    if name == "test" and sets[name].targets.ndim == 1:
        hits = hits[:, np.isin(sets[name].targets, np.unique(sets["retain"].targets))]
    return hits.reshape(len(hits), -1).mean(axis=1)


def of_model(sets: Sets, j: int, seed: int) -> dict[str, float | None]:
    """The numbers of one model of a classification."""
    found = {f"{name} accuracy": accuracies(sets, name)[j] for name in ("retain", "forget", "test")}
    attack = membership(sets["forget"].losses[j], sets["test"].losses[j], seed)
    return found | {"MIA": attack.value}


def of_ensemble(rows: dict[str, Sets], method: str, models: int) -> dict[str, float]:
    """The numbers of N models of a row, KLoM among them."""
    sets, names = rows[method], ("forget", "retain", "test")
    own = {name: chosen(sets[name], method, models) for name in names}
    found = {f"{name} accuracy": accuracies(own, name).mean() for name in names}
    attacks = [
        membership(own["forget"].losses[j], own["test"].losses[j], j).value
        for j in range(min(5, models))
    ]
    found["MIA"] = np.mean(attacks)
    for name in names:
        oracles = rows.get("oracles", rows["retrain"])[name].margins
        oracles = oracles if "oracles" in rows else oracles[:-models]
        found[f"KLoM {name} p95"] = p95(np.asarray(evaluation.klom(oracles, own[name].margins)))
    return found


def chosen(examples: Examples, method: str, models: int) -> Examples:
    """The models that a record is over: the last of the retrained ones, the first of others."""
    take = slice(-models, None) if method == "retrain" else slice(models)
    arrays = (examples.losses[take], examples.margins[take], examples.predictions[take])
    repeated = (np.broadcast_to(x, (models, *x.shape[1:])) for x in arrays)
    return Examples(*examples[:2], *repeated)


def assert_equal(record: reporting.Record, found: dict[str, float | None]) -> None:
    """Every number that was computed again is that of the record; some of them there are."""
    values = {name: metric.value for name, metric in record.metrics.items()}
    assert set(found) & set(values)
    for name in set(found) & set(values):
        assert values[name] == pytest.approx(found[name], rel=1e-5, abs=1e-7), (record.method, name)
