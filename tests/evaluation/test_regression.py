from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from mu_jax import evaluation

RNG = np.random.default_rng(0)


def multisets():
    yield RNG.normal(size=50), RNG.normal(1.0, 2.0, size=50)
    yield RNG.normal(size=50), RNG.normal(1.0, 2.0, size=31)
    yield RNG.integers(4, size=20).astype(float), RNG.integers(5, size=33).astype(float)  # ties
    yield np.zeros(7), np.full(3, 2.5)
    yield np.ones(4), np.ones(9)
    yield np.array([1.0]), np.array([-3.0])


@pytest.mark.quick("pair0", "pair2", "pair5")
@pytest.mark.parametrize("pair", multisets())
def test_wasserstein_equals_scipy(pair):
    wanted = scipy.stats.wasserstein_distance(*pair)
    with jax.enable_x64(True):
        found = evaluation.wasserstein(*pair)
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(evaluation.wasserstein(*pair[::-1]), wanted, rtol=1e-12)
    single = [side.astype(np.float32) for side in pair]
    np.testing.assert_allclose(jax.jit(evaluation.wasserstein)(*single), wanted, rtol=1e-5)


def test_wasserstein_of_equally_many_is_the_mean_distance_of_sorted_ones():
    first, second = RNG.normal(size=(2, 40)).astype(np.float32)
    wanted = np.abs(np.sort(first) - np.sort(second)).mean()
    np.testing.assert_allclose(evaluation.wasserstein(first, second), wanted, rtol=1e-5)


def test_wasserstein_does_not_see_who_got_which_prediction_and_the_paired_distance_does():
    predictions = RNG.normal(size=30).astype(np.float32)
    shuffled = RNG.permutation(predictions)
    paired = evaluation.paired_distance(predictions, shuffled)
    assert float(evaluation.wasserstein(predictions, shuffled)) < 1e-6
    np.testing.assert_allclose(paired.mean_absolute, np.abs(predictions - shuffled).mean(), 1e-6)
    wanted = np.sqrt(np.mean((predictions - shuffled) ** 2))
    np.testing.assert_allclose(paired.rms, wanted, 1e-6)


def test_wasserstein_over_many_models_at_once():
    many = RNG.normal(size=(3, 12)).astype(np.float32)
    found = jax.vmap(evaluation.wasserstein, (0, None))(many, many[0])
    wanted = [scipy.stats.wasserstein_distance(one, many[0]) for one in many]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("bad", [np.zeros((2, 2)), np.zeros(0), np.array([1.0, np.nan])])
def test_wasserstein_refuses_what_is_no_vector_of_numbers(bad):
    with pytest.raises(ValueError, match="expected"):
        evaluation.wasserstein(bad, np.ones(3))
    if bad.ndim == 1 and bad.size:
        assert np.isnan(jax.jit(evaluation.wasserstein)(bad, np.ones(3)))


@pytest.mark.parametrize("shape", [(25,), (25, 3)])
def test_errors_equal_those_of_scikit_learn(shape):
    targets, predictions = RNG.normal(size=(2, *shape)).astype(np.float32)
    weight = RNG.integers(0, 3, size=25).astype(np.float32)
    for counts in (None, weight):
        found = evaluation.regression_errors(predictions, targets, counts)
        arguments = (targets, predictions), {"sample_weight": counts}
        mse = sklearn.metrics.mean_squared_error(*arguments[0], **arguments[1])
        mae = sklearn.metrics.mean_absolute_error(*arguments[0], **arguments[1])
        r2 = sklearn.metrics.r2_score(*arguments[0], **arguments[1])
        np.testing.assert_allclose(found, [mae, np.sqrt(mse), r2], rtol=1e-5)
        np.testing.assert_allclose(evaluation.r2(predictions, targets, counts), r2, rtol=1e-5)


def test_padding_reaches_no_error_even_if_it_is_nan():
    found = evaluation.regression_errors([1.0, 3.0, np.nan], [2.0, 5.0, np.nan], [1.0, 1.0, 0.0])
    np.testing.assert_allclose(found[0], 1.5)
    assert np.isfinite(found).all()


def test_errors_of_several_models_and_of_targets_that_do_not_vary():
    predictions = RNG.normal(size=(4, 10)).astype(np.float32)
    found = evaluation.regression_errors(predictions, np.full(10, 2.0, np.float32))
    np.testing.assert_allclose(found.mae, np.abs(predictions - 2).mean(1), rtol=1e-5)
    assert np.isnan(found.r2).all()


def test_splits_keep_their_names_and_their_weights():
    predictions = {"retain": np.array([1.0, 9.0]), "forget": np.array([5.0])}
    targets = {"forget": np.array([2.0]), "retain": np.array([2.0, 5.0])}
    found = evaluation.errors_by_split(predictions, targets, {"retain": np.array([1.0, 0.0])})
    assert {name: float(errors.mae) for name, errors in found.items()} == {
        "retain": 1.0,
        "forget": 3.0,
    }
    with pytest.raises(ValueError, match="same splits"):
        evaluation.errors_by_split(predictions, {"retain": targets["retain"]})


@pytest.mark.parametrize(("statistic", "error"), [("median", "mae"), ("mean", "rmse")])
def test_no_constant_is_better_on_the_targets_it_was_taken_from(statistic, error):
    targets = RNG.exponential(size=101).astype(np.float32)
    constant = evaluation.constant_predictions(targets, targets, statistic=statistic)
    assert np.ptp(constant) == 0
    best = getattr(evaluation.regression_errors(constant, targets), error)
    for shift in (-0.05, 0.05):
        other = getattr(evaluation.regression_errors(constant + shift, targets), error)
        assert other > best


def test_constant_of_several_outputs_and_of_nothing():
    retained = np.array([[0.0, 1.0], [2.0, 5.0]])
    found = evaluation.constant_predictions(retained, np.zeros((3, 2)), statistic="mean")
    np.testing.assert_array_equal(found, np.tile([[1.0, 3.0]], (3, 1)))
    for wrong in (np.zeros((0, 2)), np.zeros(4)):
        with pytest.raises(ValueError, match="expected retained targets"):
            evaluation.constant_predictions(wrong, np.zeros((3, 2)))
    with pytest.raises(ValueError, match='found "mode"'):
        evaluation.constant_predictions(retained, retained, statistic="mode")


def test_example_errors_average_to_the_errors_of_the_split():
    targets, predictions = RNG.normal(size=(2, 25, 3)).astype(np.float32)
    errors = evaluation.regression_errors(predictions, targets)
    absolute = evaluation.example_errors(predictions, targets)
    squared = evaluation.example_errors(predictions, targets, kind="squared")
    assert absolute.shape == squared.shape == (25,)
    np.testing.assert_allclose(absolute.mean(), errors.mae, rtol=1e-6)
    np.testing.assert_allclose(jnp.sqrt(squared.mean()), errors.rmse, rtol=1e-6)
    with pytest.raises(ValueError, match='found "cubed"'):
        evaluation.example_errors(predictions, targets, kind="cubed")


def test_attack_sees_memorized_forget_examples_and_not_forgotten_ones():
    retain, test, unseen = (np.abs(RNG.normal(size=(400,)) * s) for s in (0.2, 1.0, 1.0))
    memorized = evaluation.regression_mia(retain, test, retain[:200] + 0.01, seed=0)
    forgotten = evaluation.regression_mia(retain, test, unseen, seed=0)
    assert memorized.logistic.auc > 0.7 > 0.6 > forgotten.logistic.auc > 0.4
    assert memorized.threshold.nonmember_fraction < 0.3
    assert forgotten.threshold.nonmember_fraction > 0.5
    assert memorized.threshold.auc == pytest.approx(memorized.logistic.auc)
