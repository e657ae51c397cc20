from __future__ import annotations

import numpy as np
import pytest
from sklearn.svm import SVC

from mu_jax import evaluation


def confidences(*sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.beta(*shape, n) for shape, n in zip(((8, 1), (2, 2), (4, 1)), sizes)]


@pytest.mark.parametrize("columns", [1, 4])
def test_equals_the_published_program_on_equal_sides(columns):
    rng = np.random.default_rng(1)
    retain, test, forget = (
        side[:, None] * rng.uniform(0.8, 1, (side.size, columns))
        for side in confidences(150, 150, 60)
    )
    attack = SVC(C=3, gamma="auto", kernel="rbf")
    attack.fit(np.concatenate([retain, test]), np.repeat([1, 0], 150))
    found = evaluation.svc_mia(retain, test, forget, seed=0)
    assert found.nonmember_fraction == pytest.approx((attack.predict(forget) == 0).mean())
    recalls = attack.predict(retain).mean(), (attack.predict(test) == 0).mean()
    assert found.fit_accuracy == pytest.approx(np.mean(recalls))
    assert (found.n_fit, found.n_forget) == (150, 60)
    assert 0 < found.nonmember_fraction < 1
    if columns == 1:
        assert evaluation.svc_mia(retain[:, 0], test[:, 0], forget[:, 0], seed=0) == found


def test_the_larger_side_is_subsampled_at_random_not_from_its_start():
    retain, test, forget = confidences(400, 80, 50)
    ordered = np.sort(retain)[::-1]
    found = evaluation.svc_mia(ordered, test, forget, seed=3)
    chosen = ordered[np.random.default_rng(3).choice(400, 80, replace=False)]
    assert found == evaluation.svc_mia(chosen, test, forget, seed=9)
    assert found.n_fit == 80
    first = evaluation.svc_mia(ordered[:80], test, forget, seed=3)
    assert first.nonmember_fraction > found.nonmember_fraction + 0.2
    many = evaluation.svc_mia(retain[:50], confidences(1, 300)[1], forget, seed=0)
    assert many.n_fit == 50


def test_training_privacy_scores_only_examples_that_were_not_fitted_to():
    rng = np.random.default_rng(0)
    chance = evaluation.svc_training_privacy(rng.normal(size=400), rng.normal(size=400), seed=0)
    assert abs(chance - 0.5) < 0.08
    # An attack that remembers every example would be perfect on those.
    wide = evaluation.svc_training_privacy(*(rng.normal(size=(2, 300, 2)) * 1e3), seed=0)
    assert abs(wide - 0.5) < 0.1
    retain, test, _ = confidences(400, 300, 1)
    assert 0.7 < evaluation.svc_training_privacy(retain, test, seed=0) < 0.95


RAMP = np.linspace(0, 1, 30)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((RAMP[:9], RAMP, RAMP), "at least 10 examples"),
        ((RAMP, RAMP[:9], RAMP), "at least 10 examples"),
        ((RAMP, RAMP, RAMP[:0]), "at least 1 examples"),
        ((RAMP, RAMP, RAMP * np.nan), "finite forget features"),
        ((RAMP[:, None, None], RAMP, RAMP), "expected retain features"),
        ((RAMP.reshape(15, 2), RAMP, RAMP), "as many features in every set"),
        ((RAMP * 0 + 0.1, RAMP * 0 + 0.1, RAMP), "collapsed"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        evaluation.svc_mia(*arguments, seed=0)
    assert "\n" not in str(error.value)


def test_training_privacy_needs_examples_left_to_score():
    with pytest.raises(ValueError, match="at least 16 examples"):
        evaluation.svc_training_privacy(RAMP[:15], RAMP, seed=0)
    with pytest.raises(ValueError, match="at least 20 examples"):
        evaluation.svc_training_privacy(RAMP, RAMP[:19], seed=0)
