from __future__ import annotations

import numpy as np

from experiments.lib import scoring
from mu_jax import evaluation


def test_records_hold_the_standard_error_of_the_attack_not_the_spread_of_its_splits():
    forget, test = np.random.default_rng(0).exponential(size=(2, 300))
    attack = evaluation.loss_mia(forget, test, seed=1)
    metric = scoring.membership(forget, test, 1)
    assert metric.stderr == attack.accuracy_stderr
    # Sampling errors of 600 decisions that are drawn again with repetitions, sqrt(1.9 p q / 600).
    assert 0.5 < metric.stderr / np.sqrt(1.9 * 0.25 / 600) < 2
    assert 1.7 < attack.accuracy_std / metric.stderr < 2
