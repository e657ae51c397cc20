from __future__ import annotations

import types

import numpy as np

from experiments import ensemble
from mu_jax import evaluation
from mu_jax.scoring import kinds
from mu_jax.scoring.single import membership


def test_records_hold_the_standard_error_of_the_attack_not_the_spread_of_its_splits():
    forget, test = np.random.default_rng(0).exponential(size=(2, 300))
    attack = evaluation.loss_mia(forget, test, seed=1)
    metric = membership(forget, test, 1)
    assert metric.stderr == attack.accuracy_stderr
    # Sampling errors of 600 decisions that are drawn again with repetitions, sqrt(1.9 p q / 600).
    assert 0.5 < metric.stderr / np.sqrt(1.9 * 0.25 / 600) < 2
    assert 1.7 < attack.accuracy_std / metric.stderr < 2


def test_outputs_that_are_nan_have_no_accuracy():
    broken = np.full((30, 3), np.nan, np.float32)
    assert np.isnan(kinds.accuracy(broken, np.zeros((30, 3), int)))
    assert np.isnan(kinds.accuracy(broken, np.zeros(30, int)))
    mixed = np.array([[1.0, -1.0, 1.0, 1.0]])
    assert kinds.accuracy(mixed, np.array([[1, 0, 0, 1]])) == 0.75
    task = types.SimpleNamespace(info=types.SimpleNamespace(task="classification"))
    values, _ = ensemble._quality(task, np.stack([broken, broken * 0 + 1]), np.zeros(30, int))
    assert np.isnan(values[0]).all()
