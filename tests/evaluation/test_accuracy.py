from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics

from mu_jax import evaluation

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(200, 5)).astype(np.float32)
LABELS = RNG.integers(0, 5, 200)
WEIGHT = RNG.uniform(0.1, 2.0, 200).astype(np.float32)


def test_accuracy_equals_sklearn_with_and_without_weights():
    predictions = LOGITS.argmax(-1)
    for weight in (None, WEIGHT):
        expected = sklearn.metrics.accuracy_score(LABELS, predictions, sample_weight=weight)
        np.testing.assert_allclose(evaluation.accuracy(LOGITS, LABELS, weight), expected, rtol=1e-6)


def test_accuracy_by_class_equals_recall_and_is_nan_for_an_absent_class():
    expected = sklearn.metrics.recall_score(
        LABELS, LOGITS.argmax(-1), average=None, sample_weight=WEIGHT
    )
    found = evaluation.accuracy_by_class(LOGITS, LABELS, WEIGHT)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    without_two = np.where(LABELS == 2, 3, LABELS)
    assert np.isnan(evaluation.accuracy_by_class(LOGITS, without_two)).tolist() == [
        label == 2 for label in range(5)
    ]


def test_padding_does_not_count_even_when_it_is_nan():
    padded = np.concatenate([LOGITS, np.full((7, 5), np.nan, np.float32)])
    labels, weight = np.append(LABELS, [0] * 7), np.append(WEIGHT, [0] * 7)
    for metric in (evaluation.accuracy, evaluation.accuracy_by_class):
        expected = metric(LOGITS, LABELS, WEIGHT)
        np.testing.assert_allclose(metric(padded, labels, weight), expected, rtol=1e-6)
    prediction, target = padded[:, 0], np.append(LOGITS[:, 1], [0] * 7)
    for metric in (evaluation.mean_squared_error, evaluation.r2):
        expected = metric(LOGITS[:, 0], LOGITS[:, 1], WEIGHT)
        np.testing.assert_allclose(metric(prediction, target, weight), expected, rtol=1e-6)


def test_a_nan_logit_never_scores():
    broken = LOGITS.copy()
    broken[LABELS == 0] = np.nan  # argmax alone would call all of these class 0: correct
    assert np.isnan(evaluation.accuracy(broken, LABELS))
    by_class = evaluation.accuracy_by_class(broken, LABELS)
    assert np.isnan(by_class[0])
    np.testing.assert_array_equal(by_class[1:], evaluation.accuracy_by_class(LOGITS, LABELS)[1:])


def test_leading_axes_jit_and_vmap_agree():
    ensemble = RNG.normal(size=(3, 2, 200, 5)).astype(np.float32)
    for metric in (evaluation.accuracy, evaluation.losses, evaluation.confidence):
        whole = metric(ensemble, LABELS)
        mapped = jax.vmap(jax.vmap(metric, (0, None)), (0, None))(ensemble, LABELS)
        chex.assert_trees_all_close(whole, mapped, jax.jit(metric)(ensemble, LABELS), rtol=1e-6)
        assert whole.shape[:2] == (3, 2)
    by_class = jax.jit(evaluation.accuracy_by_class)(ensemble, LABELS)
    one = evaluation.accuracy_by_class(ensemble[1, 0], LABELS)
    np.testing.assert_allclose(by_class[1, 0], one, rtol=1e-6)


def test_losses_confidence_and_entropy_equal_scipy():
    probabilities = scipy.special.softmax(LOGITS.astype(np.float64), -1)
    of_label = probabilities[np.arange(200), LABELS]
    np.testing.assert_allclose(evaluation.losses(LOGITS, LABELS), -np.log(of_label), rtol=1e-5)
    np.testing.assert_allclose(evaluation.confidence(LOGITS, LABELS), of_label, rtol=1e-5)
    expected = scipy.stats.entropy(probabilities, axis=-1)
    np.testing.assert_allclose(evaluation.entropy(LOGITS), expected, rtol=1e-5)


def test_entropy_of_uniform_certain_and_masked_predictions():
    logits = np.array([[3.0] * 4, [1e4, 0, 0, 0], [0, 0, -np.inf, -np.inf]], np.float32)
    np.testing.assert_allclose(evaluation.entropy(logits), np.log([4, 1, 2]), atol=1e-6)


def test_bfloat16_logits_are_scored_in_float32():
    logits = jnp.asarray(LOGITS, jnp.bfloat16)
    assert evaluation.losses(logits, LABELS).dtype == jnp.float32
    np.testing.assert_array_equal(
        evaluation.losses(logits, LABELS), evaluation.losses(logits.astype(jnp.float32), LABELS)
    )


@pytest.mark.parametrize("shape", [(50,), (50, 3)])
def test_regression_metrics_equal_sklearn(shape):
    targets, predictions = RNG.normal(size=(2, *shape)).astype(np.float32)
    weight = WEIGHT[:50]
    for ours, theirs in (
        (evaluation.mean_squared_error, sklearn.metrics.mean_squared_error),
        (evaluation.r2, sklearn.metrics.r2_score),
    ):
        expected = theirs(targets, predictions, sample_weight=weight)
        np.testing.assert_allclose(ours(predictions, targets, weight), expected, rtol=1e-5)
        models = np.stack([predictions, targets])
        both = jax.jit(ours)(models, targets)
        np.testing.assert_allclose(both[0], theirs(targets, predictions), rtol=1e-5)
        np.testing.assert_allclose(both[1], theirs(targets, targets), atol=1e-6)


@pytest.mark.parametrize(
    "logits, labels, weight, message",
    [
        (LOGITS, LABELS[:-1], None, "one label per example"),
        (LOGITS[:0], LABELS[:0], None, "at least one example"),
        (LOGITS[:, :1], LABELS, None, "at least two classes"),
        (LOGITS, LABELS.astype(float), None, "integer class labels"),
        (LOGITS, LABELS - 1, None, "labels in"),
        (LOGITS, LABELS + 1, None, "labels in"),
        (LOGITS, LABELS, WEIGHT[:-1], "one weight per example"),
        (LOGITS, LABELS, WEIGHT * 0, "positive sum"),
        (LOGITS, LABELS, -WEIGHT, "non-negative"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(logits, labels, weight, message):
    with pytest.raises(ValueError, match=message) as error:
        evaluation.accuracy(logits, labels, weight)
    assert "\n" not in str(error.value)


def test_bad_regression_input_is_refused():
    with pytest.raises(ValueError, match="same trailing shape"):
        evaluation.mean_squared_error(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="targets that vary"):
        evaluation.r2(np.arange(3.0), np.ones(3))
