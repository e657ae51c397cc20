"""Sparse datamodels: the lasso for all targets and penalties at once, by accelerated gradients."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mu_jax.attribution.datamodels import Datamodels, assemble, check_ensemble, product
from mu_jax.data.batches import is_concrete


def lasso(
    masks: ArrayLike,
    outputs: ArrayLike,
    *,
    penalty: ArrayLike | None = None,
    num_penalties: int = 30,
    held_out: float = 0.2,
    tolerance: float | None = None,
    max_iterations: int = 10_000,
) -> Datamodels:
    """Datamodels by the lasso: few training examples matter for a target.

    Minimizes for every target `1/(2M) sum_j (y_j - b - w . z_j)^2 + penalty |w|_1` over
    standardized masks `z = (mask - mean) / std`, with the intercept b free.

    **Units.** What is penalized and what the published solver stores is w, per standard deviation
    of a mask; the effect of including an example is `w / std`, twice as much for half-size
    subsets. The result here is in effects per inclusion.

    Args:
      masks: bool[M, n]. outputs: f[M, T] or f[M, T, K].
      penalty: a number, or one for each output f[T, K]; default: for each output the best of a
        geometric path on the held-out models, and then a fit to all models.
      num_penalties: length of that path, from the smallest penalty at which all effects are 0
        down to 1e-3 of it.
      held_out: share of the models, the last ones, on which penalties are compared.
      tolerance: largest change of a coefficient in the last iteration, relative to the largest
        coefficient of its target; default 1e-5, or 1e-9 in float64.
      max_iterations: of the solver.

    Returns:
      `Datamodels` with ids 0, 1, ....

    Raises:
      ValueError: as `ridge`; no convergence; too few models to hold some out.

    Cost: `2 min(n, M) n T K` operations per iteration, some hundred of them, for a given penalty,
    and `num_penalties` times as much to choose it: all penalties and targets are columns of one
    product. Memory: `4 n T K num_penalties` bytes, several times; give it a part of the targets at
    a time.

    References:
      A. Ilyas, S. M. Park, L. Engstrom, G. Leclerc, A. Madry. Datamodels: Predicting Predictions
      from Training Data. ICML 2022. A. Beck, M. Teboulle. A Fast Iterative Shrinkage-Thresholding
      Algorithm for Linear Inverse Problems. SIAM Journal on Imaging Sciences, 2009.

    Example:
      >>> from mu_jax.attribution import balanced_masks
      >>> masks = balanced_masks(jax.random.key(0), 40, 6)
      >>> lasso(masks, 3.0 * masks[:, :1] + 1.0, penalty=1e-4).effects[:, 0].round(2) + 0.0
      Array([3., 0., 0., 0., 0., 0.], dtype=float32)
    """
    design, responses = check_ensemble(masks, outputs)
    if tolerance is None:
        tolerance = 1e-9 if design.dtype == jnp.float64 else 1e-5
    if penalty is None:
        chosen = _choose(design, responses, num_penalties, held_out, (tolerance, max_iterations))
    else:
        chosen = jnp.broadcast_to(jnp.asarray(penalty, design.dtype), np.shape(outputs)[1:])
    problem = _standardize(design, responses)
    found = fista(problem, chosen.ravel(), tolerance, max_iterations)
    return assemble(found / problem.std[:, None], design, outputs)


class Problem(NamedTuple):
    """The lasso's quadratic part: `multiply(w) - cross` is its gradient.

    `factors` are the matrices whose product is `Z^T Z / M`: itself, or two thin ones.
    """

    factors: tuple[jax.Array, ...]
    cross: jax.Array
    lipschitz: jax.Array
    std: jax.Array

    def multiply(self, w: jax.Array) -> jax.Array:
        """`Z^T Z w / M`."""
        for factor in reversed(self.factors):
            w = product(factor, w)
        return w

    @property
    def largest_penalty(self) -> jax.Array:
        """For each target, the smallest penalty at which every coefficient is 0."""
        return jnp.abs(self.cross).max(0)


def _standardize(design: jax.Array, responses: jax.Array) -> Problem:
    models, examples = design.shape
    std = design.std(0)
    x, y = (design - design.mean(0)) / std, responses - responses.mean(0)
    small = product(x.T, x) / models if examples <= models else product(x, x.T) / models
    factors = (small,) if examples <= models else (x.T / models, x)
    return Problem(factors, product(x.T, y) / models, jnp.linalg.eigvalsh(small)[-1], std)


def fista(problem: Problem, penalty: jax.Array, tolerance: float, max_iterations: int) -> jax.Array:
    """Coefficients f[n, columns] for one penalty per column of `problem.cross`."""
    found, change = _iterate(problem, penalty, tolerance, max_iterations)
    if is_concrete(change) and not change <= tolerance:
        raise ValueError(
            f"expected the lasso to converge in {max_iterations} iterations, found a last change "
            f"of {float(change):.1e}: raise max_iterations, the tolerance or the penalty"
        )
    return found


@jax.jit
def _iterate(
    problem: Problem, penalty: jax.Array, tolerance: float, max_iterations: int
) -> tuple[jax.Array, jax.Array]:
    """Each column has its own momentum, which restarts when it points uphill."""
    step = 1 / problem.lipschitz

    def shrink(w):
        return jnp.sign(w) * jnp.maximum(jnp.abs(w) - step * penalty, 0)

    def body(state):
        w, ahead, momentum, _, iteration = state
        after = shrink(ahead - step * (problem.multiply(ahead) - problem.cross))
        uphill = jnp.sum((ahead - after) * (after - w), axis=0) > 0
        following = (1 + jnp.sqrt(1 + 4 * jnp.square(momentum))) / 2
        factor = jnp.where(uphill, 0, (momentum - 1) / following)
        change = jnp.abs(after - w).max(0) / jnp.maximum(jnp.abs(after).max(0), 1e-30)
        following = jnp.where(uphill, 1, following)
        return after, after + factor * (after - w), following, change.max(), iteration + 1

    def unfinished(state):
        return (state[3] > tolerance) & (state[4] < max_iterations)

    zero = jnp.zeros_like(problem.cross)
    infinite = jnp.asarray(jnp.inf, zero.dtype)
    start = (zero, zero, jnp.ones_like(penalty), infinite, 0)
    found, _, _, change, _ = jax.lax.while_loop(unfinished, body, start)
    return found, change


def _choose(
    design: jax.Array,
    responses: jax.Array,
    num_penalties: int,
    held_out: float,
    stopping: tuple[float, int],
) -> jax.Array:
    """For each target, the penalty with the smallest squared error on the held-out models."""
    models = len(design)
    kept = models - round(held_out * models)
    counts = np.asarray(design[:kept].sum(0))
    if not 0 < kept < models or np.any((counts == 0) | (counts == kept)):
        raise ValueError(
            f"expected every example in some and not in all of the first {kept} of {models} "
            "models, found one that is not: train more models, change held_out or give a penalty"
        )
    problem = _standardize(design[:kept], responses[:kept])
    path = jnp.asarray(np.geomspace(1, 1e-3, num_penalties), design.dtype)
    penalties = path[:, None] * problem.largest_penalty
    cross = jnp.tile(problem.cross, (1, num_penalties))
    found = fista(problem._replace(cross=cross), penalties.ravel(), *stopping)
    rest = (design[kept:] - design[:kept].mean(0)) / problem.std
    predicted = product(rest, found).reshape(len(rest), num_penalties, -1)
    errors = (responses[kept:] - responses[:kept].mean(0))[:, None] - predicted
    best = jnp.square(errors).mean(0).argmin(0)
    return jnp.take_along_axis(penalties, best[None], 0)[0]
