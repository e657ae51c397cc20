"""The regression experiment: its sets, its comparison with what was expected, its table."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from test_binaries import fails, run

from experiments import domains
from experiments.configs import digits_regression
from experiments.tasks import LOSSES, make_module, make_task
from mu_jax import reporting
from mu_jax.reporting import ForgetSet, Metric, Record


def test_the_sets_part_both_splits_by_the_target():
    config = digits_regression.get_config()
    task = make_task(config)
    sets = domains.split(task, 3.0)
    assert sets.forget.num_examples + sets.retain.num_examples == task.train.num_examples == 1437
    assert sets.test_forget.num_examples + sets.test_retain.num_examples == 360
    for low, high in ((sets.forget, sets.retain), (sets.test_forget, sets.test_retain)):
        assert np.asarray(low.targets).max() == 2 and np.asarray(high.targets).min() == 3


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
    rows = {"do nothing", "retrain", "constant (median)"} | set(
        digits_regression.get_config().methods
    )
    assert {record.method for record in records} == rows
    assert len(records) == 2 * len(rows)
    own = [r.metrics["W1 to retrained"].value for r in records if r.method == "retrain"]
    assert own == [0.0, 0.0]
    assert "a constant does not learn" in result.stdout


@pytest.mark.parametrize("name", ["agedb", "sts_b"])
def test_the_published_networks_are_built_from_their_configurations(name):
    module = importlib.import_module(f"experiments.configs.{name}")
    config = module.get_config()
    info = SimpleNamespace(num_classes=None, num_codes=50)
    network = make_module(config.model, info)
    inputs = {"agedb": np.zeros((2, 32, 32, 3), np.float32), "sts_b": np.ones((2, 2, 10), int)}[
        name
    ]
    variables = jax.eval_shape(network.init, jax.random.key(0), inputs)
    outputs = jax.eval_shape(network.apply, variables, inputs)
    assert outputs.shape[0] == 2 and np.prod(outputs.shape) == 2
    assert config.loss in LOSSES
