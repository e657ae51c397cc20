from __future__ import annotations

import importlib

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score

from mu_jax import evaluation


def samples(shift, forget=120, unseen=100, seed=0):
    random = np.random.default_rng(seed)
    return random.exponential(size=forget), shift + random.exponential(size=unseen)


def test_the_score_is_the_published_formula():
    forget, unseen = samples(0.7, forget=100)
    found = evaluation.nomus(0.6, forget, unseen, seed=0)
    splits = StratifiedShuffleSplit(n_splits=10, test_size=0.1, random_state=0)
    features = np.concatenate([unseen, forget])[:, None]
    attack = cross_val_score(LogisticRegression(), features, np.repeat([0, 1], 100), cv=splits)
    assert found.attack_accuracy == pytest.approx(attack.mean(), abs=1e-12)
    assert found.forgetting_score == pytest.approx(abs(attack.mean() - 0.5))
    assert found.value == pytest.approx(0.5 * 0.6 + 0.5 * (1 - 2 * found.forgetting_score))
    assert (found.utility, found.n) == (0.6, 100)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    "utility, forgetting, published", [(0.5951, 0.2136, 0.5839), (0.4880, 0.0445, 0.6995)]
)
def test_published_columns_follow_from_it(utility, forgetting, published, sign, monkeypatch):
    """The original and the retrained model of MUFAC, as the publication prints them."""
    attack = evaluation.loss_mia(*samples(1.0), seed=0)._replace(accuracy=0.5 + sign * forgetting)
    module = importlib.import_module("mu_jax.evaluation.nomus")
    monkeypatch.setattr(module, "loss_mia", lambda *args, **kwargs: attack)
    found = evaluation.nomus(utility, *samples(1.0), seed=0)
    assert found.value == pytest.approx(published, abs=1e-4)


def test_forget_losses_above_those_of_unseen_examples_count_as_much():
    forget, unseen = samples(2.0, forget=100)
    below = evaluation.nomus(0.5, forget, unseen, seed=1)
    above = evaluation.nomus(0.5, unseen, forget, seed=1)
    assert below.forgetting_score > 0.3
    assert above.forgetting_score == pytest.approx(below.forgetting_score, abs=0.05)


def test_unequal_sides_do_not_make_an_attack():
    """Always naming the larger side would be right on nine tenths of these examples."""
    forget, unseen = samples(0.0, forget=50, unseen=450)
    found = evaluation.nomus(0.5, forget, unseen, seed=0)
    assert found.n == 50 and found.forgetting_score < 0.15


def test_the_weight_goes_from_forgetting_to_utility():
    values = [
        evaluation.nomus(0.3, *samples(5.0), seed=0, utility_weight=weight).value
        for weight in (0.0, 0.25, 1.0)
    ]
    assert values[2] == 0.3
    assert values[1] == pytest.approx(0.75 * values[0] + 0.25 * 0.3)


def test_the_floor_is_what_alike_samples_score():
    _, unseen = samples(0.0, unseen=400)
    found = evaluation.nomus_floor(0.8, unseen, n=100, seed=3, repeats=12)
    random = np.random.default_rng(5)
    fresh = [
        evaluation.nomus(0.8, *random.exponential(size=(2, 100)), seed=seed).forgetting_score
        for seed in range(12)
    ]
    spread = np.std(fresh) / np.sqrt(len(fresh))
    assert abs(found.forgetting_score - np.mean(fresh)) < 5 * spread
    assert found.value == pytest.approx(0.5 * 0.8 + 0.5 * (1 - 2 * found.forgetting_score))
    assert found.n == 100


def test_the_floor_falls_with_the_number_of_examples():
    _, unseen = samples(0.0, unseen=2000)
    few, many = (
        evaluation.nomus_floor(0.8, unseen, n=n, seed=0, repeats=8).forgetting_score
        for n in (40, 1000)
    )
    assert many < 0.5 * few


def test_the_gap_is_not_won_by_a_model_that_knows_nothing():
    forget, unseen = samples(0.3)
    retrained = evaluation.nomus(0.6, *samples(0.3, seed=1), seed=0)
    honest = evaluation.nomus(0.55, forget, unseen, seed=0)
    random = evaluation.nomus(0.1, *samples(0.0), seed=0)
    assert evaluation.nomus_gap(retrained, retrained) == 0
    assert evaluation.nomus_gap(honest, retrained) < evaluation.nomus_gap(random, retrained)
    expected = abs(0.1 - 0.6) + abs(random.forgetting_score - retrained.forgetting_score)
    assert evaluation.nomus_gap(random, retrained) == pytest.approx(expected)


FORGET, UNSEEN = samples(1.0)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: evaluation.nomus(59.5, FORGET, UNSEEN, seed=0), "a utility in \\[0, 1\\]"),
        (lambda: evaluation.nomus(np.nan, FORGET, UNSEEN, seed=0), "a utility in \\[0, 1\\]"),
        (lambda: evaluation.nomus(0.5, FORGET, UNSEEN, seed=0, utility_weight=2), "a weight"),
        (lambda: evaluation.nomus(0.1, FORGET * 0 + 2.3, UNSEEN * 0 + 2.3, seed=0), "collapsed"),
        (lambda: evaluation.nomus(0.1, FORGET[:9], UNSEEN, seed=0), "at least 10"),
        (lambda: evaluation.nomus(0.1, FORGET * np.inf, UNSEEN, seed=0), "finite"),
        (lambda: evaluation.nomus_floor(0.1, UNSEEN, n=99, seed=0, repeats=0), "one repeat"),
        (lambda: evaluation.nomus_floor(0.1, UNSEEN, n=5, seed=0), "at least 10"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
