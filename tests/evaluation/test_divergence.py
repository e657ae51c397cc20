from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial.distance
import scipy.special
import scipy.stats

from mu_jax import evaluation

METRICS = [
    evaluation.kl_divergence,
    evaluation.js_divergence,
    evaluation.activation_distance,
    evaluation.agreement,
]


def pair(n=40, classes=7, seed=0, scale=3.0):
    logits = np.random.default_rng(seed).normal(size=(2, n, classes)) * scale
    return logits.astype(np.float32)


def probabilities(logits):
    return scipy.special.softmax(np.asarray(logits, np.float64), -1)


def test_divergences_equal_scipy():
    first, second = pair()
    p, q = probabilities(first), probabilities(second)
    with jax.enable_x64(True):
        kl, js, distance, agreement = (
            metric(first.astype(np.float64), second.astype(np.float64)) for metric in METRICS
        )
    np.testing.assert_allclose(kl, scipy.stats.entropy(p, q, axis=-1), rtol=1e-10)
    expected = scipy.spatial.distance.jensenshannon(p, q, axis=-1) ** 2
    np.testing.assert_allclose(js, expected, rtol=1e-10)
    np.testing.assert_allclose(distance, np.sqrt(((p - q) ** 2).sum(-1)), rtol=1e-10)
    np.testing.assert_array_equal(agreement, p.argmax(-1) == q.argmax(-1))


@pytest.mark.parametrize("metric", METRICS[:3])
def test_float32_agrees_and_equal_models_are_at_zero(metric):
    first, second = pair()
    with jax.enable_x64(True):
        exact = metric(first.astype(np.float64), second.astype(np.float64))
    np.testing.assert_allclose(metric(first, second), exact, rtol=2e-5, atol=1e-6)
    same = np.asarray(metric(first, first + 5))  # a common shift of the logits changes nothing
    assert (same >= 0).all() and same.max() < 1e-5
    np.testing.assert_allclose(jax.jit(metric)(first, second), metric(first, second), rtol=1e-6)


def test_bounds_are_reached_by_models_that_are_sure_of_different_classes():
    sure = np.array([[0.0, -np.inf, -np.inf]], np.float32)
    other = sure[:, [1, 0, 2]]
    found = [float(metric(sure, other)[0]) for metric in METRICS]
    np.testing.assert_allclose(found, [np.inf, np.log(2), np.sqrt(2), 0], rtol=1e-6)
    far = evaluation.kl_divergence([[0.0, 0.0]], [[200.0, 0.0]])  # where softmax rounds to 0
    np.testing.assert_allclose(far, 100 - np.log(2), rtol=1e-5)


def test_divergence_of_binary_models_has_its_closed_form():
    p, q = 0.3, 0.8
    first, second = (np.log([[1 - share, share]]) for share in (p, q))
    expected = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    assert float(evaluation.kl_divergence(first, second)[0]) == pytest.approx(expected, rel=1e-5)
    backwards = float(evaluation.kl_divergence(second, first)[0])
    assert backwards == pytest.approx(
        q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p)), rel=1e-5
    )


def test_leading_axes_are_models_and_broadcast():
    first, second = pair()
    many = np.stack([second, first, 2 * first])
    for metric in METRICS:
        found = metric(first, many)
        assert found.shape == (3, 40) and found.dtype == jnp.float32
        np.testing.assert_allclose(found[0], metric(first, second), rtol=1e-6)


def published_zrf(p, q):
    """The published program's formula, with its arguments and its division."""
    m = (p + q) / 2
    halves = [(m * (np.log(m) - np.log(side))).mean() for side in (p, q)]
    return 1 - sum(halves) / 2


def test_zrf_and_its_published_form():
    first, second = pair()
    p, q = probabilities(first), probabilities(second)
    expected = 1 - (scipy.spatial.distance.jensenshannon(p, q, axis=-1) ** 2).mean()
    assert float(evaluation.zrf(first, second)) == pytest.approx(expected, rel=1e-5)
    found = float(evaluation.zrf_as_published(first, second))
    assert found == pytest.approx(published_zrf(p, q), rel=1e-5)
    assert abs(found - expected) > 0.1
    for score in (evaluation.zrf, evaluation.zrf_as_published):
        assert float(score(first, first)) == pytest.approx(1)


def test_floor_is_every_pair_of_oracles_once():
    oracle = np.concatenate([pair(seed=1), pair(seed=2)[:1]])
    found = evaluation.pairwise_floor(evaluation.kl_divergence, oracle)
    expected = [evaluation.kl_divergence(oracle[i], oracle[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-6)
    with pytest.raises(ValueError, match="at least two oracles"):
        evaluation.pairwise_floor(evaluation.js_divergence, oracle[:1])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "first, second, message",
    [
        (np.zeros((3, 2)), np.zeros((3, 4)), "same examples and classes"),
        (np.zeros((3, 2)), np.zeros((4, 2)), "same examples and classes"),
        (np.zeros(3), np.zeros(3), "same examples and classes"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "at least one example"),
        (np.zeros((3, 1)), np.zeros((3, 1)), "two classes"),
        (np.zeros((3, 2)), np.full((3, 2), np.nan), "finite or -inf"),
        (np.full((3, 2), np.inf), np.zeros((3, 2)), "finite or -inf"),
    ],
)
def test_bad_logits_are_refused(metric, first, second, message):
    with pytest.raises(ValueError, match=message) as error:
        metric(first, second)
    assert "\n" not in str(error.value)


def test_nan_stays_nan_under_jit():
    first, second = pair(n=3)
    second[1, 2] = np.nan
    for metric in METRICS:
        assert np.isnan(jax.jit(metric)(first, second)).tolist() == [False, True, False]
