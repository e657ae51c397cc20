"""The page of sequential requests shows what the kept records say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from experiments.configs import tuned_digits
from experiments.lib import sequence_tables
from experiments.lib.sequences import draw_requests
from experiments.lib.tasks import make_task
from mu_jax import datasets, page, plots, reporting

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "experiments/sweep_files/digits.sequential.jsonl"
METHODS = ("ssd", "scrub", "neg_grad_plus", "influence")


@pytest.fixture(scope="module")
def records():
    return reporting.read(KEPT)


def test_the_table_is_that_of_its_records(records):
    assert sequence_tables.page(records) in (ROOT / "docs/sequential.md").read_text()


def test_the_records_are_of_fifty_requests_with_the_tuned_settings(records):
    found = sequence_tables.by_request(records)
    assert list(found) == list(range(1, 51))
    config = json.loads(tuned_digits.get_config().methods.to_json())
    requests = draw_requests(make_task(tuned_digits.get_config()), 50, 4, seed=0)
    for number, rows in found.items():
        assert set(rows) == {"retrain", "do nothing", "constant", "sisa", *METHODS}
        for name in METHODS:
            assert rows[name].hyperparameters == config[name]
        for record in rows.values():
            assert record.forget_set.hash == datasets.digest(requests[:number].ravel())
            assert record.metrics["retain accuracy"].n == 32
    measured = [k for k, rows in found.items() if "KLoM forget p95" in rows["retrain"].metrics]
    assert measured == [1, *range(5, 51, 5)]


def test_the_page_of_the_sequence_is_one_section_and_small(records):
    text = page.render([reporting.Run(tuple(records))])
    assert len(text) < 5_000_000
    assert len(re.findall(r'<section class="part" id="set', text)) == 1
    assert 'id="set0-drift-title"' in text


def test_what_is_said_of_the_drift_is_in_the_records(records):
    """The sentences under the table: who drifts, who does not, and what a request costs."""
    found = sequence_tables.by_request(records)
    assert plots.drift(records).to_dict(validate=False)["description"].startswith("50 requests")
    last = found[50]
    value = {name: last[name].metrics["retain accuracy"].value for name in last}
    assert value["ssd"] < 0.5 < 0.95 < min(value[name] for name in ("scrub", "sisa", "influence"))
