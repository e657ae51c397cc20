from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from mu_jax import evaluation
from mu_jax.evaluation import ULiraOptions

FEW = ULiraOptions(targets=8, min_shadows=10, fpr=0.1)


def study(bases=24, runs=12, pool=80, size=16, shift=0.0, seed=0):
    """Margins with a level for every base model and example, and `shift` where unlearned."""
    rng = np.random.default_rng(seed)
    examples = pool + 10  # the last ten are never forgotten
    trained = rng.random((bases, examples)) < 0.5
    forgotten = np.zeros((bases, runs, examples), bool)
    for base, run in np.ndindex(bases, runs):
        seen = np.flatnonzero(trained[base, :pool])
        forgotten[base, run, rng.choice(seen, size, replace=False)] = True
    level = rng.normal(size=examples) * 3 + 0.3 * rng.normal(size=(bases, 1, examples))
    margins = level + rng.normal(size=(bases, runs, examples)) + shift * forgotten
    return margins, trained, forgotten


def test_equals_the_procedure_written_out_where_nothing_is_left_to_chance():
    """Even base models see and forget the first half of the pool, odd ones the second half.

    With 41 of them and two runs each, an even target has 40 shadow models on either side of
    every example, if and only if those of its own base model are left out.
    """
    rng = np.random.default_rng(0)
    trained = np.arange(41)[:, None] % 2 == np.arange(20) // 10
    forgotten = np.repeat(trained[:, None], 2, 1)
    margins = rng.normal(size=(41, 2, 20)) + 1.0 * forgotten
    options = ULiraOptions(targets=82, fpr=0.1)
    found = evaluation.u_lira(margins, trained, forgotten, seed=0, options=options)
    targets = list(zip(found.targets.base.tolist(), found.targets.run.tolist()))
    assert sorted(targets) == list(np.ndindex(41, 2))
    for place, (base, run) in enumerate(targets):
        if base % 2:
            continue
        even, odd = np.delete(margins[::2], base // 2, 0), margins[1::2]
        same, other = (
            scipy.stats.norm.logpdf(margins[base, run], side.mean((0, 1)), side.std((0, 1)))
            for side in (even, odd)
        )
        forgot, unseen = (same - other)[:10], (other - same)[10:]
        rows = slice(10 * place, 10 * place + 10)
        np.testing.assert_allclose(found.forgotten_scores[rows], forgot, rtol=1e-9)
        np.testing.assert_allclose(np.sort(found.unseen_scores[rows]), np.sort(unseen), rtol=1e-9)
        accuracy = ((forgot > 0).sum() + (unseen <= 0).sum()) / 20
        assert found.targets.accuracy[place] == pytest.approx(accuracy)
        assert found.targets.auc[place] == evaluation.auc(forgot, unseen)
        assert found.targets.tpr[place] == evaluation.tpr_at_fpr(forgot, unseen, 0.1)
        assert found.targets.shadows[place] == 40
    assert found.accuracy == pytest.approx(found.targets.accuracy.mean())
    assert found.auc_std == pytest.approx(found.targets.auc.std(ddof=1))
    assert found.tpr_std == pytest.approx(found.targets.tpr.std(ddof=1))


def test_perfect_unlearning_is_chance_and_leaks_are_found():
    results = [evaluation.u_lira(*study(shift=shift), seed=0, options=FEW) for shift in (0, 1, 3)]
    for values in zip(*((result.accuracy, result.auc, result.tpr) for result in results)):
        assert values[0] < values[1] < values[2]
    assert abs(results[0].accuracy - 0.5) < 3 * results[0].accuracy_std / np.sqrt(8)
    # Two unit Gaussians three apart, with a further 0.3 between base models.
    width = np.sqrt(1 + 0.3**2)
    assert results[2].accuracy == pytest.approx(scipy.stats.norm.cdf(1.5 / width), abs=0.04)
    assert results[2].auc == pytest.approx(scipy.stats.norm.cdf(3 / width / np.sqrt(2)), abs=0.03)


def test_floor_is_near_chance_whatever_the_method_leaks():
    margins, trained, forgotten = study(bases=40, shift=5.0)
    leak = evaluation.u_lira(margins, trained, forgotten, seed=0, options=FEW)
    floor = evaluation.u_lira_floor(margins, trained, forgotten, seed=0, options=FEW)
    assert leak.accuracy > 0.95
    assert abs(floor.accuracy - 0.5) < 0.1
    assert abs(floor.auc - 0.5) < 0.1
    assert floor.targets.shadows.min() >= 10


def test_results_follow_the_seed_and_targets_spread_over_base_models():
    data = study(shift=1.0)
    first, again, other = (
        evaluation.u_lira(*data, seed=seed, options=FEW._replace(targets=24)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.forgotten_scores, again.forgotten_scores)
    assert not np.array_equal(first.forgotten_scores, other.forgotten_scores)
    assert np.unique(first.targets.base).size == 24
    assert first.forgotten_scores.shape == first.unseen_scores.shape == (24 * 16,)


def test_cap_bounds_the_shadow_models():
    data = study()
    found = evaluation.u_lira(*data, seed=0, options=FEW._replace(cap=12))
    assert (found.targets.shadows == 12).all()


def test_models_that_retained_an_example_take_no_part():
    margins, trained, forgotten = study(shift=1.0)
    retained = trained[:, None] & ~forgotten
    found, same = (
        evaluation.u_lira(values, trained, forgotten, seed=0, options=FEW)
        for values in (margins, margins + 1e3 * retained)
    )
    np.testing.assert_array_equal(found.forgotten_scores, same.forgotten_scores)
    np.testing.assert_array_equal(found.unseen_scores, same.unseen_scores)


def test_a_cut_takes_shadows_of_many_base_models():
    """Runs of one base model agree, so a fit to those of a single one would be sure of nonsense."""
    margins, trained, forgotten = study()
    margins = margins[:, :1] + 1e-6 * margins
    found = evaluation.u_lira(margins, trained, forgotten, seed=0, options=FEW._replace(cap=12))
    assert np.abs(found.forgotten_scores).max() < 100


def test_sides_of_the_floor_are_disjoint():
    found = evaluation.u_lira_floor(*study(bases=40), seed=0, options=FEW)
    assert np.intersect1d(found.forgotten_scores, found.unseen_scores).size == 0


def test_robust_fit_survives_runs_that_diverged():
    margins, trained, forgotten = study(bases=40, shift=3.0)
    diverged = np.random.default_rng(0).random((40, 12, 1)) < 0.05
    margins = np.where(diverged, -1e5, margins)
    robust, plain = (
        evaluation.u_lira(margins, trained, forgotten, seed=2, options=FEW._replace(fit=fit))
        for fit in ("quantiles", "moments")
    )
    assert robust.accuracy > plain.accuracy + 0.1


MARGINS, TRAINED, FORGOTTEN = study()


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((MARGINS[:1], TRAINED[:1], FORGOTTEN[:1]), FEW, "at least two base models"),
        ((MARGINS[0], TRAINED, FORGOTTEN), FEW, "at least two base models"),
        ((MARGINS, TRAINED[:, :5], FORGOTTEN), FEW, "bool masks"),
        ((MARGINS, TRAINED, FORGOTTEN.astype(int)), FEW, "bool masks"),
        ((MARGINS, TRAINED, ~FORGOTTEN), FEW, "trained on, found"),
        ((np.where(MARGINS > 9, np.nan, MARGINS), TRAINED, FORGOTTEN), FEW, "finite margins"),
        ((MARGINS[:4], TRAINED[:4], FORGOTTEN[:4]), FEW, "at least 10 shadow models"),
        ((MARGINS, TRAINED, FORGOTTEN), FEW._replace(targets=1), "from 2 to 288 targets"),
        ((MARGINS, TRAINED, FORGOTTEN), FEW._replace(fpr=0.01), "at least 100 non-members"),
        ((MARGINS * 0, TRAINED, FORGOTTEN), FEW, "one value for all"),
        ((MARGINS, TRAINED, FORGOTTEN & False), FEW, "found 0 and 0"),
    ],
)
def test_bad_input_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message) as error:
        evaluation.u_lira(*arguments, seed=0, options=options)
    assert "\n" not in str(error.value)
