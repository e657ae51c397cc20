"""The effect of a whole group of training examples on every logit, by one forward-mode product."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import jax.scipy.sparse.linalg
import optax

from mu_jax.attribution._features import (
    checked_margins,
    coefficients,
    factorise,
    gram,
    leverages,
    margin_features,
)
from mu_jax.data import is_concrete
from mu_jax.losses import weighted_sum
from mu_jax.mapping import map_rows
from mu_jax.model import Model
from mu_jax.sharding import summary
from mu_jax.statistics.accumulator import Statistic
from mu_jax.statistics.collecting import collect
from mu_jax.statistics.gradients import mean_gradient
from mu_jax.statistics.projections import Projection, ravel, unravel

if TYPE_CHECKING:
    from mu_jax.attribution.trak import Checkpoint, Trak

PyTree = Any


def group_direction(
    store: Trak, forget: Any, *, leave_one_out: bool = False, retain_only: bool = False
) -> list[PyTree]:
    """The direction in which the forget set has moved the parameters, for each checkpoint.

    `w_F = P K^-1 sum_{i in F} (1 - p_i) phi_i`, shaped like the parameters. To first order,
    `theta - w_F` is the model without F, and `J_x w_F` the effect of F on the logits of any x. It
    needs no features: `sum_i (1 - p_i) grad f_i` is one gradient over the forget set.

    Args:
      store: from `trak`; with `weight_decay` if magnitudes matter.
      forget: the examples of the group, part of the data of `store`.
      leave_one_out: divide each term by `1 - r_i phi_i^T K^-1 phi_i`.
      retain_only: take the group out of K; what correlated groups need, for which the sum of
        single effects is far off.

    Returns:
      One tree shaped like the parameters for each checkpoint.

    Raises:
      ValueError: both options at once; a margin that is not finite; a K that is singular without
        the group.

    Cost: for each checkpoint one forward and backward pass over the forget set, two products with
    P and one triangular solve. `leave_one_out` and `retain_only` project the forget set's
    gradients as well, and `retain_only` factorises K again.

    Example:
      >>> import jax, jax.numpy as jnp, optax, mu_jax as mu
      >>> from mu_jax import attribution
      >>> predict = lambda w, state, x: x @ w
      >>> model = mu.from_function(predict, optax.softmax_cross_entropy_with_integer_labels)
      >>> data = mu.batches(jnp.eye(4), jnp.array([0, 1, 0, 1]), batch_size=2)
      >>> variables = mu.Variables(0.1 * jnp.ones((4, 2)))
      >>> store = attribution.trak(
      ...     model, [variables], data, key=jax.random.key(0), dim=None, weight_decay=0.1)
      >>> [direction] = attribution.group_direction(store, data.take(jnp.array([2])))
      >>> attribution.group_effect(model, variables, direction, jnp.eye(4))[2].round(2)
      Array([ 0.56, -0.56], dtype=float32)
    """
    if leave_one_out and retain_only:
        raise ValueError(
            "expected leave_one_out or retain_only, found both: each takes the group out of K"
        )
    directions = []
    for point in store.checkpoints:
        factor = _factor_without(store, point, forget) if retain_only else point.factor
        statistic = _residual_gradient(store.model, store.gauss_newton, leave_one_out)
        given = point.variables, point.projection, factor
        gradient = ravel(collect(statistic, given, forget).sum)
        direction = _solve(point.projection, factor, gradient)
        directions.append(unravel(direction, store.model.params(point.variables)))
    return directions


def group_effect(model: Model, variables: PyTree, direction: PyTree, inputs: PyTree) -> jax.Array:
    """`J_x w`: how much the group behind a direction raises each logit of each input, f[B, K].

    The predicted logits of a model without the group are `logits - multiplier * effect`.

    Args:
      model: the model.
      variables: the checkpoint that the direction belongs to.
      direction: w, a tree shaped like its parameters.
      inputs: B examples; any, not only training examples.

    Cost: one forward-mode pass, two to three forward passes.
    """
    params, state = model.split(variables)
    predict = functools.partial(_predict, model, state, inputs)
    return jax.jvp(predict, (params,), (direction,))[1]


def mean_group_effect(
    model: Model, checkpoints: Iterable[PyTree], directions: Iterable[PyTree], data: Any
) -> jax.Array:
    """The mean of `group_effect` over checkpoints for all examples of `data`, f[n, K].

    Args:
      model: the model.
      checkpoints: variables of each model.
      directions: the direction that belongs to each.
      data: `Batches` or a `Stream`; labels are not used.

    Cost: one forward-mode pass per example and checkpoint.
    """
    pairs = list(zip(checkpoints, directions, strict=True))
    return sum(map_rows(_effect_rows(model), data, *pair) for pair in pairs) / len(pairs)


def gauss_newton_direction(
    model: Model,
    variables: PyTree,
    data: Any,
    forget: Any,
    *,
    weight_decay: jax.Array | float,
    tolerance: float = 1e-5,
    max_iterations: int = 200,
) -> PyTree:
    """The direction of a group from the full Gauss-Newton matrix, by conjugate gradients.

    `w_F = -(sum_i J_i^T H_i J_i + n wd I)^-1 sum_{i in F} grad l_i` with `J_i` the Jacobian of the
    outputs and `H_i` the Hessian of the loss in them; no projection, no matrix, any loss that is
    convex in the outputs. For two classes it is `group_direction` with `dim=None`.

    Args:
      model: the model.
      variables: one trained model.
      data: the training set, array-backed `Batches`.
      forget: the group.
      weight_decay: coefficient wd of `wd/2 |theta|^2` beside the mean loss in training; positive.
      tolerance: residual relative to the right-hand side.
      max_iterations: products with the matrix, at most.

    Returns:
      A tree shaped like the parameters, for `group_effect`.

    Raises:
      ValueError: the residual is still too large after `max_iterations`.

    Cost: one pass over `data` per iteration, of about three gradients; memory of five trees.
    """
    gradient = collect(mean_gradient(model), variables, forget).sum
    target = jax.tree.map(lambda g, p: -g.astype(p.dtype), gradient, model.params(variables))
    damping = jnp.asarray(weight_decay)
    direction, residual = _conjugate_gradients(
        model, variables, data, target, (damping, tolerance, max_iterations)
    )
    _check_residual(residual, tolerance, max_iterations)
    return direction


def multiplier(predicted: jax.Array, observed: jax.Array) -> jax.Array:
    """The factor by which to scale predicted effects: least squares through the origin, f[].

    `<predicted, observed> / <predicted, predicted>`. Fit it on a held-out group for which some
    models were retrained, with `observed = mean logits of full models - mean logits of retrained
    ones`.

    Example:
      >>> multiplier(jnp.array([1.0, 2.0]), jnp.array([0.5, 1.0]))
      Array(0.5, dtype=float32)
    """
    return jnp.vdot(predicted, observed) / jnp.vdot(predicted, predicted)


def _predict(model: Model, state: PyTree, inputs: PyTree, params: PyTree) -> PyTree:
    return model.predict(params, state, inputs)


@functools.lru_cache(maxsize=64)
def _effect_rows(model: Model) -> Callable:
    return lambda batch, variables, direction: group_effect(
        model, variables, direction, batch.inputs
    )


@summary
def _solve(projection: Projection, factor: jax.Array, gradient: jax.Array) -> jax.Array:
    """`P K^-1 P^T gradient`."""
    solved = jax.scipy.linalg.cho_solve((factor, True), projection.project(gradient))
    return projection.lift(solved, gradient.size)


def _factor_without(store: Trak, point: Checkpoint, forget: Any) -> jax.Array:
    part = collect(
        gram(store.model, store.gauss_newton), (point.variables, point.projection), forget
    )
    return factorise(point.gram.without(part), store.ridge, store.weight_decay)


@functools.lru_cache(maxsize=64)
def _residual_gradient(model: Model, gauss_newton: bool, leave_one_out: bool) -> Statistic:
    """`sum_i c_i grad f_i` as the gradient of one weighted sum of margins."""

    def terms(given, batch):
        variables, projection, factor = given
        params, state = model.split(variables)
        leverage: jax.Array | float = 0.0
        if leave_one_out:
            features = margin_features(model, variables, projection, batch)[1]
            leverage = leverages(features, factor)

        def total(params):
            margin = checked_margins(model.predict(params, state, batch.inputs), batch.targets)
            fixed = jax.lax.stop_gradient(margin)
            scale = coefficients(fixed, leverage, batch.weight, gauss_newton)
            return weighted_sum(scale * margin, jnp.sign(batch.weight))

        return jax.grad(total)(params), batch.weight.sum()

    return Statistic(terms, lambda given: model.params(given[0]), "gradient of the group's margins")


@functools.lru_cache(maxsize=64)
def _gauss_newton_product(model: Model) -> Statistic:
    """`sum_i w_i J_i^T H_i J_i v`, for variables `(variables, v)`."""

    def terms(given, batch):
        variables, vector = given
        params, state = model.split(variables)
        predict = functools.partial(_predict, model, state, batch.inputs)
        outputs, push = jax.linearize(predict, params)

        def total(outputs):
            return weighted_sum(model.per_example(outputs, batch), batch.weight)

        curved = jax.jvp(jax.grad(total), (outputs,), (push(vector),))[1]
        return jax.linear_transpose(push, params)(curved)[0], batch.weight.sum()

    return Statistic(terms, lambda given: model.params(given[0]), "Gauss-Newton product")


@functools.partial(jax.jit, static_argnums=0)
def _conjugate_gradients(
    model: Model, variables: PyTree, data: Any, target: PyTree, settings: tuple
) -> tuple[PyTree, jax.Array]:
    """The solution, and the norm of what it leaves, relative to that of the target."""
    weight_decay, tolerance, max_iterations = settings
    statistic = _gauss_newton_product(model)

    def product(vector):
        curved = collect(statistic, (variables, vector), data)

        def damp(c, v):
            scale = curved.weight.astype(v.dtype) * weight_decay.astype(v.dtype)
            return c.astype(v.dtype) + scale * v

        return jax.tree.map(damp, curved.sum, vector)

    solution, _ = jax.scipy.sparse.linalg.cg(product, target, tol=tolerance, maxiter=max_iterations)
    rest = optax.tree.sub(target, product(solution))
    return solution, optax.tree.norm(rest) / optax.tree.norm(target)


def _check_residual(residual: jax.Array, tolerance: float, max_iterations: int) -> None:
    if is_concrete(residual) and not residual <= 10 * tolerance:
        raise ValueError(
            f"expected conjugate gradients to reach a relative residual of {tolerance:.0e}, found "
            f"{float(residual):.1e} after at most {max_iterations} iterations: raise "
            "max_iterations or weight_decay"
        )
