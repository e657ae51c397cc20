from __future__ import annotations

import numpy as np
import pytest

from mu_jax import evaluation


def population(seed=0, classes=3):
    """Retained, test and forget scores whose level depends on the class, and their classes."""
    rng = np.random.default_rng(seed)
    labels = [rng.integers(0, classes, n) for n in (300, 200, 100)]
    levels = (1.5, 0.0, 0.7)
    scores = [rng.normal(size=y.size) + level + 10 * y for y, level in zip(labels, levels)]
    return scores, labels


def published_attack(retain, test, forget):
    """Every value tried as a threshold; the fraction of the forget set below the best."""
    values = np.sort(np.concatenate([retain, test]))
    accuracies = [((retain >= v).mean() + (test < v).mean()) / 2 for v in values]
    best = values[len(values) - 1 - np.argmax(accuracies[::-1])]
    return best, (forget < best).sum(), max(accuracies)


def test_one_threshold_equals_trying_every_value():
    (retain, test, forget), labels = population()
    retain, test, forget = (side - 10 * y for side, y in zip((retain, test, forget), labels))
    best, _, _ = published_attack(retain, test, forget)
    forget[:3] = best  # "at least the threshold" is a member
    best, below, accuracy = published_attack(retain, test, forget)
    found = evaluation.threshold_mia(retain, test, forget)
    assert found.thresholds.tolist() == [best]
    assert found.nonmember_fraction == below / 100
    assert found.balanced_accuracy == pytest.approx(accuracy, abs=1e-12)
    assert found.auc == pytest.approx(evaluation.auc(forget, test), abs=1e-12)
    assert found.tpr == evaluation.tpr_at_fpr(forget, test, 0.01)
    assert (found.auc_null_std, found.fpr) == (evaluation.auc_null_std(100, 200), 0.01)


def test_thresholds_of_classes_are_found_class_by_class():
    scores, labels = population()
    found = evaluation.threshold_mia(*scores, labels=labels)
    below = 0
    for label in range(3):
        sides = [side[y == label] for side, y in zip(scores, labels)]
        best, count, _ = published_attack(*sides)
        assert found.thresholds[label] == best
        below += count
    assert found.nonmember_fraction == pytest.approx(below / 100)
    single = evaluation.threshold_mia(*scores)
    assert found.balanced_accuracy > single.balanced_accuracy + 0.1
    assert found.auc > single.auc + 0.1


def test_scores_of_one_population_give_chance():
    rng = np.random.default_rng(0)
    found = evaluation.threshold_mia(*rng.normal(size=(3, 2000)))
    assert abs(found.auc - 0.5) < 3 * found.auc_null_std
    assert abs(found.balanced_accuracy - 0.5) < 0.04


def test_a_class_that_all_get_right_has_a_threshold_and_an_absent_one_has_none():
    scores, labels = population(classes=2)
    retain, test, forget = scores
    retain[labels[0] == 1] = test[labels[1] == 1] = 1.0  # as the correctness of an easy class
    forget[labels[2] == 1] = np.arange((labels[2] == 1).sum()) % 2
    labels[0][:5] = 4  # retained only
    found = evaluation.threshold_mia(retain, test, forget, labels=labels)
    assert found.thresholds[1] == 1.0
    assert np.isnan(found.thresholds).tolist() == [False, False, True, True, True]
    assert np.isfinite(found[:5]).all() and np.isfinite(found.balanced_accuracy)


RAMP = np.linspace(0, 1, 120)
ZERO = np.zeros(120, int)


@pytest.mark.parametrize(
    "scores, options, message",
    [
        ((RAMP[:9], RAMP, RAMP), {}, "at least 10 retain scores"),
        ((RAMP, RAMP[:9], RAMP), {}, "at least 10 test scores"),
        ((RAMP, RAMP, RAMP * np.nan), {}, "finite forget scores"),
        ((RAMP * 0, RAMP * 0, RAMP), {}, "collapsed"),
        ((RAMP, RAMP[:50], RAMP), {}, "at least 100 non-members"),
        ((RAMP, RAMP, RAMP), {"labels": (ZERO, ZERO, ZERO[:3])}, "class numbers"),
        ((RAMP, RAMP, RAMP), {"labels": (ZERO, ZERO, ZERO - 1)}, "class numbers"),
        ((RAMP, RAMP, RAMP), {"labels": (ZERO, ZERO, ZERO + 0.5)}, "class numbers"),
        ((RAMP, RAMP, RAMP), {"labels": (ZERO, ZERO, ZERO + 1)}, "0 and 0 of class 1"),
    ],
)
def test_bad_input_is_refused(scores, options, message):
    with pytest.raises(ValueError, match=message) as error:
        evaluation.threshold_mia(*scores, **options)
    assert "\n" not in str(error.value)
