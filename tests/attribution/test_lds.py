from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr
from trees import is_one_sentence

from mu_jax import attribution

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
MASKS = RNG.random((40, 25)) < 0.5
SCORES = RNG.normal(size=(25, 12))
OUTPUTS = MASKS @ SCORES + 2 * RNG.normal(size=(40, 12))


@pytest.mark.slow
def test_it_is_the_mean_of_scipys_rank_correlations():
    found = attribution.lds(SCORES, MASKS, OUTPUTS, key=KEY, num_resamples=20)
    expected = [spearmanr((MASKS @ SCORES)[:, t], OUTPUTS[:, t])[0] for t in range(12)]
    np.testing.assert_allclose(found.by_target, expected, atol=1e-6)
    np.testing.assert_allclose(found.mean, np.mean(expected), atol=1e-6)
    assert found.low < found.mean < found.high


def test_ties_get_their_mean_rank():
    x, y = np.round(RNG.normal(size=(30, 4))), np.round(RNG.normal(size=(30, 4)))
    expected = [spearmanr(x[:, t], y[:, t])[0] for t in range(4)]
    np.testing.assert_allclose(attribution.spearman(x, y), expected, atol=1e-6)
    assert np.isnan(attribution.spearman(np.zeros(5), np.arange(5)))


def test_only_the_order_of_predictions_counts():
    masks = np.asarray(attribution.balanced_masks(KEY, 40, 24))
    scores, outputs = SCORES[:24], masks @ SCORES[:24] + RNG.normal(size=(40, 12))
    plain = attribution.lds(scores, masks, outputs, key=KEY)
    moved = attribution.lds(3 * scores + 5, masks, jnp.exp(outputs / 5), key=KEY)
    np.testing.assert_allclose(moved.by_target, plain.by_target, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("noise, widest", [(2.0, 0.5), (0.3, 0.12)])
def test_the_interval_covers_the_score_of_the_population(noise, widest):
    """Scores of fresh subsets and targets of the same kind, far from 1 and close to it."""
    rng = np.random.default_rng(1)

    def sample(subsets, targets):
        masks = rng.random((subsets, 10)) < 0.5
        scores = rng.normal(size=(10, targets))
        return scores, masks, masks @ scores + noise * rng.normal(size=(subsets, targets))

    population = attribution.lds(*sample(2000, 200), key=KEY, num_resamples=1).mean
    intervals = [
        attribution.lds(*sample(30, 8), key=jax.random.fold_in(KEY, i), num_resamples=100)
        for i in range(40)
    ]
    held = np.mean([x.low < population < x.high for x in intervals])
    assert held >= 0.9
    widths = np.mean([x.high - x.low for x in intervals])
    assert 0.02 < widths < widest and all(x.high <= 1 for x in intervals)


def test_refusals():
    def message(scores=SCORES, masks=MASKS, outputs=OUTPUTS):
        with pytest.raises(ValueError) as error:
            attribution.lds(scores, masks, outputs, key=KEY)
        assert is_one_sentence(str(error.value))
        return str(error.value)

    assert "one column of scores" in message(scores=SCORES.T)
    assert "one column of scores" in message(outputs=OUTPUTS[:, :5])
    assert "at least 3 subsets" in message(masks=MASKS[:2], outputs=OUTPUTS[:2])
    assert "found NaN" in message(scores=np.where(SCORES > 2, np.nan, SCORES))
    assert "found 1 targets" in message(outputs=OUTPUTS * (np.arange(12) != 4))
