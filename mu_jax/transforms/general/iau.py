"""Influence Approximation Unlearning (IAU): one optimizer step on a difference of gradients."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from mu_jax import edits
from mu_jax._at_once import elementwise
from mu_jax.data.checks import check_range
from mu_jax.loops import lifting
from mu_jax.loops.labels import check_labels
from mu_jax.mesh.shards import bare, on_automatic_axes, reduction
from mu_jax.model import Model
from mu_jax.solvers.problem import InverseCurvature
from mu_jax.statistics import Accumulator, collect, mean_gradient
from mu_jax.statistics.accumulator import mean_of
from mu_jax.transforms._shared.transform import Unlearn, method, passes, report

PyTree = Any


class IAUInfo(NamedTuple):
    """What IAU found.

    Attributes:
      forget_gradient_norm, retain_gradient_norm, direction_norm: L2 norms of `g_f`, `g_r`, `G`.
      cosine: between `g_r` and `g_f`.
      forget_fraction: rho, `n_forget / n`.
      predicted_forget_change, predicted_retain_change: first-order change of the mean losses,
        `<g_f, delta>` and `<g_r, delta>`.
      stale: whether a given full gradient belongs to other variables.
      solver: what the solver of `inverse_curvature` reports of itself; () without one.
    """

    forget_gradient_norm: jax.Array
    retain_gradient_norm: jax.Array
    direction_norm: jax.Array
    cosine: jax.Array
    forget_fraction: jax.Array
    predicted_forget_change: jax.Array
    predicted_retain_change: jax.Array
    stale: jax.Array
    solver: Any = ()

    def messages(self) -> list[str]:
        """What the solver says, and a sentence if the stored gradient is stale."""
        own = getattr(self.solver, "messages", None)
        found = list(own()) if own else []
        if np.any(np.asarray(self.stale)):
            found.append("The full gradient belongs to other variables: compute it again.")
        return found


@method
def iau(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    scale_by_fraction: bool = False,
    retain_weight: jax.Array | float = 1.0,
    full_gradient: Accumulator | None = None,
    inverse_curvature: InverseCurvature | None = None,
) -> Unlearn:
    """Influence approximation: one fresh optimizer step on `G = g_retain - g_forget`.

    `g_retain` and `g_forget` are the mean gradients over the two sets. Retraining moves the
    weights, to first order, by `-rho H^-1 G` with `rho = n_forget / n`; IAU drops the Hessian and
    lets an optimizer choose the size of the step.

    | mode | call |
    |---|---|
    | reference | `iau(model, optax.adam(1e-3))` |
    | scale-aware | `iau(model, optax.sgd(eta), scale_by_fraction=True)` |
    | normalized | `iau(model, mu.edits.normalized(s), scale_by_fraction=True)`, see note |
    | preconditioned | `iau(model, optax.sgd(1.0), scale_by_fraction=True, inverse_curvature=...)` |
    | ascent only | `retain_weight=0` |

    Adam's first step moves every weight whose gradient is not 0 by its learning rate, whatever the
    size of the request: tune that rate for each model against a retrained one, or use a
    scale-aware mode, where the step follows rho. A step that is normalized forgets the scale of
    what it is given, so there rho multiplies the finished update. Preconditioned, the optimizer
    takes its step on `(C + damping I)^-1 G` with the curvature C of the retained data; with
    `optax.sgd(1.0)` that is `mu.influence(model, formula="reweighted_newton")`. Do not use an
    optimizer with weight decay.

    It fails on whole classes, whose loss one small step hardly moves; with Adam on very small sets,
    for which the step is too large and mostly noise; and over many requests, each of which moves
    every weight by the rate.

    Args:
      model: the model.
      optimizer: takes one step from a fresh state on G. `optax.adam(1e-3)` is the reference.
      scale_by_fraction: multiply the update by rho. False in the reference; True otherwise. For
        plain SGD and preconditioning this is the same as multiplying G by rho.
      retain_weight: multiplies `g_retain`; 1 in the reference, 0 switches the correction off.
      full_gradient: the stored mean gradient over all training data at these variables; a request
        then needs the forget set only, exactly: `g_retain = (n g - n_f g_f) / (n - n_f)`.
      inverse_curvature: multiplies G, such as
        `mu.solvers.InverseCurvature(mu.solvers.conjugate_gradients(), damping=1e-2)`; default none.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; the key is not used, and
      `info.details` is an `IAUInfo`.

    Raises:
      ValueError: sets that overlap or are empty; a full gradient of other variables.

    Cost: one forward and backward pass over retain and forget, or over forget alone with
    `full_gradient`; memory of two gradients beside the parameters. With `inverse_curvature` also
    the products of its solver, each a pass over the retained data.

    Differences from the reference program (`Lolo1222/IAU`):
      1. Inference mode (the program never leaves training mode, which its network cannot notice).
      2. Gradients are streamed over batches; the program puts each set through as one batch.

    References:
      J. Liu, C. Wu, D. Lian, E. Chen. Efficient Machine Unlearning via Influence Approximation.
      KDD 2025.

    Example:
      >>> import jax, jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, optax.squared_error)
      >>> data = mu.batches(jnp.eye(2), jnp.array([1.0, 3.0]), batch_size=2)
      >>> forget, retain = mu.split(data, [1])
      >>> unlearn = mu.iau(model, optax.sgd(0.1), scale_by_fraction=True)
      >>> unlearn(jax.random.key(0), mu.Variables(jnp.zeros(2)), forget, retain)[0].params
      Array([ 0.1, -0.3], dtype=float32)
    """

    check_range(retain_weight=retain_weight)

    def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):
        del key
        check_labels(model, variables, forget=forget, retain=retain)
        params = model.params(variables)
        statistic = mean_gradient(model)
        part = collect(statistic, variables, forget)
        if full_gradient is None:
            rest = collect(statistic, variables, retain)
            read = passes(part.weight, rest.weight)
        else:
            rest = full_gradient.without(part)
            read = part.weight
        rho = _fraction(part.weight, rest.weight)
        sums = part.sum, part.weight, rest.sum, rest.weight
        direction = _direction(*sums, retain_weight)
        solver: Any = ()
        if inverse_curvature is not None:
            direction, solver = inverse_curvature(model, variables, retain, direction)
            products = getattr(solver, "products", 0)
            read = passes(read, _scale(rest.weight, products))
        updates = _fresh_step(optimizer, direction, params)
        if scale_by_fraction:
            updates = _scale(updates, rho)
        after = model.with_params(variables, edits.apply(params, updates))
        return report(
            model,
            variables,
            after,
            (forget, retain),
            steps=1,
            example_passes=read,
            details=_details(part, rest, updates, retain_weight, rho)._replace(solver=solver),
        )

    return unlearn


@elementwise
def _direction(xp, forget, n_forget, retain, n_retain, retain_weight) -> PyTree:
    pairs = mean_of(forget, n_forget), mean_of(retain, n_retain)
    return jax.tree.map(lambda f, r: retain_weight * r - f, *pairs)


@elementwise
def _scale(xp, updates, factor) -> PyTree:
    return jax.tree.map(lambda u: factor * u, updates)


@reduction
def _fraction(xp, n_forget, n_retain) -> jax.Array:
    # In float64 where that is on: weights are whole numbers, their ratio is not.
    return n_forget.astype(float) / (n_forget + n_retain)


def _fresh_step(optimizer, direction, params) -> optax.Updates:
    def step(direction, params):
        return optimizer.update(direction, optimizer.init(params), params)[0]

    owners = optimizer.update, optimizer.init
    lifted = lifting.lift(step, *bare((direction, params)), owners=owners)
    return _compiled_step(lifted.computation, lifted.values, direction, params)


@functools.partial(jax.jit, static_argnums=0)
def _compiled_step(computation, values, direction, params) -> optax.Updates:
    return on_automatic_axes(computation, values, direction, params, like=params)


@reduction
def _details(xp, part, rest, updates, retain_weight, rho) -> IAUInfo:
    def norm(tree):
        return xp.sqrt(dot(tree, tree))

    def dot(first, second):
        return sum(xp.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (first, second))))

    g_f, g_r = mean_of(part.sum, part.weight), mean_of(rest.sum, rest.weight)
    norm_f, norm_r = norm(g_f), norm(g_r)
    direction = jax.tree.map(lambda r, f: retain_weight * r - f, g_r, g_f)
    return IAUInfo(
        forget_gradient_norm=norm_f,
        retain_gradient_norm=norm_r,
        direction_norm=norm(direction),
        cosine=dot(g_f, g_r) / xp.maximum(norm_f * norm_r, 1e-30),
        forget_fraction=rho,
        predicted_forget_change=dot(g_f, updates),
        predicted_retain_change=dot(g_r, updates),
        stale=xp.any(part.fingerprint != rest.fingerprint),
    )
