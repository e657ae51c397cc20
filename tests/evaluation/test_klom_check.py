from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from compilations import counted_compilations

from mu_jax import evaluation


def gaussians(models=64, examples=50, shift=0.0, seed=0):
    both = np.random.default_rng(seed).normal(size=(2, models, examples)).astype(np.float32)
    both[1] += shift
    return both[0], both[1]


@pytest.mark.parametrize("shift, whole, stretched", [(2.0, 4.1, 1.9), (0.0, 0.64, 0.05)])
@pytest.mark.parametrize("side", ["oracle", "unlearned"])
def test_the_model_that_makes_klom_small_is_named(shift, whole, stretched, side):
    ensembles = dict(zip(("oracle", "unlearned"), gaussians(shift=shift)))
    whole_value = float(evaluation.klom(*ensembles.values()).mean())
    assert whole_value == pytest.approx(whole, rel=0.15)
    assert not evaluation.klom_check(*ensembles.values()).flag
    ensembles[side][7] = -80.0
    found = evaluation.klom_check(*ensembles.values(), floor=0.5)
    assert found.value < whole_value / 2
    named = {"oracle": found.oracle_models, "unlearned": found.unlearned_models}
    assert named.pop(side) == (7,) and list(named.values()) == [()]
    assert found.below_floor == (found.value < 0.5)
    assert found.value_without == pytest.approx(whole_value, rel=0.15)
    assert found.flag and f"{side} 7" in found.reason


def test_two_models_that_hide_each_other_are_both_named():
    oracle, unlearned = gaussians(shift=2.0)
    unlearned[[3, 9]] = -80.0
    found = evaluation.klom_check(oracle, unlearned)
    assert found.unlearned_models == (3, 9) and found.value_without > 1.5 * found.value
    assert evaluation.klom_influence(oracle, unlearned)[1].max() < 0.5  # one out changes little


def test_influence_is_leaving_out_one_by_one():
    oracle, unlearned = gaussians(models=6, examples=9, shift=1.0)
    for q in (None, 0.95):

        def of(a, b, q=q):
            values = np.asarray(evaluation.klom(a, b))
            return values.mean() if q is None else np.quantile(values, q)

        both = evaluation.klom_influence(oracle, unlearned, q=q)
        for i in range(6):
            without = of(np.delete(oracle, i, 0), unlearned), of(oracle, np.delete(unlearned, i, 0))
            expected = np.array(without) - of(oracle, unlearned)
            np.testing.assert_allclose([both[0][i], both[1][i]], expected, atol=1e-5)


def test_below_the_floor_without_a_far_model_the_most_influential_one_is_named():
    oracle, unlearned = gaussians(models=5, examples=40, shift=2.0)  # too few to be far
    floor = float(evaluation.klom(oracle, unlearned).mean()) - 0.5
    unlearned[2] = -80.0
    found = evaluation.klom_check(oracle, unlearned, floor=floor)
    assert found.below_floor and found.unlearned_models == (2,)
    oracle, unlearned = gaussians(examples=40)
    found = evaluation.klom_check(oracle, unlearned, floor=5.0)
    assert found.below_floor and found.unlearned_models == found.oracle_models == ()
    assert "no single model is the cause" in found.reason


def test_distance_is_that_of_its_definition_and_infinite_for_broken_models():
    margins = gaussians(models=12, examples=30)[0]
    center = np.median(margins, 0)
    away = np.abs(margins - center)
    expected = np.quantile(away / (1.4826 * np.median(away, 0)), 0.75, axis=1)
    np.testing.assert_allclose(evaluation.ensemble_distance(margins), expected, rtol=1e-5)
    broken = np.vstack([margins, np.full(30, np.nan)])
    found = evaluation.ensemble_distance(broken)
    assert np.isinf(found[-1])
    np.testing.assert_allclose(found[:-1], expected, rtol=1e-5)
    assert float(evaluation.ensemble_distance(jnp.zeros((4, 3))).max()) == 0
    with pytest.raises(ValueError, match="at least two models"):
        evaluation.ensemble_distance(margins[0])


def test_intervals_of_klom_are_refused_where_they_would_not_cover():
    few = gaussians(models=7, examples=100)
    with pytest.raises(ValueError, match=r"at least 8 models of every kind .* found 7"):
        evaluation.klom_interval(*few)
    small = gaussians(models=16, examples=50)
    with pytest.raises(ValueError, match=r"at least 72 values .* found 50"):
        evaluation.klom_interval(*small)
    with pytest.raises(ValueError, match=r"at least 72 examples .* found 50"):
        evaluation.klom_difference(small[0], small[1], small[1], seed=0)
    assert evaluation.klom_interval(*small, q=None).low > 0
    with pytest.raises(ValueError, match="as many models"):
        evaluation.klom_difference(small[0], small[1], small[1][1:], seed=0)


def test_a_second_interval_and_influence_compile_nothing():
    def all_of(seed):
        oracle, unlearned = gaussians(models=9, examples=80, seed=seed)
        evaluation.klom_interval(oracle, unlearned)
        evaluation.klom_influence(oracle, unlearned)

    all_of(0)
    with counted_compilations() as compilations:
        all_of(1)
    assert compilations == []
