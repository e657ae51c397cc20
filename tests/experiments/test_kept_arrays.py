"""The half of a search that is reported: its records are functions of the arrays it keeps."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from recomputed import assert_equal, of_ensemble

from experiments.configs import digits
from experiments.lib.populations import everything, positions
from experiments.lib.rows import Bench
from experiments.lib.tasks import make_task, read_ids
from mu_jax import evaluation, reporting

pytest.importorskip("optuna", reason="needs the extra sweep")
from experiments.sweep import trials

MODELS = 22


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Models whose outputs are drawn."""
    config = digits.get_config()
    config.limit = 300
    task = make_task(config)
    targets, random = np.asarray(everything(task).targets), np.random.default_rng(0)
    others, retrained, untouched = (
        (random.normal(size=(MODELS, targets.size, 10)) + k * np.eye(10)[targets]).astype("f4")
        for k in (2, 2, 4)
    )
    ids = read_ids(task, "class:3")
    return Bench(
        targets=targets,
        positions=positions(task, ids),
        oracles=np.asarray(evaluation.margins(others, targets)),
        retrained=retrained,
        others=others,
        task=task,
        directory=tmp_path_factory.mktemp("sweep") / "ensembles",
        ids=ids,
        arguments=(None, None, None, None, everything(task)),
        untouched=untouched,
        trained_by=jax.random.split(jax.random.key(0), MODELS),
    )


def trial(half, method, seed=0):
    return trials.Trial(half, method, "class:3", seed, MODELS, ({"alpha": 2.0},), {})


def test_reported_records_name_what_their_numbers_are_computed_from(bench, monkeypatch):
    found = [trials.Outputs(0.5 * bench.untouched, 1.0, None)]
    monkeypatch.setattr(trials, "make_bench", lambda *_: bench)
    monkeypatch.setattr(trials, "run_method", lambda *_: found)
    records = [
        record
        for method in (trials.REFERENCES, "ssd")
        for record in trials.run_trial(bench.task, bench.directory, trial("reporting", method))
    ]
    path = bench.directory.parent / "reporting.jsonl"
    path.write_text("".join(reporting.to_json(record) + "\n" for record in records))
    run = reporting.read_run(path)
    rows = run.arrays["class:3"].examples
    assert list(rows) == ["retrain", "do nothing", "ssd"]
    for record in run.records:
        assert_equal(record, of_ensemble(rows, record.method, MODELS))


def test_further_seeds_are_forget_sets_of_their_own_and_a_search_keeps_nothing(bench):
    kept = trials.keep_arrays(bench, trial("reporting", "iau", 2), [("iau", bench.untouched)])
    path = bench.directory.parent / "seed.jsonl"
    record = reporting.Record("iau", reporting.ForgetSet("class:3", 1), 2, arrays=kept)
    path.write_text(reporting.to_json(record) + "\n")
    assert list(reporting.read_run(path).arrays) == ["class:3, seed 2"]
    assert trials.keep_arrays(bench, trial("tuning", "iau"), [("iau", bench.untouched)]) == {}
