"""The regression experiment: its sets, its comparison with what was expected, its table."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from recomputed import assert_equal
from test_binaries import fails, run

from experiments.configs import diabetes, digits_regression
from experiments.lib import domains
from experiments.lib.tasks import LOSSES, in_units, make_module, make_task
from mu_jax import reporting
from mu_jax.reporting import ForgetSet, Metric, Record
from mu_jax.scoring.single import membership


def test_the_sets_part_both_splits_by_the_target():
    config = digits_regression.get_config()
    task = make_task(config)
    sets = domains.split(task, "below:3")
    assert sets.forget.num_examples + sets.retain.num_examples == task.train.num_examples == 1437
    assert sets.test_forget.num_examples + sets.test_retain.num_examples == 360
    for low, high in ((sets.forget, sets.retain), (sets.test_forget, sets.test_retain)):
        assert np.asarray(low.targets).max() == 2 and np.asarray(high.targets).min() == 3


def test_a_bound_is_in_the_units_of_the_dataset():
    task = make_task(diabetes.get_config())
    sets = domains.split(task, task.config.forget)
    forget, retain = (in_units(task, np.asarray(part.targets)) for part in sets[:2])
    assert 25 <= forget.min() < forget.max() < 75 <= retain.min() < retain.max() <= 346
    assert forget.size == 65


def test_domains_that_say_nothing_of_test_examples_are_refused():
    task = make_task(diabetes.get_config())
    for domain in ("random:0.1", "ids:3", "class:1", "client:2"):
        with pytest.raises(ValueError, match=r"^expected a domain such as below:3\.5, above:60, "):
            domains.split(task, domain)
    with pytest.raises(ValueError, match=r"found them on one side only; choose another domain$"):
        domains.split(task, "below:35")


@pytest.mark.slow
def test_the_embedded_regression_beats_the_constant(tmp_path):
    config = "--config=experiments/configs/diabetes.py"
    result = run("regression", config, f"--workdir={tmp_path}/d", "--seeds=1", timeout=600)
    assert result.returncode == 0, result.stderr
    found = {
        record.method: [record.metrics[f"{part} test MAE"].value for part in ("retain", "forget")]
        for record in reporting.read(tmp_path / "d/results.jsonl")
    }
    assert set(found) == {"do nothing", "retrain", "constant", *diabetes.get_config().methods}
    for method in ("do nothing", "retrain"):
        assert found[method][0] < 0.8 * found["constant"][0]
        assert found[method][1] < 0.8 * found["constant"][1]
    assert "Forget set: below:75, 65 examples" in result.stdout
    run_of = reporting.read_run(tmp_path / "d/results.jsonl")
    (arrays,) = run_of.arrays.values()
    for record in run_of.records:
        check_numbers(record, arrays)


def check_numbers(record, arrays):
    """Every number of a record is that of the arrays."""
    sets, seed = arrays.examples[record.method], record.seed
    errors = {n: np.abs(x.predictions[seed] - x.targets).mean() for n, x in sets.items()}
    mine = sets["forget"].predictions[seed]
    reference = arrays.examples["retrain"]["forget"].predictions[seed]
    attack = membership(sets["forget"].losses[seed], sets["forget test"].losses[seed], seed)
    wanted = {
        "retain test MAE": errors["test"],
        "forget test MAE": errors["forget test"],
        "W1 to retrained": np.abs(np.sort(mine) - np.sort(reference)).mean(),
        "paired distance": np.abs(mine - reference).mean(),
        "MIA": attack.value,
    }
    assert_equal(record, wanted)
    if record.method in arrays.relearning:
        curve = arrays.relearning[record.method].values[seed]
        steps = record.metrics["relearn steps"].value
        assert curve.size > 1 and 0 <= steps < curve.size


def test_means_beyond_two_deviations_are_marked():
    metrics = ("retain test MAE", "forget test MAE", "W1 to retrained")
    records = [
        Record("ssd", ForgetSet("low", 3), seed, {name: Metric(1.0 + seed) for name in metrics})
        for seed in (0, 1)
    ]
    text = domains.compare(records, {"ssd": ((1.5, 1.3, 1.0), (0.1, 0.1, 0.2))})
    cells = text.splitlines()[1].split(")")
    assert [cell.startswith("!") for cell in cells[1:]] == [False, False, True]


@pytest.mark.slow
def test_every_row_has_its_numbers_and_a_constant_stands_beside(tmp_path):
    assert "regression task" in fails("regression", "--config=experiments/configs/digits.py")
    result = run("regression", f"--workdir={tmp_path}/r", "--seeds=2", "--config.training.epochs=8")
    assert result.returncode == 0, result.stderr
    records = reporting.read(tmp_path / "r/results.jsonl")
    rows = {"do nothing", "retrain", "constant"} | set(digits_regression.get_config().methods)
    assert {record.method for record in records} == rows
    assert len(records) == 2 * len(rows)
    assert {r.method for r in records if r.status == "collapsed"} == {"constant"}
    own = [r.metrics["W1 to retrained"].value for r in records if r.method == "retrain"]
    assert own == [0.0, 0.0]
    assert "a constant does not learn" in result.stdout


@pytest.mark.parametrize("name", ["agedb", "sts_b", "electricity"])
def test_the_published_networks_are_built_from_their_configurations(name):
    module = importlib.import_module(f"experiments.configs.{name}")
    config = module.get_config()
    info = SimpleNamespace(num_classes=None, num_codes=50)
    network = make_module(config.model, info)
    inputs = {
        "agedb": np.zeros((2, 32, 32, 3), np.float32),
        "sts_b": np.ones((2, 2, 10), int),
        "electricity": np.zeros((2, 192, 5), np.float32),
    }[name]
    variables = jax.eval_shape(network.init, jax.random.key(0), inputs)
    outputs = jax.eval_shape(network.apply, variables, inputs)
    assert outputs.shape[0] == 2
    assert np.prod(outputs.shape) == (2 * 24 * 3 if name == "electricity" else 2)
    assert config.loss in LOSSES
