"""The effect of a whole group of training examples on every logit, by one forward-mode product."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax import _at_once as at_once
from mu_jax._tracing import cached
from mu_jax.data.batches import ids_of, is_concrete
from mu_jax.loops.predict import map_rows, unweighted
from mu_jax.model import Model
from mu_jax.solvers.conjugate_gradients import conjugate_gradients
from mu_jax.solvers.problem import Problem
from mu_jax.statistics.collecting import collect
from mu_jax.statistics.curvature.products import curvature_sums
from mu_jax.statistics.gradients import mean_gradient

PyTree = Any


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
    data, pairs = unweighted(data), list(zip(checkpoints, directions, strict=True))
    return _mean(*(map_rows(_effect_rows(model), data, *pair) for pair in pairs))


@at_once.elementwise
def _mean(xp: Any, *parts: jax.Array) -> jax.Array:
    del xp
    return functools.reduce(operator.add, parts) / len(parts)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Directions:
    """The directions of one forget set: its effect on any example is one forward-mode product.

    Attributes:
      model: the classifier.
      checkpoints: variables of each trained model.
      directions: a tree shaped like the parameters for each.
      index: i32[m], the ids of the forget set, or None if they are not known.
    """

    model: Model = dataclasses.field(metadata={"static": True})
    checkpoints: tuple[PyTree, ...]
    directions: tuple[PyTree, ...]
    index: Any

    def effect(self, forget: Any, data: Any) -> jax.Array:
        """How much the forget set raises every logit of `data`, f[n, K]: mean over checkpoints.

        Raises:
          ValueError: `forget` is not the set that the directions belong to.
        """
        self._check(ids_of(forget))
        return mean_group_effect(self.model, self.checkpoints, self.directions, data)

    def _check(self, ids: Any) -> None:
        if not all(x is not None and is_concrete(x) for x in (self.index, ids)):
            return
        own, other = np.unique(self.index), np.unique(ids)
        if not np.array_equal(own, other):
            raise ValueError(
                f"expected the forget set of these directions, {own.size} examples, found another "
                f"one of {other.size}: compute the directions of this request"
            )


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
      data: the training set.
      forget: the group.
      weight_decay: coefficient wd of `wd/2 |theta|^2` beside the mean loss in training; positive.
      tolerance: residual relative to the right-hand side.
      max_iterations: products with the matrix, at most.

    Returns:
      A tree shaped like the parameters, for `group_effect`.

    Raises:
      ValueError: the residual is still too large after `max_iterations`.

    Cost: that of `mu.solvers.conjugate_gradients`, and one more pass over `data`.
    """
    gradient = collect(mean_gradient(model), variables, forget).sum
    problem = Problem(model, variables, data, "gauss_newton", weight_decay)
    solve = conjugate_gradients(iterations=max_iterations, tolerance=tolerance)
    solution, details = solve(problem, gradient)
    _check_residual(details.residual_norm, tolerance, max_iterations)
    number = collect(curvature_sums(model), (variables, solution), data).weight
    return _direction(model.params(variables), solution, number)


@at_once.elementwise
def _direction(xp: Any, params: PyTree, solution: PyTree, number: jax.Array) -> PyTree:
    """The solution for the mean over `number` examples as that for their sum, sign turned."""
    return jax.tree.map(
        lambda p, x: (-x / number.astype(x.dtype)).astype(p.dtype), params, solution
    )


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


@cached(maxsize=64)
def _effect_rows(model: Model) -> Callable:
    return lambda batch, variables, direction: group_effect(
        model, variables, direction, batch.inputs
    )


def _check_residual(residual: jax.Array, tolerance: float, max_iterations: int) -> None:
    if is_concrete(residual) and not residual <= 10 * tolerance:
        raise ValueError(
            f"expected conjugate gradients to reach a relative residual of {tolerance:.0e}, found "
            f"{float(residual):.1e} after at most {max_iterations} iterations: raise "
            "max_iterations or weight_decay"
        )
