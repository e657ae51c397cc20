"""K-FAC and EK-FAC as solvers: where they are exact, as preconditioners, and what they refuse."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mu_jax as mu
from mu_jax.solvers import conjugate_gradients, ekfac, kfac
from mu_jax.statistics.curvature import kronecker_factors

SOLVERS = [kfac, ekfac]


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm()(nn.tanh(nn.Dense(5)(x)))
        return nn.Dense(3)(x)


@functools.cache
def problem_of(damping=0.01):
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(24, 4)).astype(np.float32), rng.integers(0, 3, 24)
    data = mu.batches(inputs, targets, batch_size=8)
    model = mu.from_linen(Net(), mu.losses.cross_entropy)
    variables = Net().init(jax.random.key(0), inputs[:1])
    return mu.solvers.Problem(model, variables, data, damping=damping)


def vector_of(problem):
    return jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size)).reshape(x.shape), problem.params)


def residual(problem, vector, value):
    back = jax.flatten_util.ravel_pytree(problem.product(value))[0]
    wanted = jax.flatten_util.ravel_pytree(vector)[0]
    return float(jnp.linalg.norm(back - wanted) / jnp.linalg.norm(wanted))


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_linear_layer_with_squared_errors_is_solved_exactly(solver):
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(9, 4)), rng.normal(size=(9, 2))
    with jax.enable_x64(True):
        model = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
        variables = mu.Variables(jnp.asarray(rng.normal(size=(4, 2))))
        data = mu.batches(inputs, targets, batch_size=4)
        problem = mu.solvers.Problem(model, variables, data, damping=0.1)
        vector = jnp.asarray(rng.normal(size=(4, 2)))
        found = solver(labels="expected")(problem, vector)
        # The loss is a mean over 2 outputs, so its curvature is X^T X / n.
        expected = np.linalg.solve(inputs.T @ inputs / 9 + 0.1 * np.eye(4), vector)
        np.testing.assert_allclose(found.value, expected, rtol=1e-10)


def test_collected_factors_give_the_same_and_read_nothing():
    problem = problem_of()
    factors = kronecker_factors(problem.model, problem.variables, problem.data)
    vector = vector_of(problem)
    for solver in SOLVERS:
        fresh, kept = solver()(problem, vector), solver(factors=factors)(problem, vector)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-5), kept.value, fresh.value
        )
        assert int(fresh.details.products) == (1 if solver is kfac else 2)
        assert int(kept.details.products) == 0


def test_what_stands_for_each_leaf_is_said():
    info = ekfac()(problem_of(), vector_of(problem_of())).details
    assert dict(info.blocks.words) == {
        "Dense_0/bias": "with Dense_0/kernel",
        "Dense_0/kernel": "kronecker",
        "Dense_1/bias": "with Dense_1/kernel",
        "Dense_1/kernel": "kronecker",
        "LayerNorm_0/bias": "diagonal",
        "LayerNorm_0/scale": "diagonal",
    }
    np.testing.assert_allclose(info.share, 43 / 53)
    np.testing.assert_allclose(info.damping, 0.01)
    assert info.messages() == []
    [message] = info._replace(share=np.float32(0.2)).messages()
    assert message.startswith("Only 20 % of the parameters have Kronecker factors, the others a")


def test_damping_is_the_problems_unless_another_is_given():
    problem, vector = problem_of(), vector_of(problem_of())
    assert np.allclose(kfac(damping=0.5)(problem, vector).details.damping, 0.5)
    own = kfac()(problem_of(0.0), vector).details.damping
    assert len(set(np.asarray(own).round(7))) > 2 and np.all(np.asarray(own) > 0)
    one = jax.jit(lambda damping: kfac(damping=damping)(problem, vector).value)(0.5)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=2e-4),
        one,
        kfac(damping=0.5)(problem, vector).value,
    )


@pytest.mark.slow
def test_as_preconditioners_they_save_iterations():
    """Inputs of very different sizes, whose scales the factors know."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        inputs = rng.normal(size=(60, 12)) * np.geomspace(0.03, 10, 12)
        data = mu.batches(inputs, rng.integers(0, 3, 60), batch_size=20)
        model = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)
        variables = mu.Variables(jnp.asarray(0.01 * rng.normal(size=(12, 3))))
        problem = mu.solvers.Problem(model, variables, data, damping=1e-4)
        vector = jnp.asarray(rng.normal(size=(12, 3)))
        options = {"iterations": 200, "tolerance": 1e-8}
        plain = conjugate_gradients(**options)(problem, vector)
        for solver in SOLVERS:
            given = solver(labels="expected")
            found = conjugate_gradients(**options, preconditioner=given)(problem, vector)
            assert bool(found.details.converged)
            assert residual(problem, vector, found.value) < 1.1e-8
            assert 3 * int(found.details.iterations) < int(plain.details.iterations)


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
def test_influence_takes_them(solver):
    problem = problem_of()
    forget, retain = mu.split(problem.data, [1, 5])
    unlearn = mu.influence(problem.model, solver=solver(), damping=0.01)
    args = jax.random.key(0), problem.variables, forget, retain
    (after, info), (jitted, _) = unlearn(*args), jax.jit(unlearn)(*args)
    assert info.details.solver.blocks.of("diagonal") == ["LayerNorm_0/bias", "LayerNorm_0/scale"]
    assert float(info.details.relative_step) > 0
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), after, jitted)


@pytest.mark.slow
def test_iau_takes_them_as_its_inverse_curvature():
    problem = problem_of()
    forget, retain = mu.split(problem.data, [1, 5])
    own = mu.solvers.InverseCurvature(ekfac(), damping=0.01)
    step = mu.iau(problem.model, optax.sgd(1.0), scale_by_fraction=True, inverse_curvature=own)
    newton = mu.influence(problem.model, formula="reweighted_newton", solver=ekfac(), damping=0.01)
    args = jax.random.key(0), problem.variables, forget, retain
    after, expected = step(*args)[0], newton(*args)[0]
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), after, expected)


def test_bad_inputs_are_refused():
    problem, vector = problem_of(), vector_of(problem_of())
    other = jax.tree.map(lambda x: x + 1, problem.variables)
    plain = kronecker_factors(problem.model, other, problem.data, eigenvalues=False)
    with pytest.raises(ValueError, match="expected a statistic of these variables, found 'K-FAC"):
        kfac(factors=plain)(problem, vector)
    own = kronecker_factors(problem.model, problem.variables, problem.data, eigenvalues=False)
    with pytest.raises(ValueError, match="expected factors with the eigenvalues of EK-FAC"):
        ekfac(factors=own)(problem, vector)
    with pytest.raises(ValueError, match=r"expected damping >= 0, found -0\.1"):
        kfac(damping=-0.1)
    with pytest.raises(ValueError, match="expected labels among model, expected, data"):
        ekfac(labels="true")
    with pytest.raises(ValueError, match="expected a vector shaped like the trained parameters"):
        kfac()(problem, {"w": jnp.ones(2)})
