"""Sweep files: read strictly, and turned into the same work list wherever they are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.configs import digits
from experiments.lib.tasks import make_task
from experiments.trials import REFERENCES
from launch_tpu import worklist
from mu_jax.reporting import ForgetSet, Metric, Oracle, Record

CONFIG = Path(digits.__file__)
FIELDS = {
    "config": str(CONFIG),
    "requests": ["class:7", "random:5:seed=1"],
    "reported": ["class:3"],
    "models": 4,
    "seeds": [0, 1],
    "methods": {
        "ssd": {"alpha": {"log": [1, 100], "number": 3}, "dampening": [0.5, 1]},
        "finetune": {"learning_rate": [0.01, 0.02]},
        "plain": {"method": "iau", "optimizer": ["sgd"], "learning_rate": [0.1]},
    },
}


@pytest.fixture(scope="module")
def task():
    config = digits.get_config()
    config.limit = 100
    return make_task(config)


def write(folder: Path, **changes) -> Path:
    path = folder / "sweep.json"
    fields = {**FIELDS, **changes}
    path.write_text(json.dumps({k: v for k, v in fields.items() if v is not None}))
    return path


def test_grids_are_products_and_logarithms_have_four_digits(tmp_path):
    sweep = worklist.read(write(tmp_path))
    assert [tuple(point.values()) for point in sweep.grids["ssd"]] == [
        (alpha, dampening) for alpha in (1.0, 10.0, 100.0) for dampening in (0.5, 1)
    ]
    assert sweep.grids["plain"] == ({"method": "iau", "optimizer": "sgd", "learning_rate": 0.1},)
    thirds = {"ssd": {"alpha": {"log": [0.1, 0.2], "number": 4}}}
    found = worklist.read(write(tmp_path, methods=thirds)).grids["ssd"]
    assert [point["alpha"] for point in found] == [0.1, 0.126, 0.1587, 0.2]


def test_one_trial_for_a_grid_in_one_pass_and_one_for_every_other_setting(tmp_path, task):
    trials = worklist.tuning_trials(worklist.read(write(tmp_path)), task)
    of_one = [(t.method, len(t.points)) for t in trials if (t.request, t.seed) == ("class:7", 1)]
    assert of_one == [(REFERENCES, 1), ("ssd", 6), ("finetune", 1), ("finetune", 1), ("plain", 1)]
    assert len(trials) == 4 * len(of_one)
    finetune = next(t for t in trials if t.method == "finetune")
    assert finetune.points[0]["epochs"] == 10 and finetune.points[0]["learning_rate"] == 0.01


def test_names_follow_the_content_and_nothing_else(tmp_path, task):
    def names(task=task, **changes):
        return [
            t.name for t in worklist.tuning_trials(worklist.read(write(tmp_path, **changes)), task)
        ]

    first = names()
    assert len(set(first)) == len(first)
    assert names() == first
    assert names(about="other words", reported=["class:4"]) == first
    elsewhere = make_task(task.config.copy_and_resolve_references())
    elsewhere.config.data_dir = "/elsewhere"
    assert names(elsewhere) == first
    longer = make_task(task.config.copy_and_resolve_references())
    longer.config.training.epochs = 41
    for others in (names(longer), names(models=5), names(requests=["class:8"])):
        assert not set(others) & set(first)
    more = {**FIELDS["methods"], "finetune": {"learning_rate": [0.02, 0.03]}}
    assert len(set(names(methods=more)) & set(first)) == len(first) - 4


def test_a_file_of_other_ids_is_another_forget_set(tmp_path, task):
    ids = tmp_path / "ids.csv"
    sweep = worklist.read(write(tmp_path, requests=[str(ids)], reported=None))
    found = []
    a, b, c = task.train.index[:3].tolist()
    for chosen in ((a, b), (b, a), (a, c)):
        ids.write_text("".join(f"{i}\n" for i in chosen))
        found.append([trial.name for trial in worklist.tuning_trials(sweep, task)])
    assert found[0] == found[1]
    assert not set(found[0]) & set(found[2])


def test_chosen_settings_are_reported_on_the_other_forget_sets(tmp_path, task):
    def record(rate, value, **fields):
        metric = Metric(value, unit="fraction", oracle=Oracle(0.5))
        arguments = {"optimizer": "sgd", "learning_rate": rate}
        return Record(
            "finetune",
            ForgetSet("class:7", 9),
            0,
            {"MIA": metric},
            hyperparameters=arguments,
            **fields,
        )

    broken = record(0.3, 0.5, status="collapsed", reason="constant predictions")
    records = [record(0.1, 0.9), record(0.2, 0.6), broken]
    trials = worklist.reporting_trials(worklist.read(write(tmp_path)), task, records)
    assert {(t.half, t.request, t.seed) for t in trials} == {
        ("reporting", "class:3", 0),
        ("reporting", "class:3", 1),
    }
    chosen = [t.points for t in trials if t.method != REFERENCES]
    base = task.config.methods.finetune.to_dict()
    assert chosen == [({**base, "optimizer": "sgd", "learning_rate": 0.2},)] * 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": 4}, "expected a field of a sweep among config, requests, .* found 'model'"),
        ({"requests": None}, "expected the field 'requests'"),
        (
            {"requests": []},
            r"expected a list of one or more values \(str\) for requests, found \[\]",
        ),
        ({"models": 1}, "expected at least 2 models, found 1"),
        ({"models": True}, "expected at least 2 models, found True"),
        ({"seeds": [0, 0]}, r"expected different seeds from 0 on, found \[0, 0\]"),
        ({"methods": {}}, "expected a JSON object for 'methods', found {}"),
        ({"methods": {"sdd": {}}}, "expected a method among ssd, iau, .* found 'sdd'"),
        ({"methods": {"../ssd": {"method": "ssd"}}}, "letters and digits.* found '../ssd'"),
        ({"methods": {"retrain": {}}}, "not that of a row of every table, found 'retrain'"),
        ({"methods": {"x": {"method": 3}}}, "expected a method among .* found 3"),
        (
            {"methods": {"ssd": {"alfa": [1]}}},
            "expected a hyper-parameter of 'ssd' among alpha, dampening.* found 'alfa'",
        ),
        (
            {"methods": {"dmm": {"multiplier": [1]}}},
            "hyper-parameter of 'dmm' among .*'multiplier'",
        ),
        ({"methods": {"ssd": {"alpha": []}}}, r"values .* for ssd.alpha, found \[\]"),
        ({"methods": {"ssd": {"alpha": 3}}}, "for ssd.alpha, found 3"),
        ({"methods": {"ssd": {"alpha": [1, 1]}}}, "expected every value of ssd.alpha once"),
        ({"methods": {"ssd": {"alpha": {"log": [0, 1], "number": 2}}}}, "with 0 < low < high"),
        ({"methods": {"ssd": {"alpha": {"log": [1, 2], "count": 2}}}}, "with 0 < low < high"),
        ({"config": "nowhere.py"}, "expected the configuration that .* names at .*nowhere.py"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_sentence(tmp_path, changes, sentence):
    with pytest.raises((ValueError, FileNotFoundError), match=sentence) as caught:
        worklist.read(write(tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_what_is_no_sweep_file_is_refused(tmp_path):
    path = tmp_path / "sweep.json"
    with pytest.raises(FileNotFoundError, match=r"expected a sweep file at .* found none"):
        worklist.read(path)
    path.write_text('{"config": ')
    with pytest.raises(ValueError, match="text that breaks at line 1"):
        worklist.read(path)
    path.write_text('{"models": 4, "models": 5}')
    with pytest.raises(ValueError, match=r"every name once .* found models again"):
        worklist.read(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"a JSON object for the sweep, found \[\]"):
        worklist.read(path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"requests": ["class:70"]}, "expected classes among"),
        ({"reported": ["nearest:5"]}, "expected nearest:AMOUNT"),
        ({"reported": ["class:3", "class:7,7"]}, "other forget sets than those tuned on"),
        ({"methods": {"p": {"method": "iau", "learning_rate": [1]}}}, "expected optimizer of 'p'"),
    ],
)
def test_what_the_task_cannot_do_is_one_sentence(tmp_path, task, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        worklist.tuning_trials(worklist.read(write(tmp_path, **changes)), task)


def test_a_regression_is_refused(tmp_path):
    config = str(CONFIG.parent / "digits_regression.py")
    with pytest.raises(ValueError, match="expected a classification task"):
        worklist.read_task(worklist.read(write(tmp_path, config=config)))
