from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from mu_jax import evaluation


def features(n, *dimensions, seed=0):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n, 5))
    return [shared @ rng.normal(size=(5, d)) + rng.normal(size=(n, d)) + 3 for d in dimensions]


def hsic_over_quadruples(first, second):
    """The unbiased estimate as a mean over all ordered quadruples of different examples."""
    k, m = first @ first.T, second @ second.T
    terms = [
        k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
        for i, j, q, r in itertools.permutations(range(len(k)), 4)
    ]
    return np.mean(terms)


def biased_hsic(first, second):
    """The trace with centering matrices."""
    n = len(first)
    center = np.eye(n) - 1 / n
    return np.trace(first @ first.T @ center @ second @ second.T @ center)


@pytest.mark.parametrize("unbiased, hsic", [(True, hsic_over_quadruples), (False, biased_hsic)])
def test_cka_equals_the_definition_of_its_estimate(unbiased, hsic):
    first, second = features(9, 4, 6)
    expected = hsic(first, second) / np.sqrt(hsic(first, first) * hsic(second, second))
    with jax.enable_x64(True):
        found = evaluation.linear_cka(first, second, unbiased=unbiased)
    assert float(found) == pytest.approx(expected, rel=1e-10)


def test_unbiased_form_is_the_default_below_a_thousand_examples():
    for n, unbiased in ((999, True), (1000, False)):
        pair = features(n, 4, 6)
        found = float(evaluation.linear_cka(*pair))
        assert found == float(evaluation.linear_cka(*pair, unbiased=unbiased))
        assert found != float(evaluation.linear_cka(*pair, unbiased=not unbiased))


@pytest.mark.parametrize("unbiased", [True, False])
def test_cka_does_not_see_rotations_shifts_and_scale(unbiased):
    first, second = features(60, 8, 8)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0]
    found = evaluation.linear_cka(first, second, unbiased=unbiased)
    moved = evaluation.linear_cka(first, 1e4 * second @ rotation - 300, unbiased=unbiased)
    assert float(moved) == pytest.approx(float(found), rel=1e-3)
    assert 0.2 < float(found) < 0.95
    assert float(evaluation.linear_cka(second, second @ rotation)) == pytest.approx(1, abs=1e-5)
    stretched = evaluation.linear_cka(second, second * np.logspace(0, 2, 8), unbiased=unbiased)
    assert float(stretched) < 0.9


def test_only_the_unbiased_form_is_near_zero_for_unrelated_wide_features():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 100, 400))
    assert abs(float(evaluation.linear_cka(first, second))) < 0.05
    assert float(evaluation.linear_cka(first, second, unbiased=False)) > 0.7


def test_float32_and_jit_agree_with_float64():
    first, second = features(300, 16, 12)
    with jax.enable_x64(True):
        exact = float(evaluation.linear_cka(first, second))
    first, second = first.astype(np.float32), second.astype(np.float32)
    assert float(evaluation.linear_cka(first, second)) == pytest.approx(exact, rel=1e-4)
    assert float(jax.jit(evaluation.linear_cka)(first, second)) == pytest.approx(exact, rel=1e-4)


def test_floor_of_cka_is_over_pairs():
    oracle = np.stack(features(50, 6, 6, 6))
    found = evaluation.pairwise_floor(evaluation.linear_cka, oracle)
    assert found.shape == (3,)
    assert float(found[1]) == float(evaluation.linear_cka(oracle[0], oracle[2]))


@pytest.mark.parametrize("k", [1, 5, 8])
def test_neighbors_equal_sklearn(k):
    rng = np.random.default_rng(k)
    centers = rng.normal(size=(6, 10))
    labels, test_labels = rng.integers(0, 6, 300), rng.integers(0, 6, 77)
    train = (centers[labels] + rng.normal(size=(300, 10))) * rng.uniform(0.1, 9, (300, 1))
    test = centers[test_labels] + rng.normal(size=(77, 10))
    reference = KNeighborsClassifier(n_neighbors=k, metric="cosine").fit(train, labels)
    found = evaluation.knn_predict(train, labels, test, k=k)
    np.testing.assert_array_equal(found, reference.predict(test))
    accuracy = evaluation.knn_transfer(train, labels, test, test_labels, k=k)
    assert float(accuracy) == pytest.approx(reference.score(test, test_labels), abs=1e-6)
    assert 0.3 < float(accuracy) < 1


def test_votes_that_tie_go_to_the_lower_class():
    train = [[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [1.0, 0.3]]
    found = evaluation.knn_predict(train, [4, 2, 4, 2], [[1.0, 0.0], [0.0, 0.0]], k=4)
    assert found.tolist() == [2, 2]


FEATURES = np.random.default_rng(0).normal(size=(20, 3))
LABELS = np.arange(20) % 4


@pytest.mark.parametrize(
    "function, arguments, message",
    [
        (evaluation.linear_cka, (FEATURES, FEATURES[:19]), "same 4 or more examples"),
        (evaluation.linear_cka, (FEATURES[:3], FEATURES[:3]), "same 4 or more examples"),
        (evaluation.linear_cka, (FEATURES[None], FEATURES), "expected reference features \\[n, d"),
        (evaluation.linear_cka, (FEATURES, FEATURES * np.nan), "finite features"),
        (evaluation.linear_cka, (FEATURES, FEATURES * 0 + 0.1), "one vector for all"),
        (evaluation.knn_predict, (FEATURES, LABELS[:5], FEATURES), "labels \\[m\\]"),
        (evaluation.knn_predict, (FEATURES, LABELS, FEATURES[:, :2]), "labels \\[m\\]"),
        (evaluation.knn_predict, (FEATURES, LABELS - 1, FEATURES), "class numbers from 0"),
        (evaluation.knn_predict, (FEATURES, LABELS / 2, FEATURES), "class numbers from 0"),
        (evaluation.knn_predict, (FEATURES[:4], LABELS[:4], FEATURES), "k in \\[1, 4\\]"),
        (evaluation.knn_transfer, (FEATURES, LABELS, FEATURES, LABELS[:5]), "one label per test"),
    ],
)
def test_bad_input_is_refused(function, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
