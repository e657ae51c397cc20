"""The tuned configurations are what their searches found, and the records kept are of those."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from experiments.sweep import files, tuning
from mu_jax import reporting

SWEEPS = Path(files.__file__).parents[1] / "sweep_files"
TASKS = ("digits", "fashion_mnist")
SEARCHES = tuple(f"{task}{end}" for task in TASKS for end in ("", "_classes"))
REPORTED = ("digits", "digits_classes", "fashion_mnist_classes")


def config(name):
    return importlib.import_module(f"experiments.configs.{name}")


def kept(search, half):
    return reporting.read(SWEEPS / f"{search}.{half}.jsonl")


def chosen(search):
    """The settings with the smallest mean gap, by method."""
    ranked = tuning.rank(kept(search, "tuning"))
    return {method: settings[0].hyperparameters for method, settings in ranked.items()}


def plain(value):
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("task", TASKS)
def test_the_configuration_has_the_chosen_settings(task):
    methods = config(f"tuned_{task}").get_config().methods.to_dict()
    everywhere, classes = chosen(task), chosen(f"{task}_classes")
    assert not set(everywhere) & set(classes)
    assert plain(methods) == everywhere | classes


@pytest.mark.parametrize("search", SEARCHES)
def test_the_records_are_those_of_the_sweep_file(search):
    sweep = files.read(SWEEPS / f"{search}.json")
    found = {
        (record.method, record.forget_set.kind, json.dumps(plain(point), sort_keys=True))
        for record in kept(search, "tuning")
        if record.method not in tuning.UNTUNED
        for point in [dict(record.hyperparameters)]
    }
    task = search.removesuffix("_classes")
    base = config(task).get_config().methods.to_dict()
    expected = {
        (method, request, json.dumps(plain({**base.get(method, {}), **point}), sort_keys=True))
        for method, grid in sweep.grids.items()
        for point in grid
        for request in sweep.requests
    }
    assert found == expected
    settings = len(expected) // len(sweep.requests)
    assert f"{settings} settings" in " ".join(config(f"tuned_{task}").__doc__.split())


@pytest.mark.parametrize("search", REPORTED)
def test_what_is_reported_is_what_was_chosen_on_other_forget_sets(search):
    halves = {half: kept(search, half) for half in ("tuning", "reporting")}
    best = chosen(search)
    reported = [r for r in halves["reporting"] if r.method not in tuning.UNTUNED]
    assert all(record.hyperparameters == best[record.method] for record in reported)
    assert {record.method for record in reported} == set(best)
    sets = [{record.forget_set.hash for record in half} for half in halves.values()]
    assert not sets[0] & sets[1]
    requests = len(files.read(SWEEPS / f"{search}.json").requests)
    for half in halves.values():  # the same oracles for every method, others for these themselves
        oracles = {
            (r.forget_set.kind, r.metrics["retain accuracy"].oracle.mean)
            for r in half
            if r.method != tuning.REFERENCE
        }
        assert len(oracles) == requests
