"""The corrective binary: what its cases are, that it tells poison from repair, bad input."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from in_process import refused

from experiments.configs import corrective_cifar10, corrective_digits
from experiments.lib.cases import make_case
from experiments.lib.methods import Request, make_method
from experiments.lib.tasks import make_module, make_task, training_optimizer
from mu_jax import datasets, reporting

ROOT = pathlib.Path(__file__).parents[2]


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.corrective", *arguments],
        cwd=ROOT,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def task():
    return make_task(corrective_digits.get_config())


@pytest.mark.parametrize(
    "place, value, said",
    [
        ("trigger.nosuch", 1, "expected a field of trigger among size, value, found 'nosuch'"),
        ("manipulations.poison.nosuch", 1, "a field of manipulations.poison among count, label"),
        ("methods_of.poison.ssd.nosuch", 1.0, "expected methods_of.poison to change fields that"),
        ("methods_of.poison.ssd.alpha", "x", "expected methods_of.poison to change fields that"),
        ("methods_of.poison.ssd", 3, "expected methods_of.poison to change fields that"),
        ("methods_of.poison", [3], "expected methods_of.poison to change fields that"),
        ("methods_of", 3, "expected methods_of.poison to change fields that"),
    ],
)
def test_fields_that_change_nothing_there_is_are_one_sentence(task, place, value, said):
    config = corrective_digits.get_config().unlock()
    *owners, name = place.split(".")
    owner = config
    for each in owners:
        owner = owner[each]
    with owner.ignore_type():
        owner[name] = value
    with pytest.raises(ValueError, match=r"^expected ") as caught:
        make_case(dataclasses.replace(task, config=config.lock()), "poison")
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_poison_trains_on_triggers_and_is_scored_on_them(task):
    case = make_case(task, "poison")
    given, changed = (datasets.Examples(*map(np.asarray, (t.train.inputs, t.train.targets,
        t.train.index))) for t in (task, case.task))  # fmt: skip
    drawn = np.isin(changed.index, case.ids)
    assert drawn.sum() == 80 and (changed.targets[drawn] == 0).all()
    assert (changed.inputs[drawn, -2:, -2:] == 1.0).all()
    np.testing.assert_array_equal(changed.inputs[~drawn], given.inputs[~drawn])
    assert (given.targets[drawn] != 0).all()

    test = np.asarray(case.task.test.inputs)
    assert (test[case.affected, -2:, -2:] == 1.0).all()
    np.testing.assert_array_equal(test[case.retained], task.test.inputs)
    np.testing.assert_array_equal(case.targets(case.affected), task.test.targets)


def test_images_of_the_trigger_class_are_not_scored(task):
    case = make_case(task, "poison")
    targets = np.asarray(case.task.test.targets)
    size = case.task.train.num_examples
    outputs = np.zeros((2, size + targets.size, 10), np.float32)
    outputs[0, :, 0] = 1.0  # the trigger always works
    outputs[1, size + np.arange(targets.size), targets] = 1.0
    curve = case.curve([0.5], [outputs])
    assert curve.corrected.tolist() == [[0.0, 1.0]]
    assert curve.n_corrected == (np.asarray(task.test.targets) != 0).sum()


def test_interclass_is_scored_on_the_two_classes_and_retains_the_others(task):
    case = make_case(task, "interclass")
    changed = np.asarray(case.task.train.targets)
    moved = changed != np.asarray(task.train.targets)
    np.testing.assert_array_equal(np.sort(np.asarray(task.train.index)[moved]), case.ids)
    assert set(changed[moved]) == {3, 8}
    assert set(case.targets(case.affected)) == {3, 8}
    assert set(case.targets(case.retained)) == {0, 1, 2, 4, 5, 6, 7, 9}
    assert case.affected.size + case.retained.size == task.test.num_examples
    assert max(case.affected.max(), case.retained.max()) < task.test.num_examples  # no trigger


def test_methods_may_have_other_settings_for_a_manipulation(task):
    assert make_case(task, "poison").task.config.methods.ssd.to_dict() == {
        "alpha": 3.0,
        "dampening": 0.5,
    }
    assert make_case(task, "interclass").task.config.methods.ssd.alpha == 20.0
    assert task.config.methods.ssd.alpha == 20.0


def test_the_published_setting_can_be_built(task):
    config = corrective_cifar10.get_config()
    info = task.info._replace(input_shape=(32, 32, 3))
    shapes = jax.eval_shape(
        make_module(config.model, info).init, jax.random.key(0), jax.numpy.ones((1, 32, 32, 3))
    )
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == 2_274_880
    case = make_case(task, "poison")
    case.task.config.update(training=config.training, methods=config.methods)
    training_optimizer(case.task, case.task.train).init({"w": jax.numpy.ones(2)})
    for name in config.methods:
        make_method(case.task, name, Request(case.task.train, pathlib.Path()))


@pytest.mark.slow
def test_a_run_prints_curves_and_writes_records(tmp_path):
    methods = ["--config.methods.finetune.epochs=1", "--config.limit=400"]
    fast = ["--config.training.epochs=2", "--config.manipulations.poison.count=40"]
    result = run(
        f"--workdir={tmp_path}", "--manipulations=poison", "--fractions=1", "--seeds=2", *methods,
        *fast,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    records = reporting.read(tmp_path / "results.jsonl")
    expected = {"retrain", "do nothing", "retrain without the known", "ssd", "iau", "finetune"}
    assert {record.method for record in records} == expected | {"constant", "gradient_ascent"}
    assert {record.seed for record in records} == {0, 1}
    assert all({"corrected accuracy", "retained accuracy"} == set(r.metrics) for r in records)
    assert records[0].forget_set.kind == "poison, 40 of 40 known"
    (arrays,) = reporting.read_run(tmp_path / "results.jsonl").arrays.values()
    for record in records:
        sets = arrays.examples[record.method]
        assert sets["forget"].ids.size == 40 and set(sets["forget"].targets) == {0}
        for name, part in (("corrected", "affected"), ("retained", "test")):
            hits = (sets[part].predictions == sets[part].targets)[record.seed]
            metric = record.metrics[f"{name} accuracy"]
            assert metric.value == pytest.approx(hits.mean()) and metric.n == hits.size
    for text in ("Corrected accuracy by the known part", "100% known", "closer to", "Records: "):
        assert text in result.stdout


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--fractions=0.1,2"], "in (0, 1]"),
        (["--manipulations=backdoor"], "poison, interclass"),
        (["--config", f"{ROOT}/experiments/configs/digits.py"], "with manipulations"),
    ],
)
def test_bad_input_is_one_line(tmp_path, arguments, said):
    assert said in refused("corrective", f"--workdir={tmp_path}/a", *arguments)
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--config.manipulations.poison.label=11"], "found [11]"),
        (["--config.manipulations.interclass.count=7"], "even count"),
        (["--config.trigger.size=9"], "size 9"),
        (["--config.dataset=diabetes"], "regression"),
        (["--config.dataset=cifar10", "--config.data_dir=/nowhere"], "/nowhere"),
    ],
)
def test_bad_settings_are_one_line(tmp_path, arguments, said):
    test_bad_input_is_one_line(tmp_path, arguments, said)


@pytest.mark.slow
def test_the_published_findings_hold_on_digits(tmp_path):
    """Retraining needs to know nearly all; SSD repairs a trigger, and not confused classes."""
    result = run(f"--workdir={tmp_path}", "--fractions=0.1,1")
    assert result.returncode == 0, result.stderr
    found: dict[tuple, list[float]] = {}
    for record in reporting.read(tmp_path / "results.jsonl"):
        key = (record.forget_set.kind, record.method)
        found.setdefault(key, []).append(record.metrics["corrected accuracy"].value)
    mean = {key: np.mean(values) for key, values in found.items()}
    tenth, all_of_it = "poison, 8 of 80 known", "poison, 80 of 80 known"
    assert mean[tenth, "do nothing"] < 0.1 < 0.85 < mean[tenth, "retrain"]
    assert mean[tenth, "retrain without the known"] < 0.1
    assert mean[all_of_it, "retrain without the known"] > 0.85
    assert mean[all_of_it, "ssd"] > 0.8
    confused = "interclass, 80 of 80 known"
    assert mean[confused, "ssd"] < mean[confused, "retrain"] - 0.1
