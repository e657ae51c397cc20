from __future__ import annotations

import jax
import numpy as np
import pytest
import scipy.special

from mu_jax import evaluation


def outputs(n=50, classes=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, classes)) * 3, rng.integers(0, classes, n)


def modified_entropy_by_loops(logits, labels):
    """Song and Mittal's definition, one example and one class after another."""
    found = []
    for row, label in zip(logits, labels):
        p = scipy.special.softmax(row)
        terms = [
            (1 - p[k]) * np.log(p[k]) if k == label else p[k] * np.log(1 - p[k])
            for k in range(len(p))
        ]
        found.append(-sum(terms))
    return np.array(found)


def published_modified_entropy(logits, labels):
    """The copied program: columns are overwritten for all rows, and the logarithm is of p."""
    p = scipy.special.softmax(logits, -1)
    log_p = np.where(p > 0, np.log(np.where(p > 0, p, 1)), np.log(1e-30))
    changed = p.copy()
    changed[:, labels] = (1 - p)[:, labels]
    return -(changed * log_p).sum(-1)


def test_modified_entropy_equals_its_definition():
    logits, labels = outputs()
    expected = modified_entropy_by_loops(logits, labels)
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            evaluation.modified_entropy(logits, labels), expected, rtol=1e-10
        )
    single = evaluation.modified_entropy(logits.astype(np.float32), labels)
    np.testing.assert_allclose(single, expected, rtol=2e-5, atol=1e-6)


def test_modified_entropy_stays_exact_where_probabilities_round_to_one():
    # p = (1 - e, e) with e = exp(-60): -2 (1 - e) log e for the wrong label, e-sized for the right.
    logits = np.array([[60.0, 0.0], [0.0, 60.0]], np.float32)
    np.testing.assert_allclose(evaluation.modified_entropy(logits, [0, 0]), [0, 120], rtol=1e-6)
    uniform = evaluation.modified_entropy(np.zeros((1, 4)), [2])
    expected = 0.75 * np.log(4) + 0.75 * np.log(4 / 3)
    assert float(uniform[0]) == pytest.approx(expected, rel=1e-6)


def test_published_form_depends_on_the_rest_of_the_set():
    logits, labels = outputs()
    labels[labels == 5] = 0
    found = evaluation.modified_entropy_as_published(logits, labels)
    np.testing.assert_allclose(found, published_modified_entropy(logits, labels), rtol=1e-10)
    alone = evaluation.modified_entropy_as_published(logits[:1], labels[:1])
    assert abs(alone[0] - found[0]) > 0.1
    far = evaluation.modified_entropy_as_published([[0.0, 900.0]], [0])
    np.testing.assert_allclose(far, published_modified_entropy(np.array([[0, 900.0]]), [0]))


def test_scores_are_higher_for_members_than_for_a_random_label():
    logits, _ = outputs(n=200)
    labels, other = logits.argmax(-1), logits.argmin(-1)
    found, wrong = (evaluation.membership_scores(logits, y) for y in (labels, other))
    assert (found.correctness == 1).all() and (wrong.correctness == 0).all()
    assert (found.confidence > wrong.confidence).all()
    assert (found.modified_entropy > wrong.modified_entropy).all()
    np.testing.assert_array_equal(found.entropy, -evaluation.entropy(logits))
    np.testing.assert_array_equal(found.confidence, evaluation.confidence(logits, labels))


def test_leading_axes_are_models_and_jit_agrees():
    logits, labels = outputs()
    many = np.stack([logits, -logits])
    found = evaluation.membership_scores(many, labels)
    for single, double in zip(evaluation.membership_scores(-logits, labels), found):
        np.testing.assert_allclose(double[1], single, rtol=1e-6)
    for eager, compiled in zip(found, jax.jit(evaluation.membership_scores)(many, labels)):
        np.testing.assert_allclose(compiled, eager, rtol=1e-5, atol=1e-7)


def test_broken_logits_give_nan_never_a_score():
    logits, labels = outputs(n=3)
    logits[1, 2] = np.nan
    for scores in evaluation.membership_scores(logits, labels):
        assert np.isnan(scores).tolist() == [False, True, False]
    with pytest.raises(ValueError, match="labels in \\[0, 6\\)"):
        evaluation.modified_entropy_as_published(logits, labels + 6)
