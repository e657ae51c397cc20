"""The page of the classification tables shows what the kept records say."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.configs import tuned_digits
from experiments.lib.overview import overview
from mu_jax import reporting

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "experiments/sweep_files"


@pytest.fixture(scope="module")
def records():
    return reporting.read(KEPT / "digits.classification.jsonl")


def test_the_table_of_digits_is_that_of_its_records(records):
    page = (ROOT / "docs/classification.md").read_text()
    table = overview(records, "digits, 1,000 training examples")
    assert reporting.render([table], markdown=True) in page


def test_the_records_are_of_the_tuned_settings_on_sets_that_chose_nothing(records):
    config = tuned_digits.get_config().methods.to_dict()
    for record in records:
        if record.hyperparameters:
            assert record.hyperparameters == config[record.method], record.method
    chosen_on = {record.forget_set.hash for record in reporting.read(KEPT / "digits.tuning.jsonl")}
    sets = {record.forget_set.hash for record in records}
    assert len(sets) == 3 and not sets & chosen_on
    assert min(metric.n for r in records for n, metric in r.metrics.items() if "KLoM" in n) >= 32


def test_retraining_itself_has_the_smallest_gap(records):
    first, *others = overview(records, "digits").rows
    assert first.label == "retrain"
    names = [column.name for column in overview(records, "digits").columns]
    for number, name in enumerate(names):
        if name.startswith("gap"):
            gaps = [row.cells[number].mean for row in others]
            assert first.cells[number].mean < min(gap for gap in gaps if gap is not None)
