"""The tuned configuration is what its search found, and the records kept are of that search."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.configs import digits, tuned_digits
from experiments.sweep import files, tuning
from mu_jax import reporting

SWEEPS = Path(files.__file__).parents[1] / "sweep_files"


@pytest.fixture(scope="module")
def kept():
    return {
        half: reporting.read(SWEEPS / f"digits.{half}.jsonl") for half in ("tuning", "reporting")
    }


def plain(value):
    return json.loads(json.dumps(value))


def test_the_configuration_has_the_chosen_settings(kept):
    ranked = tuning.rank(kept["tuning"])
    methods = tuned_digits.get_config().methods.to_dict()
    chosen = {method: settings[0].hyperparameters for method, settings in ranked.items()}
    assert plain(methods) == chosen


def test_the_records_are_those_of_the_sweep_file(kept):
    sweep = files.read(SWEEPS / "digits.json")
    found = {
        (record.method, record.forget_set.kind, json.dumps(plain(point), sort_keys=True))
        for record in kept["tuning"]
        if record.method not in tuning.UNTUNED
        for point in [dict(record.hyperparameters)]
    }
    base = digits.get_config().methods.to_dict()
    expected = {
        (method, request, json.dumps(plain({**base.get(method, {}), **point}), sort_keys=True))
        for method, grid in sweep.grids.items()
        for point in grid
        for request in sweep.requests
    }
    assert found == expected
    assert f"{len({record.run_id for record in kept['tuning']})} trials" in tuned_digits.__doc__


def test_what_is_reported_is_what_was_chosen_on_other_forget_sets(kept):
    chosen = {method: s[0].hyperparameters for method, s in tuning.rank(kept["tuning"]).items()}
    reported = [r for r in kept["reporting"] if r.method not in tuning.UNTUNED]
    assert all(record.hyperparameters == chosen[record.method] for record in reported)
    assert {record.method for record in reported} == set(chosen)
    sets = [{record.forget_set.hash for record in kept[half]} for half in kept]
    assert not sets[0] & sets[1]
    oracles = [
        {(r.forget_set.kind, r.metrics["retain accuracy"].oracle.mean) for r in kept[half]}
        for half in kept
    ]
    assert [len(each) for each in oracles] == [3, 3]  # one value of the oracles a forget set
