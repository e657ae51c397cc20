"""Ensembles and the benchmark as a user runs them, on a task that takes seconds."""

from __future__ import annotations

import re

import numpy as np
import pytest
from in_process import refused
from test_binaries import fails, run

from experiments.configs import digits
from experiments.lib.populations import positions, train_population, train_subsets
from experiments.lib.rows import Row, Study, constant, study
from experiments.lib.tables import ordering
from experiments.lib.tables import records as records_of
from experiments.lib.tasks import make_task, read_ids, split
from mu_jax import ensembles, evaluation, reporting
from mu_jax.scoring.ensembles import Yardstick, klom_of, measure

SMALL = ["--config.training.epochs=20", "--config.limit=120"]


@pytest.fixture(scope="module")
def task():
    config = digits.get_config()
    config.limit, config.training.epochs = 120, 20
    for method in ("dmm", "iau", "gradient_ascent"):
        del config.methods[method]
    return make_task(config)


@pytest.mark.slow
def test_a_population_is_reused_and_another_seed_is_another_one(task, tmp_path, capfd):
    first = train_population(task, tmp_path, "first", models=3)
    assert re.fullmatch(r"  first: [\d.]+ s\n", capfd.readouterr().err)
    again = train_population(task, tmp_path, "again", models=3)
    assert capfd.readouterr().err == ""
    np.testing.assert_array_equal(first.outputs, again.outputs)
    other = train_population(task, tmp_path, "other", models=3, seed=1)
    assert not np.allclose(other.outputs, first.outputs)
    expected = task.model.apply(first.model(1), task.test.inputs)
    np.testing.assert_allclose(first.outputs[1, task.train.num_examples :], expected, atol=1e-5)


@pytest.mark.slow
def test_subsets_complement_each_other_and_leave_out_what_they_say(task, tmp_path):
    found = train_subsets(task, tmp_path, "halves", models=4, fraction=0.5)
    assert found.masks.shape == (4, task.train.num_examples)
    np.testing.assert_array_equal(found.masks[0::2], ~found.masks[1::2])
    assert not np.array_equal(found.masks[0], found.masks[2])
    targets = np.asarray(task.train.targets)
    correct = found.outputs[:, : targets.size].argmax(-1) == targets
    assert correct[found.masks].mean() > correct[~found.masks].mean()
    with pytest.raises(ValueError, match=r"expected a fraction in \(0, 1\), found 1"):
        train_subsets(task, tmp_path, "all", models=4, fraction=1.0)


@pytest.mark.slow
def test_a_study_puts_retraining_at_the_floor_and_doing_nothing_above(task, tmp_path):
    ids = read_ids(task, "class:3")
    originals = train_population(task, tmp_path, "originals", models=24)
    found = study(task, ids, originals, tmp_path)
    assert [row.name for row in found.rows[:2]] == ["retrain", "do nothing"]
    assert {row.name for row in found.rows[2:]} == {"constant", *task.config.methods}
    forget = found.yardstick.positions["forget"]
    p95 = {row.name: np.percentile(found.klom[row.name][forget], 95) for row in found.rows}
    assert p95["retrain"] == min(p95.values()) < p95["do nothing"]
    records = records_of(found, reporting.ForgetSet("class 3", len(ids)))
    for record in records:
        metric = record.metrics["KLoM forget p95"]
        assert metric.value == pytest.approx(p95[record.method])
        assert metric.null == pytest.approx(p95["retrain"]) and metric.n == 24
        assert metric.low is None or metric.low <= metric.value <= metric.high
        assert (record.status == "collapsed") == (record.method == "constant")
    text = ordering(found, "class:3")
    order = [line.split("  ")[1] for line in text.splitlines()[2:-2]]
    assert order[0] == "retrain (the floor)"
    assert "[" in text


def test_retrained_models_stand_beside_others_and_few_values_have_no_interval():
    random, labels = np.random.default_rng(0), np.arange(60) % 3
    logits = 2 * np.eye(3)[labels] + random.normal(size=(3, 10, 60, 3))
    where = {"forget": np.arange(10), "retain": np.arange(10, 40), "test": np.arange(40, 60)}
    margins = np.asarray(evaluation.margins(logits[0], labels))
    yardstick = Yardstick(labels, where, margins, logits[1], others=logits[0])
    correct = (logits.argmax(-1) == labels)[..., where["retain"]].mean((1, 2))
    retrained = measure(yardstick, logits[1], retrained=True)
    unlearned = measure(yardstick, logits[2])
    for found, value, oracle in ((retrained, 1, 0), (unlearned, 2, 1)):
        assert found["retain accuracy"].value == pytest.approx(correct[value])
        assert found["retain accuracy"].oracle.mean == pytest.approx(correct[oracle])
        assert found["retain accuracy"].low < correct[value] < found["retain accuracy"].high
        assert found["MIA"].n == 5 and found["MIA"].low is None
        assert "expected at least 8 values, found 5" in found["MIA"].no_interval
    forget = "KLoM forget p95"
    assert retrained[forget].null == retrained[forget].value == unlearned[forget].null
    same = measure(yardstick, np.broadcast_to(logits[1, 0], logits[1].shape))["retain accuracy"]
    assert same.low is None and "differ" in same.no_interval


def test_rows_below_the_floor_are_not_ranked_in_the_order_of_methods():
    random, labels = np.random.default_rng(0), np.arange(80) % 3
    logits = 2 * np.eye(3)[labels] + random.normal(size=(5, 10, 80, 3))
    where = {"forget": np.arange(80), "retain": np.arange(0), "test": np.arange(0)}
    margins = np.asarray(evaluation.margins(logits[0], labels))
    yardstick = Yardstick(labels, where, margins, logits[1])
    rows = [
        Row("retrain", logits[1]),
        Row("do nothing", 3 * logits[2]),
        Row("spoiled", logits[0]),  # the oracles themselves: no honest method is as close
        Row("ssd", logits[3] + 1.5 * np.eye(3)[labels]),
    ]
    lines = ordering(Study(None, yardstick, rows), "class:3").splitlines()
    assert lines[2].startswith("  retrain (the floor)")
    order = [line.split()[0] for line in lines[3:-2]]
    assert set(order[:2]) == {"do", "ssd"} and order[2] == "spoiled"
    assert lines[5].endswith("0.00   below the floor: not ranked")


@pytest.mark.slow
def test_the_constant_row_says_the_majority_of_what_is_retained(task, tmp_path):
    ids = read_ids(task, "class:3")
    _, retain = split(task, ids)
    row = constant(task, retain, 5)
    counts = np.bincount(np.asarray(retain.targets), minlength=10)
    assert row.outputs.shape == (5, task.train.num_examples + task.test.num_examples, 10)
    expected = np.log((counts + 1) / (counts.sum() + 10))
    np.testing.assert_allclose(row.outputs[3, 7], expected, rtol=1e-6)
    assert counts[3] == 0 and row.outputs[0, 0].argmax() == counts.argmax()
    originals = train_population(task, tmp_path, "originals", models=4)
    margins = np.asarray(evaluation.margins(originals.outputs, _targets(task)))
    yardstick = Yardstick(_targets(task), positions(task, ids), margins, originals.outputs)
    assert np.isfinite(klom_of(yardstick, row.outputs)).all()


@pytest.mark.slow
def test_oracles_that_equal_the_retrained_models_leave_nothing_to_tell_apart(task, tmp_path):
    ids = read_ids(task, "class:3")
    retrained = train_population(task, tmp_path, "r", models=48, seed=1)
    margins = np.asarray(evaluation.margins(retrained.outputs[24:], _targets(task)))
    yardstick = Yardstick(_targets(task), positions(task, ids), margins, retrained.outputs[24:])
    assert klom_of(yardstick, retrained.outputs[24:]).max() < 1e-6


def _targets(task):
    return np.concatenate([task.train.targets, task.test.targets])


@pytest.mark.slow
def test_ensemble_trains_reuses_and_exports(tmp_path):
    flags = [f"--workdir={tmp_path}/e", "--models=4", "--request=class:3", *SMALL]
    result = run("ensemble", *flags, f"--export={tmp_path}/oracles.npz")
    assert result.returncode == 0, result.stderr
    assert "without 8 examples (class:3)" in result.stdout
    assert re.search(r"test accuracy: 0\.\d+ ± 0\.\d+ over models", result.stdout)
    assert ensembles.load_margins(tmp_path / "oracles.npz").values.shape == (4, 120 + 297)


def test_bad_input_is_one_line(tmp_path):
    workdir = f"--workdir={tmp_path}/b"
    assert "at least 20 models" in refused("benchmark", workdir, "--models=5", *SMALL)
    listed = tmp_path / "listed.py"
    listed.write_text(
        "from experiments.configs import digits\n"
        "def get_config():\n"
        "    config = digits.get_config()\n"
        "    config.requests = 'class:3'\n"
        "    return config\n"
    )
    assert "a list of texts for requests" in refused("benchmark", workdir, f"--config={listed}")
    assert "both" in refused("ensemble", workdir, "--request=class:3", "--fraction=0.5", *SMALL)
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_the_benchmark_from_end_to_end_and_with_loaded_oracles(tmp_path):
    flags = [f"--workdir={tmp_path}/b", "--models=20", *SMALL]
    requests = ["--requests=random:0.2:seed=1", "--requests=class:3"]
    result = run("benchmark", *flags, *requests)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("(the floor)") == 2
    records = reporting.read(tmp_path / "b/results.jsonl")
    assert {r.method for r in records} == {
        "retrain",
        "do nothing",
        "constant",
        *digits.get_config().methods,
    }
    page = (tmp_path / "b/table.md").read_text()
    assert page.count("(the floor)") == 2 and "| do nothing | 1 |" in page
    (retrained,) = (r for r in records if r.method == "retrain" and r.forget_set.kind == "class:3")
    assert retrained.cost.wall_s > 0 and retrained.cost.forward == 20 * (120 - 8)
    exported = f"--export={tmp_path}/oracles.npz"
    ensemble = [f"--workdir={tmp_path}/e", "--models=30", "--request=class:3", *SMALL]
    assert run("ensemble", *ensemble, exported).returncode == 0
    oracles = f"--oracles={tmp_path}/oracles.npz"
    again = run("benchmark", *flags, "--requests=class:3", oracles)
    assert again.returncode == 0, again.stderr
    assert "20 models against 30 oracles" in again.stdout
    other = fails("benchmark", *flags, "--requests=class:4", oracles)
    assert "without the forget set" in other
