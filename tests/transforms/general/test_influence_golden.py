"""Solvers against fixed numbers, and removal formulas against closed forms, in float64.

The numbers are those of `golden/classification_influence*.npz` and `golden/influence_ridge.npz`.
They are not to be regenerated from this code: when a test fails, either the code is wrong or the
definition was changed on purpose.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_files import load
from golden_networks import MODEL, params
from trees import is_one_sentence

import mu_jax as mu
from mu_jax import solvers

GOLDEN = load("classification_influence_solvers.npz")
PUBLISHED = load("classification_influence.npz")
RIDGE = load("influence_ridge.npz")
RIDGE_MODEL = mu.from_function(lambda w, state, x: x @ w, optax.l2_loss)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def flat(tree):
    return np.concatenate([np.asarray(tree[str(name)]).ravel() for name in GOLDEN["param_names"]])


def tree(vector):
    found, start = {}, 0
    for name, leaf in params(GOLDEN, "before").items():
        found[name] = jnp.asarray(vector[start : start + leaf.size].reshape(leaf.shape))
        start += leaf.size
    return found


def problem(damping=0.1, **options):
    rows = GOLDEN["retain_random_rows"]
    x, y = GOLDEN["x"][rows], GOLDEN["y"][rows]
    data = mu.batches(x, y, batch_size=100, index=rows)  # ragged: 100, 100, 40
    return solvers.Problem(
        MODEL, mu.Variables(params(GOLDEN, "before")), data, damping=damping, **options
    )


def solve(solver, damping=0.1):
    return solver(problem(damping), tree(GOLDEN["v"]))


def assert_solution(found, expected, tolerance=1e-10):
    np.testing.assert_allclose(flat(found), expected, rtol=0, atol=tolerance)


@pytest.mark.slow
def test_the_right_hand_side():
    case = problem()
    rows = GOLDEN["forget_random_rows"]
    forget = mu.batches(GOLDEN["x"][rows], GOLDEN["y"][rows], batch_size=60)
    statistic = mu.statistics.mean_gradient(MODEL)
    g_f, g_r = (mu.collect(statistic, case.variables, x).value for x in (forget, case.data))
    found = optax.tree.scale(0.2, optax.tree.sub(g_f, g_r))
    assert_solution(found, GOLDEN["v"], 1e-12)


def test_the_product_of_the_gauss_newton_matrix():
    found = problem(0.0).product(tree(GOLDEN["ggn/probe_seed_vector"]))
    assert_solution(found, GOLDEN["ggn/probe_product"], 1e-12)


@pytest.mark.slow
def test_the_largest_eigenvalue():
    found = solvers.largest_eigenvalue(problem(0.0), iterations=100)
    np.testing.assert_allclose(found, GOLDEN["ggn/largest_eigenvalue"], rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damping", "key"), [(0.1, "ggn/solution"), (0.01, "ggn/solution_damping_0.01")]
)
def test_conjugate_gradients_solve(damping, key):
    solver = solvers.conjugate_gradients(iterations=300, tolerance=1e-11)
    found, info = solve(solver, damping)
    assert_solution(found, GOLDEN[key], 1e-8)
    assert info.converged
    assert info.residual_norm <= 1e-11
    assert not info.messages()


@pytest.mark.quick("2", "5")
@pytest.mark.parametrize("iterations", range(1, 9))
def test_the_iterates_of_conjugate_gradients(iterations):
    found, info = solve(solvers.conjugate_gradients(iterations=iterations, tolerance=0))
    norms = GOLDEN["cg/residual_norms"]
    np.testing.assert_allclose(info.residual_norm, norms[iterations] / norms[0], rtol=1e-8)
    np.testing.assert_allclose(info.min_curvature, GOLDEN["cg/curvature"][:iterations].min())
    if iterations in (2, 5):
        assert_solution(found, GOLDEN[f"cg/x_{iterations}"])


@pytest.mark.parametrize("iteration", ["B", "A"])
def test_both_iterations_of_lissa(iteration):
    scale = float(GOLDEN["lissa/hp/scale"])
    solver = solvers.lissa(iterations=200, scale=scale, tolerance=0, iteration=iteration)
    found, info = solve(solver)
    assert_solution(found, GOLDEN[f"lissa/{iteration.lower()}"])
    damping = 0.1 * (scale if iteration == "A" else 1)
    np.testing.assert_allclose(info.effective_damping, damping)


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True], ids=["arrays", "list"])
def test_lissa_that_reads_one_batch_for_each_product(streamed):
    rows = GOLDEN["lissa/minibatch_rows"].ravel()
    data = mu.batches(GOLDEN["x"][rows], GOLDEN["y"][rows], batch_size=32)
    case = dataclasses.replace(problem(), data=list(data) if streamed else data)
    scale = float(GOLDEN["lissa/hp/minibatch_scale"])
    solver = solvers.lissa(iterations=15, scale=scale, one_batch=True)
    found, info = solver(case, tree(GOLDEN["v"]))
    assert_solution(found, GOLDEN["lissa/minibatch"])
    rest = optax.tree.sub(tree(GOLDEN["v"]), case.product(found))
    expected = optax.tree.norm(rest) / np.linalg.norm(GOLDEN["v"])
    np.testing.assert_allclose(info.residual_norm, expected, rtol=1e-9)
    assert info.products == 2


@pytest.mark.slow
def test_the_fixed_point_of_the_published_lissa_is_damped_by_scale_times_damping():
    scale = float(GOLDEN["lissa/hp/scale"])
    found, info = solve(solvers.lissa(scale=scale, tolerance=1e-12, iteration="A"))
    exact = solve(solvers.conjugate_gradients(tolerance=1e-12), float(info.effective_damping))
    assert_solution(found, flat(exact.value))


@pytest.mark.quick("50")
@pytest.mark.parametrize("examples", [50, 240])
def test_woodbury(examples):
    damping = float(PUBLISHED["woodbury/hp/damping"])
    found, info = solve(solvers.woodbury(examples=examples), damping)
    assert_solution(found, PUBLISHED[f"woodbury/k_{examples}"])
    assert info.residual_norm < 1e-10


@pytest.mark.slow
def test_woodbury_is_what_the_published_recursion_means_to_compute():
    shift = 1000 / 240
    found, _ = solve(solvers.woodbury(), shift)
    assert_solution(optax.tree.scale(shift, found), PUBLISHED["recursion/k"])


def test_the_published_recursion_subtracts_one_gradient_and_nothing_else():
    found, info = solve(solvers.rank_one_reference())
    assert_solution(found, PUBLISHED["reference/k"])
    coefficient = PUBLISHED["reference/coefficient_on_first_gradient"]
    np.testing.assert_allclose(info.coefficient, coefficient, rtol=1e-9)
    first = problem().data.take(np.arange(1))
    g_0 = mu.collect(mu.statistics.mean_gradient(MODEL), problem().variables, first).value
    alone = GOLDEN["v"] - float(info.coefficient) * flat(g_0)
    np.testing.assert_allclose(flat(found), alone, rtol=0, atol=1e-12)
    missed = np.linalg.norm(flat(found) - PUBLISHED["recursion/k"])
    assert missed > 0.99 * np.linalg.norm(GOLDEN["v"] - PUBLISHED["recursion/k"])


@pytest.mark.slow
def test_the_step_of_the_published_program():
    case = problem()
    rows = GOLDEN["forget_random_rows"]
    forget = mu.batches(GOLDEN["x"][rows], GOLDEN["y"][rows], batch_size=60, index=rows)
    unlearn = mu.influence(
        MODEL, solver=solvers.rank_one_reference(), formula="reweighted_newton", alpha=5.0
    )
    after, _ = unlearn(jax.random.key(0), case.variables, forget, case.data)
    for name, expected in params(PUBLISHED, "reference/after").items():
        np.testing.assert_allclose(after.params[name], expected, rtol=0, atol=1e-10)


# --- closed forms on ridge regression ---


@functools.cache
def ridge_sets():
    data = mu.batches(RIDGE["A"], RIDGE["y"], batch_size=100)
    return mu.split(data, RIDGE["remove_idx"])


def step(start, formula, *, l2=0.0, damping=0.0):
    solver = solvers.conjugate_gradients(tolerance=1e-14)
    unlearn = mu.influence(RIDGE_MODEL, formula=formula, solver=solver, l2=l2, damping=damping)
    unlearn = mu.watched(unlearn, False)
    return unlearn(jax.random.key(0), mu.Variables(jnp.asarray(RIDGE[start])), *ridge_sets())[0]


@pytest.mark.quick("classic-*", "retain_newton-off_theta-*", "reweighted_influence-*")
@pytest.mark.parametrize(
    ("formula", "start", "end"),
    [
        ("classic", "mean_theta", "mean_if_classic"),
        ("reweighted_influence", "mean_theta", "mean_if_reweight"),
        ("retain_newton", "mean_theta", "mean_exact"),
        ("reweighted_newton", "mean_theta", "mean_exact"),
        ("forget_only", "mean_theta", "mean_exact"),
        ("retain_newton", "off_theta", "mean_exact"),
        ("reweighted_newton", "off_theta", "off_newton_reweight"),
    ],
)
def test_formulas_where_the_penalty_stands_beside_the_mean(formula, start, end):
    after = step(start, formula, l2=float(RIDGE["lam_mean"]))
    np.testing.assert_allclose(after.params, RIDGE[end], rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("formula", "number", "end"), [("classic", 442, "sum_if"), ("forget_only", 422, "sum_exact")]
)
def test_formulas_where_the_penalty_stands_beside_the_sum(formula, number, end):
    after = step("sum_theta", formula, damping=float(RIDGE["lam_sum"]) / number)
    np.testing.assert_allclose(after.params, RIDGE[end], rtol=0, atol=1e-9)


def test_iau_with_the_curvature_of_the_retained_data_is_the_reweighted_newton_step():
    inverse = solvers.InverseCurvature(
        solvers.conjugate_gradients(tolerance=1e-14), damping=float(RIDGE["lam_mean"])
    )
    unlearn = mu.iau(RIDGE_MODEL, optax.sgd(1.0), scale_by_fraction=True, inverse_curvature=inverse)
    start = mu.Variables(jnp.asarray(RIDGE["off_theta"]))
    after, info = mu.watched(unlearn, False)(jax.random.key(0), start, *ridge_sets())
    np.testing.assert_allclose(after.params, RIDGE["off_newton_reweight"], rtol=0, atol=1e-9)
    assert info.details.solver.converged
    assert info.example_passes == 442 + 422 * info.details.solver.products


def test_a_vector_of_other_variables_is_refused():
    with pytest.raises(ValueError, match="vector") as error:
        problem().product({"fc1.weight": jnp.ones(3)})
    assert is_one_sentence(str(error.value))
