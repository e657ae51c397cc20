from __future__ import annotations

import numpy as np
import pytest

from mu_jax import evaluation

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 10, 1000)


def one_hot_logits(predictions):
    return np.eye(10, dtype=np.float32)[predictions]


def test_a_working_model_has_not_collapsed():
    for share in (0.0, 0.5, 0.8):
        predictions = np.where(RNG.uniform(size=1000) < share, 0, LABELS)
        assert evaluation.collapsed(predictions, LABELS) == (False, "")
        assert evaluation.collapsed(one_hot_logits(predictions), LABELS) == (False, "")


def test_constant_predictions_have_collapsed_however_common_the_class():
    labels = np.where(np.arange(1000) < 990, 4, 1)
    found = evaluation.collapsed(np.full(1000, 4), labels)
    assert (
        found.flag
        and found.reason == "constant predictions: class 4 for all 1000 retained examples"
    )


def test_chance_accuracy_is_a_collapse_with_its_numbers():
    found = evaluation.collapsed(RNG.integers(0, 10, 1000), LABELS)
    assert found.flag
    assert "3 standard errors" in found.reason and "1000 examples" in found.reason


def test_chance_follows_the_predicted_and_true_shares():
    labels = (RNG.uniform(size=2000) < 0.1).astype(int)
    predictions = (RNG.uniform(size=2000) < 0.1).astype(int)  # accuracy about 0.82 by chance
    assert (predictions == labels).mean() > 0.78
    assert evaluation.collapsed(predictions, labels).flag


def test_the_bound_is_three_standard_errors():
    labels = np.arange(1000) % 10
    shuffled = np.roll(labels, 1)  # never right, the same shares: chance is exactly 0.1
    bound = int(1000 * (0.1 + 3 * np.sqrt(0.1 * 0.9 / 1000)))  # 128.46: 128 correct
    for correct, flag in ((bound, True), (bound + 12, False)):
        right = np.arange(1000) < correct
        predictions = np.where(right, labels, shuffled)
        assert evaluation.collapsed(predictions, labels).flag == flag
    loose = evaluation.collapsed(predictions, labels, standard_errors=5.0)
    assert loose.flag and "5 standard errors" in loose.reason


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_outputs_have_collapsed(bad):
    logits = one_hot_logits(LABELS)
    logits[[3, 5], 2] = bad
    found = evaluation.collapsed(logits, LABELS)
    assert found == (True, "non-finite outputs on 2 of 1000 retained examples")


@pytest.mark.parametrize(
    "outputs, labels, message",
    [
        (LABELS[:-1], LABELS, "one model at a time"),
        (np.zeros((2, 1000, 10)), LABELS, "one model at a time"),
        (LABELS.astype(float), LABELS, "class numbers or logits"),
        (LABELS * 0, LABELS * 0, "at least two classes"),
        ([0, 1, 0], [0, 1, 0], "pass more examples"),
        ([], [], "found none"),
    ],
)
def test_what_cannot_be_judged_is_refused(outputs, labels, message):
    with pytest.raises(ValueError, match=message):
        evaluation.collapsed(outputs, labels)


def ensemble(broken=0, models=24, share=0.3):
    """Predictions of models that err on one example in a hundred; the first lose a share more."""
    random = np.random.default_rng(1)
    wrong = random.uniform(size=(models, 1000)) < 0.01
    wrong[:broken] |= random.uniform(size=(broken, 1000)) < share
    return np.where(wrong, (LABELS + 1) % 10, LABELS)


@pytest.mark.parametrize("broken, flag", [(0, False), (1, False), (7, False), (11, False)])
def test_models_far_from_their_ensemble_are_counted_though_above_chance(broken, flag):
    predictions = ensemble(broken)
    assert not any(evaluation.collapsed(one, LABELS).flag for one in predictions)
    found = evaluation.collapsed_models(predictions, LABELS)
    assert (found.flag, found.models, found.total) == (flag, tuple(range(broken)), 24)
    assert found.collapsed == broken and bool(found.reason) == bool(broken)


@pytest.mark.parametrize("broken, flag", [(12, False), (13, True), (24, True)])
def test_a_row_has_collapsed_if_most_of_its_models_have(broken, flag):
    predictions = ensemble()
    predictions[:broken] = 4
    found = evaluation.collapsed_models(predictions, LABELS)
    assert found.flag == flag and set(range(broken)) <= set(found.models)
    assert f"{found.collapsed} of 24 models collapsed, the first with constant" in found.reason


def test_a_little_worse_than_the_others_is_no_collapse():
    predictions = ensemble(1, share=0.05)
    assert (predictions[0] == LABELS).mean() < 0.96
    assert evaluation.collapsed_models(predictions, LABELS).models == ()


def test_a_model_with_stretched_logits_is_far_though_as_accurate():
    random = np.random.default_rng(2)
    logits = 5 * np.eye(10)[LABELS] + random.normal(size=(16, 1000, 10))
    assert evaluation.collapsed_models(logits, LABELS).collapsed == 0
    logits[5] *= 8
    found = evaluation.collapsed_models(logits, LABELS)
    assert found.models == (5,) and "margins" in found.reason and not found.flag
    logits[6, 3] = np.nan
    assert evaluation.collapsed_models(logits, LABELS).models == (5, 6)
    with pytest.raises(ValueError, match="stack the models"):
        evaluation.collapsed_models(LABELS, LABELS)
