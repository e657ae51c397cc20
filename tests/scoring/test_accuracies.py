"""Accuracies alone are those among all that is measured."""

from __future__ import annotations

import numpy as np
import pytest

from mu_jax.scoring.ensembles import COLLAPSED, Yardstick, measure, measure_accuracies


@pytest.fixture(scope="module")
def outputs():
    random = np.random.default_rng(0)
    targets = np.arange(60) % 3
    found = random.normal(size=(3, 8, 60, 3)).astype(np.float32)
    return targets, found + 2 * np.eye(3, dtype=np.float32)[targets]


@pytest.mark.parametrize("retrained", [False, True])
@pytest.mark.parametrize("with_others", [False, True])
def test_accuracies_alone_are_those_among_all_metrics(outputs, retrained, with_others):
    targets, (own, second, third) = outputs
    positions = dict(zip(("forget", "retain", "test"), np.split(np.arange(60), [12, 40])))
    others = third if with_others else None
    yardstick = Yardstick(targets, positions, np.zeros((8, 60), np.float32), second, others=others)
    row = second if retrained else own
    everything = measure(yardstick, row, retrained=retrained)
    found = measure_accuracies(yardstick, row, retrained=retrained)
    assert set(found) == {*(f"{split} accuracy" for split in positions), COLLAPSED}
    assert all(metric == everything[name] for name, metric in found.items())
    beside = third if retrained and with_others else second
    right = beside[:, positions["forget"]].argmax(-1) == targets[positions["forget"]]
    assert found["forget accuracy"].oracle.mean == pytest.approx(right.mean())


def test_outputs_that_are_not_finite_have_no_accuracy(outputs):
    targets, (own, second, _) = outputs
    positions = {"forget": np.arange(12), "retain": np.arange(12, 60)}
    broken = own.copy()
    broken[3, 5] = np.nan
    yardstick = Yardstick(targets, positions, np.zeros((8, 60), np.float32), second)
    found = measure_accuracies(yardstick, broken)
    assert found["forget accuracy"].value is None
    assert "1 of 8 models" in found["retain accuracy"].reason
    assert found[COLLAPSED].n == 8


def test_the_attack_is_run_on_as_many_models_as_asked(outputs):
    targets, (own, second, _) = outputs
    positions = dict(zip(("forget", "retain", "test"), np.split(np.arange(60), [12, 40])))
    oracles = np.zeros((8, 60), np.float32)
    for number in (1, 8):
        yardstick = Yardstick(targets, positions, oracles, second, attacked=number)
        assert measure(yardstick, own)["MIA"].n == number
