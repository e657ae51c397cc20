"""The studies of a sweep: the same wherever it is read, named by what decides their results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from experiments.configs import digits
from experiments.lib.tasks import make_task
from experiments.sweep import files, jobs
from experiments.sweep.trials import REFERENCES
from mu_jax.reporting import ForgetSet, Metric, Oracle, Record

FIELDS = {
    "config": str(Path(digits.__file__)),
    "requests": ["class:7", "random:5:seed=1"],
    "reported": ["class:3"],
    "models": 4,
    "seeds": [0, 1],
    "methods": {
        "ssd": {"alpha": {"log": [1, 100], "number": 3}, "dampening": [0.5, 1]},
        "finetune": {"learning_rate": [0.01, 0.02]},
        "plain": {"method": "iau", "optimizer": ["sgd", "adam"], "learning_rate": [0.1]},
    },
}


@pytest.fixture(scope="module")
def task():
    config = digits.get_config()
    config.limit = 100
    return make_task(config)


@pytest.fixture
def search(tmp_path, task):
    """The jobs of a sweep file with some fields changed."""

    def make(task=task, **changes):
        path = tmp_path / "sweep.json"
        fields = {**FIELDS, **changes}
        path.write_text(json.dumps({k: v for k, v in fields.items() if v is not None}))
        return jobs.tuning_jobs(files.read(path), task)

    return make


def names(found):
    return [job.plan.name for job in found]


def test_a_study_for_every_method_and_one_program_for_those_of_one_pass(search):
    found = [(job.method, job.plan.number, job.plan.block) for job in search()]
    assert found == [(REFERENCES, 2, 1), ("ssd", 6, 32), ("finetune", 2, 1), ("plain", 2, 32)]
    ssd, finetune, plain = search()[1:]
    assert ssd.plan.space == {
        "alpha": FloatDistribution(1, 100, log=True),
        "dampening": FloatDistribution(0.5, 1),
    }
    assert plain.plan.space["optimizer"] == CategoricalDistribution(["sgd", "adam"])
    assert next(iter(plain.plan.items.values())) == {"optimizer": "sgd", "learning_rate": 0.1}
    assert plain.fixed == {"method": "iau"}
    assert finetune.fixed["epochs"] == 10 and "learning_rate" not in finetune.fixed


def test_what_neither_the_sweep_nor_the_configuration_names_has_a_default(search):
    (_, job) = search(methods={"neg_grad_plus": {"forget_weight": [0.1]}})
    assert job.fixed["optimizer"] == "momentum" and job.fixed["epochs"] == 5


def test_names_follow_what_decides_the_results_and_nothing_else(search, task):
    first = names(search())
    assert len(set(first)) == len(first) and names(search()) == first
    assert names(search(about="other words", reported=["class:4"])) == first
    elsewhere = make_task(task.config.copy_and_resolve_references())
    elsewhere.config.data_dir = "/elsewhere"
    assert names(search(elsewhere)) == first
    longer = make_task(task.config.copy_and_resolve_references())
    longer.config.training.epochs = 41
    changed = (search(longer), search(models=5), search(seeds=[0]), search(requests=["class:8"]))
    for others in changed:
        assert not set(names(others)) & set(first)


def test_more_values_are_more_settings_of_the_same_study(search):
    before = search()[2].plan
    rates = {"finetune": {"learning_rate": [0.02, 0.03]}}
    after = search(methods={**FIELDS["methods"], **rates})[2].plan
    assert after.name == before.name
    assert len(set(after.items) & set(before.items)) == 1


def test_settings_that_are_drawn_are_a_study_of_their_own(search):
    methods = {"ssd": {"alpha": {"log": [1, 100]}, "dampening": [0.5, 1]}}
    drawn = [search(methods=methods, sampler=s, trials=7)[1].plan for s in ("random", "tpe")]
    listed = search(methods={"ssd": FIELDS["methods"]["ssd"]})[1].plan
    assert len({plan.name for plan in (*drawn, listed)}) == 3
    assert drawn[0].items is None and drawn[0].number == 7
    assert drawn[0].space["dampening"] == CategoricalDistribution([0.5, 1])


def test_a_file_of_other_ids_is_another_forget_set(tmp_path, task, search):
    ids, found = tmp_path / "ids.csv", []
    a, b, c = task.train.index[:3].tolist()
    for chosen in ((a, b), (b, a), (a, c)):
        ids.write_text("".join(f"{i}\n" for i in chosen))
        found.append(names(search(requests=[str(ids)], reported=None)))
    assert found[0] == found[1] and not set(found[0]) & set(found[2])


def test_chosen_settings_are_reported_on_the_other_forget_sets(tmp_path, task, search):
    def record(rate, value, **fields):
        metric = Metric(value, unit="fraction", oracle=Oracle(0.5))
        arguments = {"optimizer": "sgd", "learning_rate": rate}
        where = ForgetSet("class:7", 9)
        return Record("finetune", where, 0, {"MIA": metric}, hyperparameters=arguments, **fields)

    broken = record(0.3, 0.5, status="collapsed", reason="constant predictions")
    records = [record(0.1, 0.9), record(0.2, 0.6), broken]
    search()
    sweep = files.read(tmp_path / "sweep.json")
    references, chosen = jobs.reporting_jobs(sweep, task, records)
    assert references.method == REFERENCES
    assert (chosen.half, chosen.requests, chosen.seeds) == ("reporting", ("class:3",), (0, 1))
    assert chosen.fixed == {"optimizer": "sgd", "learning_rate": 0.2}
    other = jobs.reporting_jobs(sweep, task, records[:1])[1]
    assert other.plan.name != chosen.plan.name
