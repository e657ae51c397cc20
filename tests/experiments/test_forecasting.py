"""Forgetting clients of the electricity data: on a small file of the published layout."""

from __future__ import annotations

import datetime

import jax
import numpy as np
import pytest
from test_binaries import fails, run

from experiments.configs import electricity
from experiments.lib import constant, domains, tasks
from mu_jax import datasets, reporting
from mu_jax.scoring import kinds

START = datetime.datetime(2011, 1, 1)
DAYS = (1306, 1346)  # days without a line before them are missing
CONFIG = """
from experiments.configs import electricity

def get_config():
    config = electricity.get_config()
    config.update(data_dir="{folder}", forget="client:2", limit=60, batch_size=64)
    config.model.update(hidden_size=4, num_heads=2, known=[1])
    config.training.update(epochs=1, batch_size=32)
    config.methods = {{name: dict(config.methods[name]) for name in ("neg_grad_plus",)}}
    return config
"""


def write(folder, clients=("MT_001", "MT_002", "MT_003")):
    """Quarter hours of a daily rhythm that is another for every client."""
    folder.mkdir(exist_ok=True)
    with (folder / "LD2011_2014.txt").open("w") as file:
        file.write(";".join(f'"{name}"' for name in ("", *clients)) + "\n")
        file.write(f'"{START:%Y-%m-%d %H:%M:%S}";' + ";".join("0" for _ in clients) + "\n")
        for quarter in range(96 * DAYS[0], 96 * DAYS[1]):
            time = START + datetime.timedelta(minutes=15 * quarter)
            loads = (9 + 3 * np.sin(quarter / (8 + n)) + 0.1 * n for n in range(len(clients)))
            numbers = (f"{load:.5g}".replace(".", ",") for load in loads)
            file.write(f'"{time:%Y-%m-%d %H:%M:%S}";' + ";".join(numbers) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("load")
    write(root / "electricity")
    return root


@pytest.fixture(scope="module")
def task(folder):
    config = electricity.get_config()
    config.update(data_dir=str(folder), limit=None)
    config.model.update(hidden_size=4, num_heads=2)
    return tasks.make_task(config)


def clients(examples):
    return set((np.asarray(examples.index) // 100_000).tolist())


@pytest.mark.slow
def test_a_domain_of_clients_parts_training_and_test(task):
    sets = domains.split(task, "client:2-3")
    assert clients(sets.forget) == clients(sets.test_forget) == {2, 3}
    assert clients(sets.retain) == clients(sets.test_retain) == {1}
    # Windows of other clients share no hour with them: none is dropped.
    assert sets.forget.num_examples + sets.retain.num_examples == task.train.num_examples == 75
    assert sets.test_forget.num_examples == 2 * sets.test_retain.num_examples == 2 * 145


def test_windows_that_overlap_a_forgotten_forecast_are_in_neither_set(task):
    ids = np.asarray(task.train.index)[:2]
    forget, retain = tasks.split(task, ids)
    dropped = np.setdiff1d(task.train.index, np.concatenate([forget.index, retain.index]))
    expected = datasets.overlapping_windows(task.sources["train"], ids)
    assert sorted(forget.index.tolist()) == sorted(ids.tolist())
    np.testing.assert_array_equal(dropped, expected)
    assert 0 < dropped.size < 50


def test_the_point_forecast_is_the_median_and_a_constant_has_one_for_every_hour(task):
    outputs = jax.eval_shape(
        task.model.apply, jax.eval_shape(task.init, jax.random.key(0)), task.train.inputs[:2]
    )
    assert outputs.shape == (2, 24, 3)
    forecasts = np.arange(2 * 24 * 3).reshape(2, 24, 3)
    np.testing.assert_array_equal(
        kinds.point(forecasts, np.zeros((2, 24))), np.arange(1, 144, 3).reshape(2, 24)
    )
    _, retain = tasks.split(task, tasks.read_ids(task, "client:1"))
    found = constant.constant_outputs(task, retain, 5)
    np.testing.assert_allclose(found, [np.median(retain.targets, axis=0)] * 5, rtol=1e-6)
    assert np.ptp(found, axis=1).min() > 0 and kinds.collapse_of_regression(found).flag


@pytest.mark.parametrize("domain", ["client:9", "random:5", "below:0", "client:1-3"])
def test_bad_domains_are_one_sentence(task, domain):
    with pytest.raises(ValueError, match=r"^expected [^\n]*, found [^\n]*[^.]$"):
        domains.split(task, domain)


@pytest.mark.slow
def test_the_experiment_runs_on_forecasts(folder, tmp_path):
    (tmp_path / "tiny.py").write_text(CONFIG.format(folder=folder))
    arguments = [f"--config={tmp_path}/tiny.py", f"--workdir={tmp_path}/run", "--seeds=1"]
    result = run("regression", *arguments, timeout=900)  # compiling is most of it
    assert result.returncode == 0, result.stderr
    records = reporting.read(tmp_path / "run/results.jsonl")
    rows = {"do nothing", "retrain", "constant", "neg_grad_plus"}
    assert sorted(record.method for record in records) == sorted(rows)
    for record in records:
        assert record.forget_set.kind == "client:2" and record.forget_set.size > 10
        assert (record.status == "collapsed") == (record.method == "constant")
        for name in ("retain test MAE", "forget test MAE", "W1 to retrained", "paired distance"):
            assert record.metrics[name].value is not None
    assert {r.metrics["retain test MAE"].n for r in records} == {2 * 145}
    assert "found '9'" in fails("regression", *arguments, "--config.forget=client:9")
