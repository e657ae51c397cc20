"""The page of the classification tables shows what the kept records say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.configs import tuned_digits, tuned_fashion_mnist
from experiments.lib.overview import overview
from mu_jax import reporting

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "experiments/sweep_files"
TITLES = {
    "digits": "digits, 1,000 training examples",
    "fashion_mnist": "fashion_mnist, 10,000 training examples",
}
CONFIGS = {"digits": tuned_digits, "fashion_mnist": tuned_fashion_mnist}


@pytest.fixture(scope="module", params=TITLES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def records(name):
    return reporting.read(KEPT / f"{name}.classification.jsonl")


def test_the_table_is_that_of_its_records(name, records):
    page = (ROOT / "docs/classification.md").read_text()
    assert reporting.render([overview(records, TITLES[name])], markdown=True) in page


def test_the_records_are_of_the_tuned_settings_on_sets_that_chose_nothing(name, records):
    config = json.loads(CONFIGS[name].get_config().methods.to_json())
    methods = {record.method for record in records if record.hyperparameters}
    assert methods == set(config)
    for record in records:
        if record.hyperparameters:
            assert record.hyperparameters == config[record.method], record.method
    searches = [KEPT / f"{name}{end}.tuning.jsonl" for end in ("", "_classes")]
    chosen_on = {each.forget_set.hash for path in searches for each in reporting.read(path)}
    sets = {record.forget_set.hash for record in records}
    assert len(sets) == 3 and not sets & chosen_on
    assert min(metric.n for r in records for n, metric in r.metrics.items() if "KLoM" in n) >= 32


def test_retraining_itself_has_the_smallest_gap(name, records):
    table = overview(records, name)
    first, *others = table.rows
    assert first.label == "retrain"
    for number, column in enumerate(table.columns):
        if column.name.startswith("gap"):
            gaps = [row.cells[number].mean for row in others]
            assert first.cells[number].mean < min(gap for gap in gaps if gap is not None)
