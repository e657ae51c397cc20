from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import load
from sklearn.linear_model import LogisticRegression

from mu_jax import attribution

GOLDEN = load("influence_ridge.npz")
A, Y, REMOVED = GOLDEN["A"], GOLDEN["y"], GOLDEN["remove_idx"]
L2 = float(GOLDEN["lam_sum"])


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def test_ridge_without_a_group_agrees_with_golden_numbers():
    found = attribution.ridge_without(A, Y, GOLDEN["sum_theta"], REMOVED, l2=L2)
    np.testing.assert_allclose(found, GOLDEN["sum_exact"], atol=1e-10)


def test_ridge_without_each_row_agrees_with_golden_numbers():
    def without(row):
        return attribution.ridge_without(A, Y, GOLDEN["sum_theta"], row[None], l2=L2)

    found = jax.jit(jax.vmap(without))(jnp.asarray(REMOVED))
    np.testing.assert_allclose(found, GOLDEN["sum_loo"], atol=1e-10)


def test_leverages_agree_with_golden_numbers_and_give_left_out_residuals():
    found = attribution.ridge_leverages(A, l2=L2)
    np.testing.assert_allclose(found, GOLDEN["sum_leverage"], atol=1e-12)
    residuals = (Y - A @ GOLDEN["sum_theta"]) / (1 - np.asarray(found))
    expected = Y[REMOVED] - np.einsum("md,md->m", A[REMOVED], GOLDEN["sum_loo"])
    np.testing.assert_allclose(residuals[REMOVED], expected, rtol=1e-9)


def test_several_targets_at_once():
    targets = np.stack([Y, Y**2 / 100], 1)
    theta = np.linalg.solve(A.T @ A + L2 * np.eye(11), A.T @ targets)
    both = attribution.ridge_without(A, targets, theta, REMOVED, l2=L2)
    for k in range(2):
        one = attribution.ridge_without(A, targets[:, k], theta[:, k], REMOVED, l2=L2)
        np.testing.assert_allclose(both[:, k], one, atol=1e-9)


def softmax_problem():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4))
    labels = np.argmax(x @ rng.normal(size=(4, 3)) + rng.gumbel(size=(200, 3)), 1)
    return x, labels


def minimize(x, labels, l2):
    solver = LogisticRegression(C=1 / l2, fit_intercept=False, tol=1e-12, max_iter=10_000)
    return solver.fit(x, labels).coef_.T


def test_a_penalty_beside_the_mean_loss_agrees_with_retraining():
    x, labels = softmax_problem()
    forget, kept = np.arange(60), np.arange(60, 200)
    weights, target = minimize(x, labels, 200 * 0.05), minimize(x[kept], labels[kept], 140 * 0.05)
    options = {"l2": 0.05, "reduction": "mean"}
    newton = attribution.softmax_without(x, labels, weights, forget, **options)
    moved = np.linalg.norm(weights - target)
    assert np.linalg.norm(newton - target) < 0.1 * moved
    as_sum = attribution.softmax_without(x, labels, weights, forget, l2=200 * 0.05)
    assert np.linalg.norm(as_sum - target) > 0.3 * moved
    full = attribution.softmax_without(x, labels, weights, forget, hessian="full", **options)
    assert np.linalg.norm(newton - target) < np.linalg.norm(full - target) < 0.9 * moved
    with pytest.raises(ValueError, match="'sum' or 'mean'"):
        attribution.softmax_without(x, labels, weights, forget, l2=1.0, reduction="max")


def test_newton_step_is_close_to_retraining_and_influence_is_not_as_close():
    x, labels = softmax_problem()
    forget, kept = np.arange(30), np.arange(30, 200)
    weights, target = minimize(x, labels, 2.0), minimize(x[kept], labels[kept], 2.0)
    distance = {
        hessian: np.linalg.norm(
            attribution.softmax_without(x, labels, weights, forget, l2=2.0, hessian=hessian)
            - target
        )
        for hessian in ("retain", "full")
    }
    moved = np.linalg.norm(weights - target)
    assert distance["retain"] < 0.1 * moved
    assert distance["retain"] < distance["full"] < 0.6 * moved


@pytest.mark.quick("full")
@pytest.mark.parametrize("hessian", ["retain", "full"])
def test_softmax_step_uses_the_exact_hessian(hessian):
    x, labels = softmax_problem()
    weights = np.random.default_rng(1).normal(size=(4, 3))
    forget = np.array([5, 17, 3])
    rows = np.setdiff1d(np.arange(200), forget) if hessian == "retain" else np.arange(200)

    def objective(w, rows, l2):
        logits = x[rows] @ w.reshape(4, 3)
        correct = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[rows, None], 1)
        return -correct.sum() + l2 / 2 * jnp.square(w).sum()

    flat, x, labels = jnp.asarray(weights.ravel()), jnp.asarray(x), jnp.asarray(labels)
    matrix = jax.jit(jax.hessian(objective))(flat, rows, 2.0)
    gradient = jax.jit(jax.grad(objective))(flat, forget, 0.0)
    expected = weights.ravel() + np.linalg.solve(matrix, gradient)
    found = attribution.softmax_without(x, labels, weights, forget, l2=2.0, hessian=hessian)
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-10)


def test_refusals():
    theta = GOLDEN["sum_theta"]
    with pytest.raises(ValueError, match="row numbers below 442"):
        attribution.ridge_without(A, Y, theta, [3, 3], l2=L2)
    with pytest.raises(ValueError, match="positions, not a mask"):
        attribution.ridge_without(A, Y, theta, np.zeros(442, bool), l2=L2)
    with pytest.raises(ValueError, match="one target for each row"):
        attribution.ridge_without(A, Y[:5], theta, [3], l2=L2)
    with pytest.raises(ValueError, match="'retain' or 'full'"):
        attribution.softmax_without(A, Y, theta, [3], l2=L2, hessian="half")


def test_a_penalty_beside_the_mean_is_lighter_without_the_group():
    kept = np.setdiff1d(np.arange(len(A)), REMOVED)

    def ridge(rows, l2=0.05):
        penalty = len(rows) * l2 * np.eye(A.shape[1])
        return np.linalg.solve(A[rows].T @ A[rows] + penalty, A[rows].T @ Y[rows])

    everything = ridge(np.arange(len(A)))
    found = attribution.ridge_without(A, Y, everything, REMOVED, l2=0.05, reduction="mean")
    np.testing.assert_allclose(found, ridge(kept), rtol=1e-8, atol=1e-9)
    leverages = attribution.ridge_leverages(A, l2=0.05, reduction="mean")
    expected = attribution.ridge_leverages(A, l2=0.05 * len(A))
    np.testing.assert_allclose(leverages, expected, rtol=1e-12)
    with pytest.raises(ValueError, match="'sum' or 'mean'"):
        attribution.ridge_without(A, Y, everything, REMOVED, l2=0.05, reduction="average")


@pytest.mark.quick("retain")
@pytest.mark.parametrize("hessian", ["retain", "full"])
def test_softmax_step_with_a_penalty_beside_the_mean(hessian):
    x, labels = softmax_problem()
    forget, kept = np.arange(30), np.arange(30, 200)
    weights = minimize(x, labels, 200 * 0.05)
    target = minimize(x[kept], labels[kept], 170 * 0.05)

    def mean_objective(w, rows):
        logits = x[rows] @ w.reshape(4, 3)
        correct = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[rows, None], 1)
        return -correct.mean() + 0.05 / 2 * jnp.square(w).sum()

    flat = jnp.asarray(weights.ravel())
    # The slope of the new objective at the old minimizer.
    slope = jax.jit(jax.grad(lambda w: mean_objective(w, kept)))(flat) * 170
    rows = kept if hessian == "retain" else np.arange(200)
    matrix = jax.jit(jax.hessian(lambda w: mean_objective(w, rows)))(flat) * len(rows)
    expected = flat - np.linalg.solve(matrix, slope)
    options = {"hessian": hessian, "reduction": "mean", "l2": 0.05}
    found = attribution.softmax_without(x, labels, weights, forget, **options)
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-6)
    summed = attribution.softmax_without(x, labels, weights, forget, l2=10.0, hessian=hessian)
    assert np.linalg.norm(found - target) < np.linalg.norm(summed - target)
