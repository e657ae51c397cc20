"""Sweep files: read strictly, and turned into the same work list wherever they are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.configs import digits
from experiments.lib.tasks import make_task
from experiments.sweep import files
from experiments.sweep.jobs import tuning_jobs

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
    sweep = files.read(write(tmp_path))
    assert [tuple(point.values()) for point in sweep.grids["ssd"]] == [
        (alpha, dampening) for alpha in (1.0, 10.0, 100.0) for dampening in (0.5, 1)
    ]
    assert sweep.grids["plain"] == ({"method": "iau", "optimizer": "sgd", "learning_rate": 0.1},)
    thirds = {"ssd": {"alpha": {"log": [0.1, 0.2], "number": 4}}}
    found = files.read(write(tmp_path, methods=thirds)).grids["ssd"]
    assert [point["alpha"] for point in found] == [0.1, 0.126, 0.1587, 0.2]


def test_with_a_sampler_a_list_is_a_choice_and_a_logarithm_a_range(tmp_path):
    methods = {"ssd": {"alpha": {"log": [1, 100]}, "dampening": [0.5, 1]}}
    sweep = files.read(write(tmp_path, methods=methods, sampler="tpe", trials=9))
    assert sweep.axes["ssd"] == {"alpha": ((1.0, 100.0), True), "dampening": ((0.5, 1), False)}
    assert sweep.size("ssd") == 9


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": 4}, "expected a field of a sweep among config, requests, .* found 'model'"),
        ({"requests": None}, "expected the field 'requests'"),
        (
            {"requests": []},
            r"expected a list of one or more values \(str\) for requests, found \[\]",
        ),
        ({"models": 2}, "expected 3 to 10,000 models, found 2"),
        ({"models": True}, "expected 3 to 10,000 models, found True"),
        ({"models": 10**9}, "expected 3 to 10,000 models, found 1000000000"),
        ({"about": 3}, "expected text as 'about', found 3"),
        ({"sampler": "bayes"}, "expected a sampler among grid, random, tpe, found 'bayes'"),
        ({"sampler": "tpe"}, "expected 'trials', .* found 0 with tpe"),
        ({"trials": 5}, "expected 'trials', .* found 5 with grid"),
        ({"sampler": "random", "trials": -1}, "expected 'trials', .* found -1 with random"),
        ({"seeds": [0, 0]}, r"expected different seeds from 0 on, found \[0, 0\]"),
        ({"methods": {}}, "expected a JSON object for 'methods', found {}"),
        ({"methods": {"sdd": {}}}, "expected a method among ssd, iau, .* found 'sdd'"),
        ({"methods": {"../ssd": {"method": "ssd"}}}, "letters and digits.* found '../ssd'"),
        ({"methods": {"retrain": {}}}, "not that of a row of every table, found 'retrain'"),
        ({"methods": {"x": {"method": 3}}}, "expected the name of a method as 'method' .* found 3"),
        (
            {"methods": {"ssd": {"method": ["ssd"], "alpha": [1]}}},
            r"expected the name of a method as 'method' of 'ssd', found \[\"ssd\"\]; write",
        ),
        ({"methods": {"ssd": {"alpha": [float("nan")]}}}, "expected finite numbers for ssd.alpha"),
        (
            {"methods": {"ssd": {"alpha": {"log": [1, 2], "number": 10_000_000}}}},
            "k from 2 to 10,000, found .*10000000",
        ),
        (
            {
                "methods": {
                    "ssd": {name: {"log": [1, 2], "number": 200} for name in ("alpha", "dampening")}
                }
            },
            "expected at most 10,000 settings of 'ssd', found 40,000; leave values out",
        ),
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
        files.read(write(tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_what_is_no_sweep_file_is_refused(tmp_path):
    path = tmp_path / "sweep.json"
    with pytest.raises(FileNotFoundError, match=r"expected a sweep file at .* found none"):
        files.read(path)
    path.write_text('{"config": ')
    with pytest.raises(ValueError, match="text that breaks at line 1"):
        files.read(path)
    path.write_text('{"models": 4, "models": 5}')
    with pytest.raises(ValueError, match=r"every name once .* found models again"):
        files.read(path)
    for odd in (b"\xff", b"[" * 100_000):
        path.write_bytes(odd)
        with pytest.raises(ValueError, match="expected JSON in"):
            files.read(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"a JSON object for the sweep, found \[\]"):
        files.read(path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"requests": ["class:70"]}, "expected classes among"),
        ({"reported": ["nearest:5"]}, "expected nearest:AMOUNT"),
        ({"reported": ["class:3", "class:7,7"]}, "other forget sets than those tuned on"),
        (
            {"methods": {"finetune": {"epochs": ["many"]}}},
            "whole number from 0 on for epochs",
        ),
        ({"methods": {"finetune": {"epochs": [1, -1]}}}, "from 0 on for epochs of 'finetune'"),
        ({"methods": {"iau": {"optimizer": ["adam", "adma"]}}}, "expected a optimizer among"),
    ],
)
def test_what_the_task_cannot_do_is_one_sentence(tmp_path, task, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        tuning_jobs(files.read(write(tmp_path, **changes)), task)


def test_a_regression_is_refused(tmp_path):
    config = str(CONFIG.parent / "digits_regression.py")
    with pytest.raises(ValueError, match="expected a classification task"):
        files.read_task(files.read(write(tmp_path, config=config)))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("raise RuntimeError('boom')", "it raises RuntimeError boom"),
        ("x = 1", "expected a function get_config"),
        ("def get_config():\n    pass", "to return a ConfigDict, found NoneType"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_one_sentence(tmp_path, text, sentence):
    (tmp_path / "broken.py").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        files.read_task(files.read(write(tmp_path, config="broken.py")))


def test_a_batch_size_of_zero_is_one_sentence(tmp_path):
    text = CONFIG.read_text().replace("batch_size=64, epochs=40", "batch_size=0, epochs=40")
    (tmp_path / "zero.py").write_text(text)
    with pytest.raises(ValueError, match=r"from 1 on for training\.batch_size"):
        files.read_task(files.read(write(tmp_path, config="zero.py")))
