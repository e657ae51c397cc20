from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from mu_jax import evaluation


def published_threshold(members, others):
    """Every value tried in turn; the balanced accuracy of the best."""
    return max(
        ((members >= value).mean() + (others < value).mean()) / 2
        for value in np.concatenate([members, others])
    )


@pytest.mark.parametrize("levels", [2, 9, 10_000])
def test_best_threshold_equals_trying_every_value(levels):
    rng = np.random.default_rng(levels)
    members, others = rng.integers(0, levels, 71) + levels // 5, rng.integers(0, levels, 90)
    found = evaluation.best_threshold(members, others)
    reached = ((members >= found.threshold).mean() + (others < found.threshold).mean()) / 2
    assert found.balanced_accuracy == pytest.approx(reached, abs=1e-12)
    assert reached == pytest.approx(published_threshold(members, others), abs=1e-12)


def test_balanced_accuracy_is_the_kolmogorov_smirnov_statistic():
    rng = np.random.default_rng(0)
    members, others = rng.normal(0.3, 1, 80), rng.normal(size=120)
    distance = scipy.stats.ks_2samp(members, others, alternative="less").statistic
    found = evaluation.best_threshold(members, others).balanced_accuracy
    assert found == pytest.approx((1 + distance) / 2, abs=1e-12)


def test_of_equally_good_thresholds_the_largest_is_taken():
    assert evaluation.best_threshold([1.0, 2.0, 3.0], [0.0, 2.0, 2.5]).threshold == 3.0
    assert evaluation.best_threshold([5.0, 3.0], [1.0, 4.0]).balanced_accuracy == 0.75


def test_floor_is_the_mean_over_samples_of_one_distribution():
    rng = np.random.default_rng(0)
    found = [
        evaluation.best_threshold(*rng.normal(size=(2, 400))).balanced_accuracy for _ in range(300)
    ]
    floor = evaluation.balanced_accuracy_floor(400, 400)
    assert np.mean(found) == pytest.approx(floor, abs=0.002)
    assert floor > 0.52


def test_summary_gathers_the_single_numbers():
    rng = np.random.default_rng(1)
    members, others = rng.normal(1, 1, 700), rng.normal(size=1500)
    found = evaluation.attack_summary(members, others, fpr=(0.001, 0.1))
    assert found.auc == evaluation.auc(members, others)
    assert found.auc_null_std == evaluation.auc_null_std(700, 1500)
    assert found.fpr == (0.001, 0.1)
    assert found.tpr == tuple(evaluation.tpr_at_fpr(members, others, f) for f in found.fpr)
    assert found.balanced_accuracy == evaluation.best_threshold(members, others).balanced_accuracy
    assert found.balanced_accuracy_floor == evaluation.balanced_accuracy_floor(700, 1500)
    assert (found.members, found.nonmembers) == (700, 1500)


def test_too_few_nonmembers_for_a_rate_and_constant_scores_are_refused():
    ramp = np.arange(500.0)
    with pytest.raises(ValueError, match="at least 1000 non-members"):
        evaluation.attack_summary(ramp, ramp)
    with pytest.raises(ValueError, match="differ between examples"):
        evaluation.best_threshold(ramp * 0, ramp * 0)
    with pytest.raises(ValueError, match="finite member scores"):
        evaluation.best_threshold([np.nan], ramp)
