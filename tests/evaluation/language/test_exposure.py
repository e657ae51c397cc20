"""Exposure by rank and by extrapolation, and the likelihood of extraction."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import scipy.special

from mu_jax.evaluation import language
from mu_jax.evaluation.language.exposure import _log_cdf


@pytest.mark.parametrize(
    "rank, candidates, bits", [(5, 256, 5.678072), (1, 10**6, 19.931569), (1, 1000, 9.965784)]
)
def test_exposure_by_rank(rank, candidates, bits):
    references = np.arange(1.0, candidates)
    found = language.exposure(rank - 0.5, references)
    assert int(found.rank) == rank
    assert float(found.value) == pytest.approx(bits, abs=1e-5)
    assert found.cap == pytest.approx(np.log2(candidates))


def test_a_tie_counts_against_the_secret():
    found = jax.jit(lambda s, r: language.exposure(s, r).value)(
        np.array([1.0, 1.5, 4.0]), np.array([1.0, 2.0, 3.0])
    )
    np.testing.assert_allclose(found, [1, 1, 0], atol=1e-6)  # the worst rank has none
    assert np.isnan(language.exposure(np.nan, np.ones(3)).value)


def test_the_floor_is_what_chance_gives():
    drawn = np.random.default_rng(0).normal(size=(4000, 256))
    found = np.asarray(language.exposure(drawn[:, 0], drawn[:, 1:]).value)
    assert language.exposure_floor(255) == pytest.approx(found.mean(), abs=float(found.std() / 15))


def test_extrapolated_exposure():
    references = 20 + 2 * np.random.default_rng(0).normal(size=1000)
    near, far = language.exposure_extrapolated([12.0, -100.0], references)
    assert near == pytest.approx(14.212797, abs=1e-6)
    assert 1000 < far < np.inf


@pytest.mark.parametrize("x", [-1.0, -6.0, -30.0, -200.0])
def test_the_logarithm_far_out(x):
    """Of shape 0 it is the normal distribution function F, of shape 1 it is F squared."""
    log_ndtr = scipy.special.log_ndtr(x)
    assert _log_cdf(x, 0.0) == pytest.approx(log_ndtr, rel=1e-7)
    assert _log_cdf(x, 1.0) == pytest.approx(2 * log_ndtr, rel=1e-7)
    skewed = scipy.special.log1p(-(scipy.special.ndtr(-x) ** 2)) if x > -5 else log_ndtr + np.log(2)
    assert _log_cdf(x, -1.0) == pytest.approx(skewed, rel=1e-6)


def by_hand(secret, generated, n):
    grams = lambda s: [tuple(s[i : i + n]) for i in range(len(s) - n + 1)]  # noqa: E731
    total = 0.0
    for i in range(len(secret) - n + 1):
        wanted = grams(secret[i:])
        total += sum(g in grams(generated[i]) for g in wanted) / len(wanted)
    return total / (len(secret) - n + 1)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_likelihood_of_extraction(n):
    random = np.random.default_rng(n)
    secret = random.integers(3, size=6).tolist()
    generated = [random.integers(3, size=6 - i).tolist() for i in range(7 - n)]
    found = language.extraction_likelihood(secret, generated, n)
    assert found == pytest.approx(by_hand(secret, generated, n)) and 0 < found < 1
    perfect = [secret[i:] for i in range(7 - n)]
    assert language.extraction_likelihood(secret, perfect, n) == 1


def test_short_secrets_count_whole():
    assert language.extraction_likelihood([1, 2], [[1, 2]], 3) == 1
    assert language.extraction_likelihood([1, 2], [[1, 1]], 3) == 0


def test_bad_input_is_one_sentence():
    with pytest.raises(ValueError, match="draw random secrets of the same format"):
        language.exposure(1.0, np.ones(0))
    with pytest.raises(ValueError, match="expected at least 30 finite references"):
        language.exposure_extrapolated(1.0, np.arange(9.0))
    with pytest.raises(ValueError, match="a collapsed model"):
        language.exposure_extrapolated(1.0, np.ones(40))
    with pytest.raises(ValueError, match="found L = 3, n = 2 and 1: decode from every start"):
        language.extraction_likelihood([1, 2, 3], [[1, 2, 3]], 2)
