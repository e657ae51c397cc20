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
from mu_jax import datasets, page, reporting

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "experiments/sweep_files/digits.sequential.jsonl"
KLOM = sequence_tables.KLOM
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
    found = sequence_tables.by_request(records)
    measured = [k for k, rows in found.items() if KLOM in rows["retrain"].metrics]

    def percent(name, number, metric="retain accuracy"):
        return round(100 * found[number][name].metrics[metric].value, 1)

    assert [percent("ssd", k) for k in (1, 3, 10, 50)] == [97.8, 76.1, 30.4, 13.3]
    collapsed = [k for k, rows in found.items() if rows["ssd"].status == "collapsed"]
    assert (len(collapsed), collapsed[0]) == (15, 23)
    others = {rows[name].status for rows in found.values() for name in (*METHODS[1:], "sisa")}
    assert others == {"ok"}
    klom = {
        name: [found[k][name].metrics[KLOM].value for k in measured]
        for name in ("do nothing", "retrain", *METHODS)
    }
    assert all(round(value, 2) == 11.51 for value in klom["scrub"][3:])
    assert all(3.8 < value < 5 for value in klom["influence"][2:7])
    half = [(a + b) / 2 for a, b in zip(klom["do nothing"], klom["retrain"])]
    spent = {
        name: next(k for k, value, most in zip(measured, klom[name], half) if value > most)
        for name in METHODS
    }
    assert spent == {"ssd": 5, "scrub": 1, "neg_grad_plus": 5, "influence": 45}


def test_the_costs_are_those_of_the_page(records):
    found = sequence_tables.by_request(records)
    passes = {
        name: sum(rows[name].cost.forward for rows in found.values())
        for name in ("retrain", "sisa", "influence")
    }
    assert round(passes["sisa"] / passes["retrain"], 2) == 0.55
    assert round(passes["influence"] / passes["retrain"], 1) == 2.6
