from __future__ import annotations

import jax
import numpy as np
import pytest

from mu_jax import evaluation

RNG = np.random.default_rng(0)
LOGITS = 3 * RNG.normal(size=(4, 100, 6)).astype(np.float32)
LABELS = RNG.integers(0, 6, 100)


def test_margin_is_the_log_odds_of_the_label():
    with jax.enable_x64(True):
        logits = LOGITS.astype(np.float64)
        p = np.asarray(evaluation.confidence(logits, LABELS))
        np.testing.assert_allclose(
            evaluation.margins(logits, LABELS), np.log(p / (1 - p)), rtol=1e-8, atol=1e-10
        )


def test_margin_is_stable_where_probabilities_round():
    logits = np.array([[500.0, 0, 0], [0, 500.0, 500.0], [-500.0, -500.0, -500.0]], np.float32)
    expected = [500 - np.log(2), -500 - np.log(2), -np.log(2)]
    np.testing.assert_allclose(
        evaluation.margins(logits, [0, 0, 0]), expected, rtol=1e-6, atol=1e-5
    )


def test_two_classes_give_the_difference_of_logits():
    logits = LOGITS[..., :2]
    expected = logits[..., 1] - logits[..., 0]
    np.testing.assert_allclose(evaluation.margins(logits, np.ones(100, int)), expected, rtol=1e-6)


def test_jit_vmap_and_gradient():
    whole = evaluation.margins(LOGITS, LABELS)
    assert whole.shape == (4, 100)
    mapped = jax.jit(jax.vmap(evaluation.margins, (0, None)))(LOGITS, LABELS)
    np.testing.assert_allclose(whole, mapped, rtol=1e-6, atol=1e-6)
    gradient = jax.grad(lambda z: evaluation.margins(z, LABELS).sum())(LOGITS[0])
    one_hot = np.eye(6)[LABELS]
    others = np.exp(LOGITS[0]) * (1 - one_hot)
    expected = one_hot - others / others.sum(-1, keepdims=True)
    np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_labels_out_of_range_are_refused():
    with pytest.raises(ValueError, match="labels in"):
        evaluation.margins(LOGITS, LABELS + 6)
