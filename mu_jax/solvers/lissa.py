"""LiSSA: the Neumann series of an inverse, and the scale that lets it converge."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax.data.checks import check_counts, check_range
from mu_jax.loops.scan import num_batches
from mu_jax.solvers._iterating import added, iterate, norm, wide
from mu_jax.solvers._one_batch import fold_products
from mu_jax.solvers.problem import Problem, Solution

PyTree = Any
_MARGIN = 1.1  # power iteration finds an eigenvalue from below
_DIVERGED = 1e3


class LissaInfo(NamedTuple):
    """What LiSSA found.

    Attributes:
      iterations, products: steps of the series, and passes over the data with those of the power
        iteration, i32[].
      residual_norm: `|v - (C + effective_damping I) x| / |v|`, f[]; of the iterate before the
        last, which is never smaller where the series converges.
      scale: s, f[].
      effective_damping: what the fixed point is damped by, f[]: the damping of the problem in
        iteration B, s times as much in the published iteration A.
      converged: whether the residual is within the tolerance, bool[].
    """

    iterations: jax.Array
    products: jax.Array
    residual_norm: jax.Array
    scale: jax.Array
    effective_damping: jax.Array
    converged: jax.Array

    def messages(self) -> list[str]:
        """A sentence if the series diverged, or stopped short of its fixed point."""
        residual = np.asarray(self.residual_norm)
        if not np.all(residual < 1):
            return [
                f"The series of LiSSA diverged at scale {np.min(self.scale):.3g}: raise scale, or "
                'take the curvature "gauss_newton".'
            ]
        if not np.all(np.asarray(self.converged)):
            return [
                f"LiSSA left a residual of {residual.max():.1e} of the right-hand side after "
                f"{np.max(self.iterations)} iterations: raise their number, or take conjugate "
                "gradients."
            ]
        return []


@dataclasses.dataclass(frozen=True)
class lissa:
    """The Neumann series for `(C + damping I) x = v`, x = u / s at its end:

        B:  u <- v + u - (C + d I) u / s          fixed point  (C + d I)^-1 v
        A:  u <- v + (1 - d) u - C u / s          fixed point  (C + s d I)^-1 v

    with d the damping of the problem, from `u = v`. Both are in use under one name. In A, the one
    that Koh and Liang published, the damping that acts is `s d`: with the published scales (1e4 and
    more) the step is close to a scaled gradient. B is damped by what it says. The error falls as
    `(1 - (mu + d) / s)^k` with mu the least curvature along v, so the series needs about
    `cond log(1/error)` products where conjugate gradients need `sqrt(cond)`: it is here to
    compare with published runs.

    Args:
      iterations: at most, default 1000.
      scale: s, at least the largest eigenvalue of `C + d I` for a sure convergence; default 1.1
        times what 20 power iterations find.
      tolerance: of the residual relative to v, default 1e-5; 0 runs all iterations.
      iteration: "B" (default) or "A".
      one_batch: let every product read one batch, in the order of the data, as published programs
        do. The last iterate is then noisy, batches may need a larger scale than all examples
        together, and all iterations are run. Default False.

    Returns:
      `solver(problem, vector) -> Solution`; its `details` are a `LissaInfo`, which holds the
      damping that acted.

    Raises:
      ValueError: an unknown iteration, a vector of other variables, a scale below 0.

    Cost: one pass over the data (or one batch) for each iteration, and 20 passes for the scale;
    memory of three trees.
    Diverges where s is too small or the curvature is negative: it stops, and says so.

    Differences from the reference programs (`kohpangwei/influence-release` and its heirs):
      1. Every product is over all examples; there one batch each, which is `one_batch=True`, and
         several runs are averaged.
      2. The default is iteration B.
      3. The scale is computed; there a number to be tried out.

    References:
      N. Agarwal, B. Bullins, E. Hazan. Second-Order Stochastic Optimization for Machine Learning in
      Linear Time. JMLR 2017. P. W. Koh, P. Liang. Understanding Black-box Predictions via Influence
      Functions. ICML 2017.

    Example:
      >>> import jax.numpy as jnp, numpy as np, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, optax.l2_loss)
      >>> data = mu.batches(jnp.diag(jnp.array([1.0, 3.0])), jnp.ones(2), batch_size=2)
      >>> problem = mu.solvers.Problem(model, mu.Variables(jnp.zeros(2)), data, damping=0.5)
      >>> for iteration in "BA":
      ...     value, info = lissa(scale=10.0, iteration=iteration)(problem, jnp.array([1.0, 5.0]))
      ...     print(np.asarray(value).round(3), float(info.effective_damping))
      [1. 1.] 0.5
      [0.182 0.526] 5.0
    """

    _: dataclasses.KW_ONLY
    iterations: int = 1000
    scale: jax.Array | float | None = None
    tolerance: float = 1e-5
    iteration: Literal["B", "A"] = "B"
    one_batch: bool = False

    def __post_init__(self) -> None:
        check_counts(1, iterations=self.iterations)
        check_range(0, tolerance=self.tolerance, scale=self.scale)
        if self.iteration not in ("A", "B"):
            raise ValueError(f"expected iteration A or B, found {self.iteration!r}: choose one")

    def __call__(self, problem: Problem, vector: PyTree) -> Solution:
        """Solve for `vector`."""
        problem.check(vector)
        scale: Any = self.scale
        if scale is None:
            scale = _MARGIN * largest_eigenvalue(problem, iterations=_TURNS)
        own = self.iteration == "A"
        rule = _Rule(
            wide(vector), scale, problem.damping, self.tolerance, self.iterations, jnp.array(own)
        )
        passes = 0 if self.scale is not None else _TURNS
        if not self.one_batch:
            state = iterate(problem, rule, _start(rule), turns=self.iterations)
            return _solution(rule, state, passes + state.turn)
        state = fold_products(problem, rule, _start(rule), turns=self.iterations)
        last = iterate(problem, rule, _before_last(rule, state), turns=1)
        passes += 1 + self.iterations // (num_batches(problem.data) or 1)
        return _solution(rule, state._replace(residual=last.residual), passes)


_TURNS = 20


def largest_eigenvalue(problem: Problem, *, iterations: int = 20) -> jax.Array:
    """The largest eigenvalue of `C + damping I` in magnitude, by power iteration, f[].

    `|A u|` with `u = A^k u_0 / |A^k u_0|` from a fixed random u_0: never more than the eigenvalue.

    Args:
      problem: whose curvature.
      iterations: default 20; the error falls as `(second / first eigenvalue)^(2 k)`.

    Cost: one pass over the data for each iteration.

    Example:
      >>> import jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, optax.l2_loss)
      >>> data = mu.batches(jnp.diag(jnp.array([1.0, 3.0])), jnp.ones(2), batch_size=2)
      >>> problem = mu.solvers.Problem(model, mu.Variables(jnp.zeros(2)), data)
      >>> mu.solvers.largest_eigenvalue(problem).round(5)
      Array(4.5, dtype=float32)
    """
    check_counts(1, iterations=iterations)
    state = _power_start(problem.params)
    return iterate(problem, _Power(jnp.int32(iterations)), state, turns=iterations).value


class _PowerState(NamedTuple):
    u: PyTree
    value: jax.Array
    turn: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Power:
    iterations: jax.Array

    def going(self, state: _PowerState) -> jax.Array:
        return state.turn < self.iterations

    def asks(self, state: _PowerState) -> PyTree:
        return state.u

    def step(self, state: _PowerState, product: PyTree) -> _PowerState:
        size = norm(product)
        u = jax.tree.map(lambda x: x / jnp.where(size > 0, size, 1).astype(x.dtype), product)
        return _PowerState(u, size, state.turn + 1)


@jax.jit
def _power_start(params: PyTree) -> _PowerState:
    params = wide(params)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    drawn = [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves)]
    u = jax.tree.map(lambda p, x: x + 0 * p, params, jax.tree.unflatten(structure, drawn))
    size = norm(u)
    u = jax.tree.map(lambda x: x / size.astype(x.dtype), u)
    return _PowerState(u, jnp.zeros_like(size), jnp.zeros((), jnp.int32))


class _State(NamedTuple):
    u: PyTree
    residual: jax.Array
    turn: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Rule:
    target: PyTree
    scale: jax.Array | float
    damping: jax.Array | float
    tolerance: jax.Array | float
    iterations: jax.Array | int
    published: jax.Array

    def going(self, state: _State) -> jax.Array:
        more = state.turn < self.iterations
        return more & (state.residual > self.tolerance) & (state.residual < _DIVERGED)

    def asks(self, state: _State) -> PyTree:
        return state.u

    def step(self, state: _State, product: PyTree) -> _State:
        """The change of u is the residual of the system of which it is the iteration."""
        scale = jnp.asarray(self.scale)
        change = added(self.target, -1 / scale, product)
        extra = jnp.asarray(self.damping) * (1 / scale - 1)
        change = added(change, jnp.where(self.published, extra, 0), state.u)
        residual = norm(change) / norm(self.target)
        return _State(added(state.u, jnp.float32(1), change), residual, state.turn + 1)


@jax.jit
def _start(rule: _Rule) -> _State:
    size = norm(rule.target)
    return _State(rule.target, jnp.where(size > 0, 1.0, 0.0).astype(size.dtype), jnp.int32(0))


@jax.jit
def _before_last(rule: _Rule, state: _State) -> _State:
    """The end as if one turn were left, which finds its residual over all examples."""
    last = jnp.asarray(rule.iterations - 1, state.turn.dtype)
    return state._replace(residual=jnp.ones_like(state.residual), turn=last)


@jax.jit
def _solution(rule: _Rule, state: _State, products: jax.Array | int) -> Solution:
    scale, damping = (jnp.asarray(x, state.residual.dtype) for x in (rule.scale, rule.damping))
    value = jax.tree.map(lambda u: u / scale.astype(u.dtype), state.u)
    details = LissaInfo(
        iterations=state.turn,
        products=jnp.asarray(products, jnp.int32),
        residual_norm=state.residual,
        scale=scale,
        effective_damping=jnp.where(rule.published, scale, 1) * damping,
        converged=state.residual <= rule.tolerance,
    )
    return Solution(value, details)
