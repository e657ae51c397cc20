"""Conjugate gradients with a true residual, a stop at negative curvature, and a preconditioner."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax.data.checks import check_counts, check_range
from mu_jax.solvers._iterating import added, chosen, dot, iterate, norm, wide
from mu_jax.solvers.problem import Inverse, Preconditioner, Problem, Solution

PyTree = Any


class ConjugateGradientsInfo(NamedTuple):
    """What conjugate gradients found.

    Attributes:
      iterations: i32[].
      products: passes over the data, i32[]: iterations and computations of the true residual.
      residual_norm: `|v - (C + damping I) x| / |v|`, recomputed from x at the end, f[].
      min_curvature: the least `p^T (C + damping I) p / p^T p` over the search directions p, f[].
      converged: whether the residual is within the tolerance, bool[].
    """

    iterations: jax.Array
    products: jax.Array
    residual_norm: jax.Array
    min_curvature: jax.Array
    converged: jax.Array

    def messages(self) -> list[str]:
        """A sentence on negative curvature or on a residual that is too large."""
        least, residual = (np.asarray(x) for x in (self.min_curvature, self.residual_norm))
        if np.any(least <= 0):
            return [
                f"Conjugate gradients stopped at negative curvature ({least.min():.3g}): raise "
                'damping, or take the curvature "gauss_newton".'
            ]
        if not np.all(np.asarray(self.converged)):
            return [
                f"Conjugate gradients left a residual of {residual.max():.1e} of the right-hand "
                f"side after {np.max(self.iterations)} iterations: raise their number or damping."
            ]
        return []


@dataclasses.dataclass(frozen=True)
class conjugate_gradients:
    """Conjugate gradients for `(C + damping I) x = v`.

    With `A = C + damping I` and the inverse M of a preconditioner (none: `M = I`), from
    `x = 0, r = v, z = p = M r`:

        alpha = r^T z / p^T A p,   x += alpha p,   r -= alpha A p
        z = M r,   beta = r^T z / (previous r^T z),   p = z + beta p

    The iteration stops when `|r| <= tolerance |v|`, after `iterations`, or at a direction without
    positive curvature, `p^T A p <= 0`, where x is what was found before it: A is then not positive
    definite, and no step along p is a minimum. In float32 the residual of the recursion drifts
    from the true one, so `r = v - A x` is recomputed every `refresh` iterations, and before the
    solver says that it converged.

    Args:
      iterations: at most, default 100.
      tolerance: of the residual relative to v, default 1e-5; below about 1e-6 float32 stagnates.
      preconditioner: a solver that has `prepare(problem)`, such as `mu.solvers.woodbury` or
        `mu.solvers.diagonal`; its inverse is symmetric and positive definite. Default none.
      refresh: iterations between two computations of the true residual, default 25.

    Returns:
      `solver(problem, vector) -> Solution`; its `details` are a `ConjugateGradientsInfo`.

    Raises:
      ValueError: a vector of other variables, a tolerance below 0, no iterations, a preconditioner
        that cannot be prepared; data that can be walked through once only.

    Cost: one pass over the data for each iteration, one more for every `refresh` of them and one at
    the end; memory of four trees. Array-backed data run as one program, also under `jit`, `vmap`
    and on meshes; streamed data as a loop on the host around the same steps.

    Differences from `jax.scipy.sparse.linalg.cg`:
      1. It reports iterations, the true residual and the least curvature.
      2. It stops at negative curvature.
      3. It takes streamed data.

    References:
      M. Hestenes, E. Stiefel. Methods of Conjugate Gradients for Solving Linear Systems. 1952.
      J. Martens. Deep Learning via Hessian-Free Optimization. ICML 2010.

    Example:
      >>> import jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, optax.l2_loss)
      >>> data = mu.batches(jnp.diag(jnp.array([1.0, 3.0])), jnp.ones(2), batch_size=2)
      >>> problem = mu.solvers.Problem(model, mu.Variables(jnp.zeros(2)), data, damping=0.5)
      >>> value, info = conjugate_gradients()(problem, jnp.array([1.0, 5.0]))
      >>> value.round(4).tolist(), int(info.iterations)
      ([1.0, 1.0], 2)
    """

    _: dataclasses.KW_ONLY
    iterations: int = 100
    tolerance: float = 1e-5
    preconditioner: Preconditioner | None = None
    refresh: int = 25

    def __post_init__(self) -> None:
        check_counts(1, iterations=self.iterations, refresh=self.refresh)
        check_range(0, tolerance=self.tolerance)
        given = self.preconditioner
        if given is not None and not isinstance(given, Preconditioner):
            raise ValueError(
                f"expected a preconditioner with a method `prepare`, found {given!r}: give a "
                "solver that has one, such as mu.solvers.woodbury()"
            )

    def __call__(self, problem: Problem, vector: PyTree) -> Solution:
        """Solve for `vector`."""
        problem.check(vector)
        inverse = None if self.preconditioner is None else self.preconditioner.prepare(problem)
        rule = _Rule(wide(vector), self.tolerance, self.iterations, self.refresh, inverse)
        turns = self.iterations + self.iterations // self.refresh + 1
        state = iterate(problem, rule, _start(rule), turns=turns)
        return Solution(state.x, _info(rule, state))


class _State(NamedTuple):
    """`checks`: the next product is of x, for the true residual; `stopped`: no curvature left."""

    x: PyTree
    r: PyTree
    p: PyTree
    r_dot_z: jax.Array
    residual: jax.Array
    least: jax.Array
    iterations: jax.Array
    products: jax.Array
    checks: jax.Array
    stopped: jax.Array
    done: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Rule:
    target: PyTree
    tolerance: jax.Array | float
    iterations: jax.Array | int
    refresh: jax.Array | int
    inverse: Inverse | None

    def going(self, state: _State) -> jax.Array:
        return ~state.done

    def asks(self, state: _State) -> PyTree:
        return chosen(state.checks, state.x, state.p)

    def step(self, state: _State, product: PyTree) -> _State:
        """One iteration, or one computation of the true residual: both cost one product."""
        moved, true = self._moved(state, product), self._checked(state, product)
        return chosen(state.checks, true, moved)

    def _moved(self, state: _State, product: PyTree) -> _State:
        curvature = dot(state.p, product)
        stopped = ~(curvature > 0)  # also where it is not a number
        alpha = jnp.where(stopped, 0, state.r_dot_z / jnp.where(stopped, 1, curvature))
        x, r = added(state.x, alpha, state.p), added(state.r, -alpha, product)
        z = self.precondition(r)
        r_dot_z, residual, count = dot(r, z), norm(r), state.iterations + 1
        p = added(z, r_dot_z / state.r_dot_z, state.p)
        checks = stopped | self._is_small(residual)
        checks |= (count % self.refresh == 0) | (count >= self.iterations)
        least = jnp.minimum(state.least, curvature / dot(state.p, state.p))
        products = state.products + 1
        return _State(
            x, r, p, r_dot_z, residual, least, count, products, checks, stopped, state.done
        )

    def _checked(self, state: _State, product: PyTree) -> _State:
        r = added(self.target, jnp.float32(-1), product)
        residual = norm(r)
        done = self._is_small(residual) | (state.iterations >= self.iterations) | state.stopped
        return state._replace(
            r=r,
            r_dot_z=dot(r, self.precondition(r)),
            residual=residual,
            products=state.products + 1,
            checks=jnp.zeros_like(state.checks),
            done=done,
        )

    def _is_small(self, residual: jax.Array) -> jax.Array:
        return residual <= self.tolerance * norm(self.target)

    def precondition(self, r: PyTree) -> PyTree:
        return r if self.inverse is None else self.inverse(r)


@jax.jit
def _start(rule: _Rule) -> _State:
    v = rule.target
    z, size, no = rule.precondition(v), norm(v), jnp.zeros((), bool)
    none = jnp.zeros((), jnp.int32)
    return _State(
        x=jax.tree.map(jnp.zeros_like, v),
        r=v,
        p=z,
        r_dot_z=dot(v, z),
        residual=size,
        least=jnp.full_like(size, jnp.inf),
        iterations=none,
        products=none,
        checks=no,
        stopped=no,
        done=~(size > 0),
    )


@jax.jit
def _info(rule: _Rule, state: _State) -> ConjugateGradientsInfo:
    size = norm(rule.target)
    relative = state.residual / jnp.where(size > 0, size, 1)
    return ConjugateGradientsInfo(
        state.iterations,
        state.products,
        relative,
        state.least,
        ~state.stopped & (state.residual <= rule.tolerance * size),
    )
