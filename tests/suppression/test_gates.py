"""The scorer and the gates of O3 against NumPy and SciPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from trees import is_one_sentence

from mu_jax import suppression

RNG = np.random.default_rng(0)
OWN = RNG.normal(size=(60, 3, 5)) @ np.diag([1.0, 2.0, 0.5, 1.0, 1.0]) + [3.0, 0, 0, 1, 0]
FAMILIAR = RNG.normal(size=(40, 3, 5)) @ np.diag([1.0, 2.0, 0.5, 1.0, 1.0]) + [3.0, 0, 0, 1, 0]
STRANGE = RNG.normal(size=(40, 3, 5)) - [3.0, 0, 0, 1, 0]


def by_hand(own, features, ridge, *, itself):
    """The scores of the layers, in NumPy."""
    found = np.zeros(features.shape[:2])
    for layer in range(own.shape[1]):
        set_, x = own[:, layer], features[:, layer]
        covariance = np.cov(set_.T, bias=True)
        covariance += ridge * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        gap = x - set_.mean(axis=0)
        far = np.einsum("md,de,me->m", gap, np.linalg.inv(covariance), gap)
        unit = [y / np.linalg.norm(y, axis=1, keepdims=True) for y in (x, set_)]
        cosines = unit[0] @ unit[1].T
        if itself:
            np.fill_diagonal(cosines, -np.inf)
        found[:, layer] = -far / 2 - 1000 * cosines.max(axis=1)
    return found


def test_scores_are_those_of_the_formula():
    ridge = 0.01
    with jax.enable_x64(True):
        score = suppression.fit_familiarity(jnp.asarray(OWN), ridge=ridge)
        layers, found = score.layers(jnp.asarray(FAMILIAR)), score(jnp.asarray(FAMILIAR))
    wanted = by_hand(OWN, FAMILIAR, ridge, itself=False)
    np.testing.assert_allclose(layers, wanted, rtol=1e-9)
    own = by_hand(OWN, OWN, ridge, itself=True)
    covariance = np.cov(own.T, bias=True)
    covariance += ridge * np.trace(covariance) / 3 * np.eye(3)
    gap = wanted - own.mean(axis=0)
    far = np.sqrt(np.einsum("ml,lk,mk->m", gap, np.linalg.inv(covariance), gap))
    np.testing.assert_allclose(found, -far, rtol=1e-8)


@pytest.mark.slow
def test_familiar_inputs_score_above_strange_ones():
    score = suppression.fit_familiarity(jnp.asarray(OWN, jnp.float32))
    own, familiar, strange = (
        np.asarray(score(jnp.asarray(x, jnp.float32))) for x in (OWN, FAMILIAR, STRANGE)
    )
    assert np.median(familiar) > np.quantile(own, 0.05)
    assert familiar.min() > np.quantile(strange, 0.9)


@pytest.mark.slow
def test_fewer_examples_than_dimensions_are_enough():
    few = jax.random.normal(jax.random.key(0), (6, 2, 40))
    score = suppression.fit_familiarity(few)
    assert np.isfinite(score(few)).all()


@pytest.mark.slow
def test_soft_weights_are_those_of_the_formula():
    train, test = RNG.normal(-1, 2, 300), RNG.normal(0.5, 1.5, 200)
    scores = np.linspace(-12, 12, 25)
    deviation, middle = test.std(), (train.mean() + test.mean()) / 2

    def below(x):
        return (
            stats.norm.cdf(x, train.mean(), deviation) + stats.norm.cdf(x, test.mean(), deviation)
        ) / 2

    apart = np.abs(below(scores) - below(2 * middle - scores))
    wanted = 1 / (1 + np.exp(-(10 * (1 - apart) - 2)))
    with jax.enable_x64(True):
        gate = suppression.fit_soft_gate(jnp.asarray(train), jnp.asarray(test))
        found = suppression.soft_weight(gate, jnp.asarray(scores))
        at_middle = suppression.soft_weight(gate, jnp.asarray(middle))
    np.testing.assert_allclose(found, wanted, rtol=1e-9)
    np.testing.assert_allclose(at_middle, 1 / (1 + np.exp(-8)), rtol=1e-9)
    assert np.argmax(found) == np.argmin(np.abs(scores - middle))


def test_hard_weights_and_the_largest_of_all_requests():
    soft = jnp.array([0.119, 0.3, 0.31, 0.4, 0.41, 0.9, 0.901, 0.9997])
    hard = suppression.hard_weight(soft)
    np.testing.assert_allclose(hard, [0, 0, 0.31, 0.4, 0, 0, 1.2, 1.2], rtol=1e-6)
    other = jnp.full(8, 0.35)
    found = suppression.over_requests(jnp.stack([hard, suppression.hard_weight(other)]))
    np.testing.assert_allclose(found, [0.35, 0.35, 0.35, 0.4, 0.35, 0.35, 1.2, 1.2], rtol=1e-6)


@pytest.mark.slow
def test_from_features_to_weights_in_one_program():
    """Trained on one half, deviation from the other: strange inputs get nothing."""
    own, familiar, strange = (jnp.asarray(x, jnp.float32) for x in (OWN, FAMILIAR, STRANGE))
    score = suppression.fit_familiarity(own)
    gate = suppression.fit_soft_gate(score(own), score(familiar))

    @jax.jit
    def weight(features):
        return suppression.hard_weight(suppression.soft_weight(gate, score(features)))

    assert (weight(familiar) > 0).mean() > 0.5
    assert (weight(strange) > 0).mean() < 0.1


REFUSED = {
    "expected features": lambda: suppression.fit_familiarity(jnp.ones((2, 3, 4))),
    "expected finite features": lambda: suppression.fit_familiarity(jnp.full((5, 3, 4), jnp.nan)),
    "expected finite scores that differ": lambda: suppression.fit_soft_gate(
        jnp.arange(3.0), jnp.ones(4)
    ),
}


@pytest.mark.parametrize("says", REFUSED)
def test_what_cannot_be_fitted_is_refused_in_one_sentence(says):
    with pytest.raises(ValueError, match=says) as error:
        REFUSED[says]()
    assert is_one_sentence(str(error.value))
