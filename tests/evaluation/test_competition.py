from __future__ import annotations

import jax
import numpy as np
import pytest

from mu_jax import evaluation

DELTA, CAP, DENSITY, BUFFER = 1e-5, 50.0, 100, 2.0


def bound(false_positives, false_negatives):
    """Epsilon that one decision rule shows; NaN for rules that are thrown away."""
    if false_positives == 0 and false_negatives == 0:
        return np.inf
    if false_positives == 0 or false_negatives == 0:
        return np.nan
    with np.errstate(invalid="ignore"):
        sides = [
            np.log(1 - DELTA - false_positives) - np.log(false_negatives),
            np.log(1 - DELTA - false_negatives) - np.log(false_positives),
        ]
    return np.nan if np.isnan(sides).all() else max(np.nanmax(sides), 0.0)


def published_epsilon(oracle, unlearned):
    """One example by the released procedure, rule after rule, in float64."""
    if np.median(oracle) > np.median(unlearned):
        positive, negative = oracle, unlearned
    else:
        positive, negative = unlearned, oracle
    widths = np.ptp(positive), np.ptp(negative)
    if min(widths) / max(widths) < 0.01:
        return CAP
    pooled = np.concatenate([positive, negative])
    number = int(np.ceil((pooled.max() - pooled.min()) * DENSITY))
    found = [
        bound(np.mean(negative >= threshold), np.mean(positive < threshold))
        for threshold in np.linspace(pooled.min(), pooled.max(), number)
    ]
    if widths[0] >= widths[1]:
        positive, negative = negative, positive
    width = np.ptp(positive)
    low, high = positive.min() + width - BUFFER, positive.max() + BUFFER
    for right in np.linspace(low, high, int(np.ceil((high - low) * DENSITY))):
        lefts = np.linspace(right - width - BUFFER, right - width + BUFFER, 400)[:, None]
        said = [((lefts <= sample) & (sample <= right)).sum(1) for sample in (positive, negative)]
        for inside, false in set(zip(*(counts.tolist() for counts in said))):
            missed = positive.size - inside
            found.append(bound(false / negative.size, missed / positive.size))
    found = [epsilon for epsilon in found if not np.isnan(epsilon)]
    return np.clip(max(found), 0, CAP)


def published_score(epsilon, models):
    """Mean points with the released table of buckets."""
    largest, buckets, start, points = np.ceil(np.log(models - 1)), {}, 0.0, 1.0
    while start + 0.5 <= largest:
        buckets[start] = points
        start, points = start + 0.5, points / 2
    total = 0.0
    for value in epsilon:
        for start, points in buckets.items():
            if value < start + 0.5:
                total += points
                break
    return total / len(epsilon)


def shifted_gaussians(models, seed=0):
    """Margins whose eight columns are shifted more and more; the last unlearned one collapsed."""
    rng = np.random.default_rng(seed)
    oracle = rng.normal(size=(models, 8))
    unlearned = rng.normal(size=(models, 8)) * [1, 1, 0.5, 2, 1, 1, 1, 1e-3]
    return oracle, unlearned + np.array([0, 0, 0.2, 0.5, 1, 2, 4, 0])


@pytest.mark.slow
@pytest.mark.quick("40-1")
@pytest.mark.parametrize("models, seed", [(96, 0), (40, 1)])
def test_equals_the_released_procedure_rule_by_rule(models, seed):
    oracle, unlearned = shifted_gaussians(models, seed)
    expected = [published_epsilon(o, u) for o, u in zip(oracle.T, unlearned.T)]
    with jax.enable_x64(True):
        found = evaluation.forgetting_quality(oracle, unlearned)
        swapped = evaluation.forgetting_quality(unlearned, oracle)
    np.testing.assert_allclose(found.epsilon, expected, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(swapped.epsilon, found.epsilon)
    assert found.score == pytest.approx(published_score(expected, models), abs=1e-12)
    epsilon = np.asarray(found.epsilon)
    assert epsilon[-1] == CAP and 1 < epsilon[0] < 3 < epsilon[6]


@pytest.mark.slow
def test_samples_with_ties_and_exact_thresholds_equal_the_released_procedure():
    rng = np.random.default_rng(3)
    oracle, unlearned = np.round(rng.normal(size=(2, 40, 8)) * 2, 1)  # on the grid of thresholds
    unlearned[:, 2] = oracle[:, 2] + 0.5  # equally wide, so that the medians decide who is wide
    unlearned[:, 3] = oracle[:, 3] + 100
    expected = [published_epsilon(o, u) for o, u in zip(oracle.T, unlearned.T)]
    with jax.enable_x64(True):
        found = evaluation.forgetting_quality(oracle, unlearned)
    np.testing.assert_allclose(found.epsilon, expected, rtol=0, atol=1e-12)
    assert np.asarray(found.epsilon)[3] == CAP


def edge_columns():
    """Forty margins a side whose best rule depends on which exact thresholds there are."""
    columns = [
        # Best is the interval that ends exactly on 0, two below the maximum of the narrow sample.
        ([0.0] * 38 + [-1.0, 2.0], [0.005] * 37 + [-1.0, -10.0, 10.0]),
        # The left end stays within two units of where the width of the narrow sample puts it.
        ([0.5] * 38 + [-50.0, 1.0], [-30.0] * 36 + [0.5, -60.0, 60.0, -50.0]),
        # It is at most four above the minimum, so never between 4.005 and 4.015.
        ([4.015] * 38 + [0.0, 10.0], [4.005] * 18 + [50.0] * 20 + [4.015, -50.0]),
    ]
    for offset in np.random.default_rng(0).normal(size=5):  # best is the largest margin itself
        high = ([0.0] * 22 + [-1.0] * 18, [0.0] + [-0.005] * 20 + [-1.0] * 19)
        columns.append(tuple(np.array(side) + offset for side in high))
    return tuple(np.stack(side, 1) for side in zip(*columns))


def test_thresholds_are_exactly_those_of_the_released_procedure():
    oracle, unlearned = edge_columns()
    expected = [published_epsilon(o, u) for o, u in zip(oracle.T, unlearned.T)]
    with jax.enable_x64(True):
        found = evaluation.forgetting_quality(oracle, unlearned)
    np.testing.assert_allclose(found.epsilon, expected, rtol=0, atol=1e-12)
    assert expected[0] == pytest.approx(np.log(39), abs=1e-3)
    assert expected[3:] == pytest.approx([np.log(22)] * 5, abs=1e-3)


def test_interval_rules_see_a_wider_sample_with_the_same_median():
    rng = np.random.default_rng(0)
    oracle, wide = rng.normal(size=(2, 40, 8)).astype(np.float32)
    epsilon = evaluation.forgetting_quality(oracle, 8 * wide).epsilon
    assert (np.asarray(epsilon) > 2.5).all()


@pytest.mark.quick("32")
@pytest.mark.parametrize("models", [32, 96, 512])
def test_floor_of_two_samples_of_one_gaussian(models):
    oracle, unlearned = np.random.default_rng(models).normal(size=(2, models, 200))
    found = evaluation.forgetting_quality(oracle.astype(np.float32), unlearned.astype(np.float32))
    assert float(found.epsilon.mean()) == pytest.approx(1.55, abs=0.15)
    low, high = np.percentile(found.epsilon, [5, 95])
    assert 0.7 < low < 1.3 and 1.9 < high < 2.5
    assert 0.15 < float(found.score) < 0.24
    assert found.models == models


@pytest.mark.slow
def test_floor_is_the_value_of_one_half_of_the_oracles_against_the_other():
    oracle = np.random.default_rng(0).normal(size=(193, 200)).astype(np.float32)
    floor = evaluation.forgetting_quality_floor(oracle, jax.random.key(0))
    assert floor.models == 96
    assert 0.12 < float(floor.score) < 0.27
    other = evaluation.forgetting_quality_floor(oracle, jax.random.key(1))
    assert not np.array_equal(floor.epsilon, other.epsilon)
    oracle[:97] += 100  # a split in the given order would tell the halves apart
    apart = evaluation.forgetting_quality_floor(oracle, jax.random.key(0))
    assert (np.asarray(apart.epsilon) < 5).all()


@pytest.mark.slow
def test_float32_agrees_with_float64_up_to_thresholds_that_coincide_with_samples():
    oracle, unlearned = np.random.default_rng(5).normal(size=(2, 96, 200))
    with jax.enable_x64(True):
        exact = np.asarray(evaluation.forgetting_quality(oracle, unlearned).epsilon)
    found = evaluation.forgetting_quality(oracle.astype(np.float32), unlearned.astype(np.float32))
    differs = np.abs(found.epsilon - exact) > 1e-5
    assert differs.mean() < 0.03
    assert np.abs(found.epsilon - exact).max() < 0.3


def test_jit_agrees_with_eager_and_gives_nan_where_eager_refuses():
    oracle, unlearned = (side.astype(np.float32) for side in shifted_gaussians(40))
    eager = evaluation.forgetting_quality(oracle, unlearned)
    compiled = jax.jit(evaluation.forgetting_quality)(oracle, unlearned)
    np.testing.assert_array_equal(compiled.epsilon, eager.epsilon)
    unlearned[3, 2] = np.nan
    unlearned[:, 4] = oracle[:, 4] = 1.0
    found = jax.jit(evaluation.forgetting_quality)(oracle, unlearned)
    expected = [False, False, True, False, True, False, False, False]
    assert np.isnan(found.epsilon).tolist() == np.isnan(found.points).tolist() == expected
    assert np.isnan(found.score)


@pytest.mark.parametrize("models", [32, 96, 512, 1000])
def test_points_follow_the_released_buckets(models):
    epsilon = np.linspace(0, 9, 1801)
    points = np.asarray(evaluation.forgetting_points(epsilon, models))
    assert points.mean() == pytest.approx(published_score(epsilon, models), rel=1e-6)
    assert points[0] == 1 and points[-1] == 0
    assert np.isnan(evaluation.forgetting_points(np.nan, models))


def test_final_score_multiplies_the_ratios_of_mean_accuracies():
    found = evaluation.competition_score(
        0.2,
        retain_accuracy=[0.9, 0.7],
        oracle_retain_accuracy=[1.0],
        test_accuracy=[0.66],
        oracle_test_accuracy=[0.5, 0.6],
    )
    assert float(found) == pytest.approx(0.2 * 0.8 * 1.2)


GOOD = np.random.default_rng(0).normal(size=(40, 8))


@pytest.mark.parametrize(
    "oracle, unlearned, message",
    [
        (GOOD, GOOD[:, :2], "same examples"),
        (GOOD, GOOD[:39], "as many unlearned as retrained models"),
        (GOOD[:31], GOOD[:31], "at least 32 models of each kind, found 31"),
        (GOOD, np.where(GOOD > 2, np.nan, GOOD), "finite margins"),
        (GOOD * 0, GOOD * 0, "one value for all of them on 8 examples"),
        (1 + GOOD * 1e-9, 1 - GOOD * 1e-9, "in float32 on 8 examples, whose margins differ by at"),
    ],
)
def test_bad_margins_are_refused(oracle, unlearned, message):
    with pytest.raises(ValueError, match=message) as error:
        evaluation.forgetting_quality(oracle, unlearned)
    assert "\n" not in str(error.value)


def test_margins_too_alike_for_any_threshold_are_not_called_equal():
    close = 1e-9 * (GOOD > 1)
    with jax.enable_x64(True), pytest.raises(ValueError, match=r"in float64 .* at most 1\.0e-09"):
        evaluation.forgetting_quality(close, close[::-1])


def test_fewer_models_can_be_asked_for_but_not_fewer_than_three():
    with pytest.raises(ValueError, match="at least 10 models"):
        evaluation.forgetting_quality(GOOD[:9], GOOD[10:19], min_models=10)
    assert evaluation.forgetting_quality(GOOD[:10], GOOD[10:20], min_models=10).models == 10
    with pytest.raises(ValueError, match="at least 3 models"):
        evaluation.forgetting_quality(GOOD[:2], GOOD[2:4], min_models=1)
    with pytest.raises(ValueError, match="at least 64 oracles"):
        evaluation.forgetting_quality_floor(GOOD, jax.random.key(0))


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"retain_accuracy": [90.0]}, "divide percentages by 100"),
        ({"test_accuracy": []}, "found none"),
        ({"oracle_test_accuracy": [0.0]}, "right at times"),
        ({"retain_accuracy": [np.nan]}, "expected accuracies in"),
    ],
)
def test_bad_accuracies_are_refused(changed, message):
    good = {
        f"{who}{split}_accuracy": [0.9] for who in ("", "oracle_") for split in ("retain", "test")
    }
    with pytest.raises(ValueError, match=message):
        evaluation.competition_score(0.2, **(good | changed))
