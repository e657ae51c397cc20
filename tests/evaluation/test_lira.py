from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from mu_jax import evaluation
from mu_jax.evaluation.lira import fit_normals


def ensemble(models=129, examples=60, seed=0, shift=2.0, widths=(0.5, 2)):
    """Margins of models on random halves; examples differ in level and width."""
    rng = np.random.default_rng(seed)
    trained = rng.random((models, examples)) < 0.5
    level, width = rng.normal(size=examples) * 5, np.linspace(*widths, examples)
    return rng.normal(size=(models, examples)) * width + level + shift * trained, trained


def sides(margins, trained, example):
    chosen = trained[:, example]
    return margins[chosen, example], margins[~chosen, example]


@pytest.mark.parametrize("fit", ["median", "moments"])
def test_online_equals_the_definition_example_by_example(fit):
    margins, trained = ensemble()
    found = evaluation.lira(margins[:3], margins[3:], trained[3:], fit=fit)
    center = {"median": np.median, "moments": np.mean}[fit]
    for example in range(60):
        inside, outside = sides(margins[3:], trained[3:], example)
        expected = scipy.stats.norm.logpdf(
            margins[:3, example], center(inside), inside.std()
        ) - scipy.stats.norm.logpdf(margins[:3, example], center(outside), outside.std())
        np.testing.assert_allclose(found[:, example], expected, rtol=1e-10, atol=1e-10)


def test_offline_orders_as_the_tail_probability_and_does_not_saturate():
    margins, trained = ensemble()
    target = margins[:3] + np.linspace(-3, 60, 60)
    found = evaluation.lira_offline(target, margins[3:], trained[3:])
    for example in range(60):
        _, outside = sides(margins[3:], trained[3:], example)
        model = scipy.stats.norm(np.median(outside), outside.std())
        np.testing.assert_allclose(found[:, example], -model.logsf(target[:, example]), rtol=1e-9)
    assert np.isfinite(found).all() and found.max() > 100


def test_quantile_fit_is_that_of_numpy_and_ignores_diverged_models():
    margins, trained = ensemble()
    found = fit_normals(margins, trained, fit="quantiles")
    inside, _ = sides(margins, trained, 7)
    low, middle, high = np.quantile(inside, [0.25, 0.5, 0.75])
    assert found.center[7] == pytest.approx(middle, rel=1e-12)
    assert found.std[7] == pytest.approx((high - low) / (2 * scipy.stats.norm.ppf(0.75)), rel=1e-12)
    margins[:3], trained[:3] = -1e6, True
    robust, plain = (fit_normals(margins, trained, fit=fit) for fit in ("quantiles", "moments"))
    assert np.abs(robust.std / found.std - 1).max() < 0.5
    assert plain.std.min() > 1e4


def test_pooled_variance_is_that_within_examples_of_each_side():
    margins, trained = ensemble()
    groups = [[sides(margins, trained, e)[side] for e in range(60)] for side in (0, 1)]
    for chosen, group in zip((trained, ~trained), groups):
        found = fit_normals(margins, chosen, fit="moments", pooled_variance=True)
        # The mean square within groups of a one-way analysis of variance.
        squares = sum(((values - values.mean()) ** 2).sum() for values in group)
        expected = squares / sum(values.size - 1 for values in group)
        np.testing.assert_allclose(found.std**2, np.full(60, expected), rtol=1e-12)
    # Differences between examples (levels of width 5) are not in it.
    assert found.std[0] < 2


def test_each_side_has_its_own_pooled_variance():
    margins, trained = ensemble(shift=0)
    margins = np.where(trained, 3 * margins, margins)
    target = margins.mean(0)
    found = evaluation.lira(target, margins, trained, pooled_variance=True)
    inside, outside = (
        fit_normals(margins, c, fit="median", pooled_variance=True) for c in (trained, ~trained)
    )
    np.testing.assert_allclose(inside.std / outside.std, np.full(60, 3), rtol=0.1)
    np.testing.assert_allclose(found, inside.log_density(target) - outside.log_density(target))


def test_attack_finds_members_and_pooling_helps_with_few_shadows():
    margins, trained = ensemble(models=21, examples=4000, shift=1.5, widths=(1, 1))
    target, members = margins[0], trained[0]
    scores = {
        pooled: evaluation.lira(
            target, margins[1:], trained[1:], pooled_variance=pooled, min_shadows=2
        )
        for pooled in (False, True)
    }
    found = {
        pooled: evaluation.attack_summary(s[members], s[~members]) for pooled, s in scores.items()
    }
    assert found[True].auc > found[False].auc > 0.6
    assert found[True].tpr[1] > 5 * 0.01


def test_scores_of_an_ensemble_that_does_not_remember_are_chance():
    margins, trained = ensemble(examples=3000, shift=0)
    scores = evaluation.lira(margins[0], margins[1:], trained[1:])
    found = evaluation.attack_summary(scores[trained[0]], scores[~trained[0]], fpr=[0.1])
    assert abs(found.auc - 0.5) < 4 * found.auc_null_std
    assert found.balanced_accuracy < found.balanced_accuracy_floor + 0.03


@pytest.mark.parametrize("attack", [evaluation.lira, evaluation.lira_offline])
def test_scores_are_averaged_over_augmentations(attack):
    rng = np.random.default_rng(0)
    margins, trained = ensemble()
    views = np.stack([margins, margins * 2 + rng.normal(size=margins.shape)], -1)
    found = attack(views[:2], views[2:], trained[2:])
    expected = [attack(views[:2, :, v], views[2:, :, v], trained[2:]) for v in (0, 1)]
    np.testing.assert_allclose(found, np.mean(expected, 0), rtol=1e-12)


GOOD, MASK = ensemble(models=80, examples=5)


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((GOOD[0, :4], GOOD, MASK), {}, "same last axes"),
        ((GOOD[0], GOOD, MASK[:, :4]), {}, "bool \\(80, 5\\)"),
        ((GOOD[0], GOOD, MASK.astype(float)), {}, "bool \\(80, 5\\)"),
        ((GOOD[0], np.where(GOOD > 9, np.nan, GOOD), MASK), {}, "finite shadow margins"),
        ((GOOD[0] * np.inf, GOOD, MASK), {}, "finite target margins"),
        ((GOOD[0], GOOD[:40], MASK[:40]), {}, "at least 32 shadow models trained on"),
        ((GOOD[0], GOOD[:12], MASK[:12]), {"pooled_variance": True}, "at least 8 shadow models"),
        ((GOOD[0], GOOD, ~np.zeros_like(MASK)), {}, "not trained on each example, found 0"),
        ((GOOD[0], GOOD * 0, MASK), {"min_shadows": 2}, "one value for all of them on 5 of 5"),
        ((GOOD[0], GOOD, MASK), {"fit": "mean", "min_shadows": 2}, "expected fit"),
    ],
)
def test_bad_input_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message) as error:
        evaluation.lira(*arguments, **options)
    assert "\n" not in str(error.value)


def test_offline_needs_no_members():
    with pytest.raises(ValueError, match="not trained on each example, found 0 for example 2"):
        evaluation.lira_offline(GOOD[0], GOOD, MASK | (np.arange(5) == 2))
    assert evaluation.lira_offline(GOOD[0], GOOD, np.zeros_like(MASK)).shape == (5,)
