"""TOFU: golden numbers of the description, the law of forget quality, intervals, bad input."""

from __future__ import annotations

import numpy as np
import pytest

from mu_jax.evaluation import language
from mu_jax.evaluation.language.tofu import SMALLEST

CORRECT = [0.8, 1.1, 0.5, 2.0]
WRONG = [[1, 1.4, 0.9], [1.2, 0.7, 1.6], [1.5, 2.1, 1.9], [1.8, 2.5, 2.2]]
SETS = ("retain", "real authors", "world facts")


def test_the_numbers_of_the_description():
    ratio = language.truth_ratio(CORRECT, WRONG)
    np.testing.assert_allclose(ratio, [0.740818, 0.935507, 0.263597, 0.846482], atol=5e-7)
    assert language.closeness_to_one(ratio).mean() == pytest.approx(0.696601, abs=5e-7)
    assert language.preference_for_truth(ratio).mean() == pytest.approx(0.303399, abs=5e-7)
    arithmetic = language.truth_ratio(CORRECT, WRONG, average="arithmetic")
    np.testing.assert_allclose(arithmetic, [0.757460, 1.001064, 0.272124, 0.882221], atol=5e-7)
    found = language.forget_quality(ratio, [0.9, 1.0, 0.7, 1.3])
    assert found.statistic == 0.5 and found.p_value == pytest.approx(0.771429, abs=5e-7)
    assert language.forget_quality(1 / ratio, 1 / np.array([0.9, 1, 0.7, 1.3])) == found


def test_retrained_against_retrained_passes_and_the_target_does_not():
    random = np.random.default_rng(0)
    draws = random.lognormal(sigma=0.5, size=(300, 2, 200))
    found = np.array([language.forget_quality(*pair).p_value for pair in draws])
    assert (found > 0.05).mean() > 0.92 and found.min() > 1e-4
    target = language.forget_quality(0.6 * draws[0, 0], draws[0, 1])
    assert target.p_value < 1e-6 and target.log10_p == pytest.approx(np.log10(target.p_value))


def test_a_p_value_that_underflows_has_a_capped_logarithm():
    found = language.forget_quality(np.arange(3000.0), np.arange(3000.0) + 5000)
    assert found.p_value == 0 and found.log10_p == SMALLEST


def drawn(random, n, level):
    """Questions of one difficulty, on which the three numbers of a question hang alike."""
    hard = random.normal(size=n)
    likely = 1 / (1 + np.exp(hard + 0.5 * random.normal(size=n) - level))
    wrong = np.abs(1.2 + 0.6 * random.normal(size=(n, 4)) - 0.3 * hard[:, None])
    rouge = (random.uniform(size=n) < 1 / (1 + np.exp(hard - level))).astype(float)
    paraphrased = 0.2 * np.abs(random.normal(size=n)) - np.log(likely)
    return language.TofuSet(-np.log(likely), wrong, rouge, paraphrased)


def coverage(n, level, runs):
    random = np.random.default_rng(n)
    whole = {name: drawn(random, 100_000, level) for name in SETS}
    truth, held, given = language.model_utility(whole), 0, 0
    for _ in range(runs):
        try:
            found = language.model_utility_interval({s: drawn(random, n, level) for s in SETS})
        except ValueError:
            continue
        given, held = given + 1, held + (found.low <= truth <= found.high)
    return held / max(given, 1), given


def test_intervals_of_the_utility_cover():
    found, given = coverage(40, 1.0, 200)
    assert found >= 0.9 and given > 150


@pytest.mark.slow
@pytest.mark.parametrize("n", [20, 100])
@pytest.mark.parametrize("level", [3.0, 0.0])
def test_intervals_of_the_utility_cover_elsewhere(n, level):
    found, given = coverage(n, level, 1500)
    assert found >= 0.9 and given > 500


def test_a_collapsed_model_has_no_interval():
    assert coverage(40, -2.0, 20)[1] == 0


def test_a_number_of_zero_makes_the_utility_zero():
    random = np.random.default_rng(0)
    sets = {name: drawn(random, 30, 1.0) for name in SETS}
    sets["retain"] = sets["retain"]._replace(rouge=np.zeros(30))
    assert language.model_utility(sets) == 0
    with pytest.raises(ValueError, match="a utility of 0: print no interval"):
        language.model_utility_interval(sets)


def test_bad_input_is_one_sentence():
    part = drawn(np.random.default_rng(0), 5, 1.0)
    with pytest.raises(ValueError, match="expected the losses of paraphrased answers for 'forget'"):
        language.utility_numbers(part._replace(paraphrased_nll=()), "forget")
    assert language.utility_numbers(part._replace(paraphrased_nll=part.answer_nll), "forget")
    found = language.utility_numbers(part._replace(paraphrased_nll=()), "real authors")
    ratio = language.truth_ratio(part.answer_nll, part.perturbed_nll)
    np.testing.assert_array_equal(found["truth ratio"], language.preference_for_truth(ratio))
    with pytest.raises(ValueError, match="an answer without tokens has no loss"):
        language.truth_ratio([np.nan], [[1.0]])
    with pytest.raises(ValueError, match="give those of the same questions"):
        language.truth_ratio([1.0, 2.0], [[1.0]])
    with pytest.raises(ValueError, match="found none of world facts"):
        language.model_utility({"retain": part, "real authors": part})
    with pytest.raises(ValueError, match="a model without finite ratios has failed"):
        language.forget_quality([1.0], [])
    with pytest.raises(TypeError):
        language.forget_quality([1.0])
