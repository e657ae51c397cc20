"""Influence steps: the slope of their error over leave-k-out, masks, streams and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import FORGET_IDS, setting
from trees import assert_close, assert_identical, is_one_sentence

import mu_jax as mu
from benchmarks import influence as measured

KEY = jax.random.key(0)
RAW = setting("raw")
SOLVER = mu.solvers.conjugate_gradients(tolerance=1e-6)


def unlearned(sets=None, **options):
    options = {"damping": 0.5, "solver": SOLVER, **options}
    unlearn = mu.watched(mu.influence(RAW.model, **options), False)
    return unlearn(KEY, RAW.variables, *(sets or RAW.sets()))


# --- leave k out: errors of second order ---


@pytest.mark.slow
@pytest.mark.parametrize("pair", measured.PAIRS, ids=str)
def test_the_slopes_of_all_curves_of_the_page(pair):
    assert_orders(measured.errors(pair), measured.KS)


def test_exact_curvature_follows_retraining_to_second_order_and_the_rank_one_reference_does_not():
    ks, names = (2, 8, 32), ("reweighted Newton", measured.RANK_ONE)
    found = measured.errors(measured.PAIRS[0], ks, names)
    assert_orders(found, ks)
    assert (found["reweighted Newton"] < 0.05 * found[measured.MOVE]).all()
    assert (found[measured.RANK_ONE] > 0.5 * found[measured.MOVE]).all()


def assert_orders(found, ks):
    slopes = {name: measured.slope(ks, values) for name, values in found.items()}
    for name in (measured.MOVE, measured.RANK_ONE):
        assert abs(slopes.pop(name) - 1) < 0.1
    assert slopes
    for value in slopes.values():
        assert abs(value - 2) < 0.25


# --- what a step does ---


def test_alpha_scales_the_step():
    start = RAW.variables.params
    whole, half = (unlearned(alpha=a)[0].params for a in (1.0, 0.5))
    expected = jax.tree.map(lambda a, b: (a + b) / 2, start, whole)
    assert_close(half, expected)


def test_what_is_reported():
    after, info = unlearned()
    start = RAW.variables.params

    def norm(tree):
        return np.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(tree)))

    step = jax.tree.map(lambda a, b: a - b, after.params, start)
    details = info.details
    np.testing.assert_allclose(details.relative_step, norm(step) / norm(start), rtol=1e-4)
    np.testing.assert_allclose(details.forget_fraction, len(FORGET_IDS) / 22, rtol=1e-6)
    assert details.predicted_forget_change > 0
    assert details.solver.converged
    assert info.example_passes == 22 * (1 + details.solver.products)


@pytest.mark.slow
@pytest.mark.parametrize("formula", ["reweighted_influence", "retain_newton"])
def test_streams_give_the_same(formula):
    arrays, streams = (unlearned(sets, formula=formula) for sets in (RAW.sets(), RAW.streams()))
    assert_close(arrays[0], streams[0], atol=1e-5)


@pytest.mark.slow
def test_masked_parameters_are_outside_of_the_problem():
    unlearn = mu.influence(RAW.model, damping=0.5, solver=SOLVER)
    frozen = mu.watched(mu.masked(unlearn, lambda name: "bias" in name), False)
    after, _ = frozen(KEY, RAW.variables, *RAW.sets())
    before = RAW.variables.params
    for name in ("head", "hidden"):
        assert_identical(after.params[name], before[name])
    assert (after.params["bias"] != before["bias"]).any()


def test_a_long_step_says_so():
    with pytest.warns(mu.UnlearningWarning, match="times as long as the parameters"):
        unlearned(alpha=1e4)


def test_negative_curvature_is_a_warning():
    model = mu.from_function(
        lambda w, state, x: (x * jnp.cos(w)).sum(axis=1), lambda outputs, targets: outputs - targets
    )
    sets = mu.split(mu.batches(np.eye(3), np.zeros(3), batch_size=3), [0])
    unlearn = mu.watched(mu.influence(model, curvature="hessian", solver=SOLVER), False)
    with (
        pytest.warns(mu.UnlearningWarning, match="Nothing was changed"),
        pytest.warns(mu.UnlearningWarning, match="stopped at negative curvature.*raise damping"),
    ):
        unlearn(KEY, mu.Variables(jnp.full(3, 0.1)), *sets)


BAD = {
    "formula": lambda: mu.influence(RAW.model, formula="newton"),
    "curvature": lambda: mu.influence(RAW.model, curvature="fisher"),
    "damping": lambda: mu.influence(RAW.model, damping=-0.1),
    "l2": lambda: mu.influence(RAW.model, l2=float("nan")),
    "inverse curvature": lambda: mu.solvers.InverseCurvature(SOLVER, curvature="fisher"),
    "iterators": lambda: unlearned([iter(list(x)) for x in RAW.sets()]),
    "an iterator": lambda: unlearned([list(RAW.sets()[0]), iter(list(RAW.sets()[1]))]),
    "alpha": lambda: mu.influence(RAW.model, alpha=-1.0),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_one_sentence(name):
    says = "an iterator" if "iterator" in name else "expected"
    with pytest.raises(ValueError, match=says) as error:
        BAD[name]()
    assert is_one_sentence(str(error.value))
