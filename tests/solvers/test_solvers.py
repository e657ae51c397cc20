"""Solvers against dense solutions: jit, vmap, streams, meshes, and what they say when they fail."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from trees import assert_close, is_one_sentence

import mu_jax as mu
from mu_jax import solvers

KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
MODEL = mu.from_function(lambda w, state, x: x @ w["w"] + w["b"], optax.l2_loss)
VARIABLES = mu.Variables({"w": jnp.zeros(6), "b": jnp.zeros(())})
VECTOR = {"w": jnp.arange(6.0), "b": jnp.array(2.0)}
ROWS = np.random.default_rng(0).normal(size=(15, 6)).astype(np.float32)
TARGETS = np.random.default_rng(1).normal(size=15).astype(np.float32)
EXACT = solvers.conjugate_gradients(tolerance=1e-6)


def data(batch_size=4):
    return mu.batches(ROWS, TARGETS, batch_size=batch_size)


def problem(damping=0.1, given=None, **options):
    return solvers.Problem(MODEL, VARIABLES, given or data(), damping=damping, **options)


def dense(damping=0.1):
    """`(X^T X / n + damping I)^-1 v` with a column of ones for the bias."""
    x = np.concatenate([ROWS, np.ones((len(ROWS), 1))], axis=1).astype(np.float64)
    v = np.append(VECTOR["w"], VECTOR["b"])
    found = np.linalg.solve(x.T @ x / len(x) + damping * np.eye(7), v)
    return {"w": found[:6].astype(np.float32), "b": found[6].astype(np.float32)}


def assert_solves(found, damping=0.1, **options):
    assert_close(found, dense(damping), rtol=1e-4, atol=1e-4, **options)


@functools.cache
def importance():
    return mu.collect(mu.statistics.importance(MODEL), VARIABLES, data())


SOLVERS = {
    "conjugate gradients": EXACT,
    "preconditioned": solvers.conjugate_gradients(
        tolerance=1e-6, preconditioner=solvers.woodbury(examples=6)
    ),
    "lissa": solvers.lissa(tolerance=1e-6),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_agree_with_the_dense_inverse(name):
    found, info = SOLVERS[name](problem(), VECTOR)
    assert_solves(found)
    assert info.converged
    assert info.residual_norm < 2e-6
    assert not info.messages()


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
def test_under_jit_and_vmap_over_the_damping(name):
    dampings = jnp.array([0.1, 0.7])
    solve = jax.jit(jax.vmap(lambda d: SOLVERS[name](problem(d), VECTOR)))
    found, info = solve(dampings)
    for number, damping in enumerate(dampings):
        assert_solves(jax.tree.map(lambda x, k=number: x[k], found), float(damping))
    assert not info.messages()


@pytest.mark.quick("conjugate gradients")
@pytest.mark.parametrize("name", SOLVERS)
def test_batches_one_by_one_give_the_same(name):
    whole, streamed = (SOLVERS[name](problem(given=x), VECTOR) for x in (data(), list(data())))
    assert_close(whole.value, streamed.value, atol=1e-5)
    assert whole.details.iterations == streamed.details.iterations


@pytest.mark.quick("conjugate gradients-explicit")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SOLVERS)
def test_a_mesh_gives_the_same(name, kind):
    devices = jax.devices()[:2]
    mesh = jax.make_mesh((2,), ("data",), axis_types=(KINDS[kind],), devices=devices)
    found, _ = SOLVERS[name](problem(given=mu.shard(data(), mesh)), VECTOR)
    assert_solves(found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_series_of_single_batches_is_the_same_on_a_mesh(kind):
    devices = jax.devices()[:2]
    mesh = jax.make_mesh((2,), ("data",), axis_types=(KINDS[kind],), devices=devices)
    solver = solvers.lissa(iterations=40, scale=20.0, one_batch=True)
    cases = data(), mu.shard(data(), mesh), list(data())
    found = [solver(problem(given=each), VECTOR) for each in cases]
    for other in found[1:]:
        assert_close(other.value, found[0].value, atol=1e-5)
        assert other.details.products == 11


def test_no_iteration_where_there_is_nothing_to_solve():
    nothing = jax.tree.map(jnp.zeros_like, VECTOR)
    found, info = EXACT(problem(), nothing)
    assert_close(found, nothing)
    assert (info.iterations, info.residual_norm, info.converged) == (0, 0, True)


def test_the_true_residual_is_computed_while_it_goes():
    """The 7 directions of the problem, a look at the residual every 2, and one at the end."""
    _, info = solvers.conjugate_gradients(tolerance=0, iterations=7, refresh=2)(problem(), VECTOR)
    assert (info.iterations, info.products) == (7, 7 + 4)


def test_a_preconditioner_that_is_the_inverse_needs_one_iteration():
    at_minimum = problem()  # gradients of rows are the residual times the row
    unit = solvers.Problem(
        MODEL, VARIABLES, mu.batches(ROWS, np.ones(15), batch_size=4), damping=0.1
    )
    _, info = solvers.conjugate_gradients(preconditioner=solvers.woodbury())(unit, VECTOR)
    assert info.iterations == 1  # F = X^T X / n where every residual is 1
    assert EXACT(at_minimum, VECTOR).details.iterations > 1


@pytest.mark.slow
def test_a_diagonal_preconditions():
    solver = solvers.conjugate_gradients(
        tolerance=1e-6, preconditioner=solvers.diagonal(importance())
    )
    assert_solves(solver(problem(), VECTOR).value)


# --- failures ---


def saddle(params, state, x):
    del state
    return x[:, 0] * (params["w"] ** 2).sum() - x[:, 0] * params["b"] ** 2


def test_negative_curvature_stops_and_says_so():
    model = mu.from_function(saddle, lambda outputs, targets: outputs)
    case = solvers.Problem(model, VARIABLES, data().replace(inputs=jnp.ones((15, 1))), "hessian")
    found, info = EXACT(case, {"w": jnp.zeros(6), "b": jnp.array(1.0)})
    assert_close(found["b"], jnp.array(0.0))
    assert info.min_curvature == -2
    assert not info.converged
    assert "negative curvature (-2)" in info.messages()[0]


def test_too_few_iterations_say_so():
    _, info = solvers.conjugate_gradients(iterations=2)(problem(), VECTOR)
    assert "after 2 iterations" in info.messages()[0]
    _, info = solvers.lissa(iterations=2)(problem(), VECTOR)
    assert "after 2 iterations" in info.messages()[0]


def test_a_series_that_diverges_stops_and_says_so():
    found, info = solvers.lissa(scale=0.3)(problem(), VECTOR)
    assert "diverged at scale 0.3" in info.messages()[0]
    assert info.iterations < 1000
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(found))


def moved():
    return mu.Variables(jax.tree.map(lambda x: x + 1, VARIABLES.params))


BAD = {
    "vector of other variables": lambda: EXACT(problem(), {"w": jnp.ones(6)}),
    "curvature": lambda: problem(curvature="empirical"),
    "damping": lambda: problem(damping=-1.0),
    "iterator": lambda: EXACT(problem(given=iter(list(data()))), VECTOR),
    "no iterations": lambda: solvers.conjugate_gradients(iterations=0),
    "preconditioner": lambda: solvers.conjugate_gradients(preconditioner=EXACT),
    "iteration": lambda: solvers.lissa(iteration="C"),
    "scale": lambda: solvers.lissa(scale=-1.0),
    "Woodbury without damping": lambda: solvers.woodbury()(problem(0.0), VECTOR),
    "diagonal of other variables": lambda: solvers.diagonal(importance())(
        solvers.Problem(MODEL, moved(), data()), VECTOR
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_one_sentence(name):
    with pytest.raises(ValueError, match="expected") as error:
        BAD[name]()
    assert is_one_sentence(str(error.value))
