"""Worst-case forget sets: the examples that are the hardest to unlearn."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from mu_jax._tracing import cached
from mu_jax.data.batches import Batches, is_concrete
from mu_jax.evaluation.accuracy import as_float
from mu_jax.loops.predict import map_rows
from mu_jax.model import Model
from mu_jax.transforms.general.finetune import finetune

PyTree = Any
Unlearn = Callable[[jax.Array, PyTree, Any, Any], tuple[PyTree, Any]]
_BISECTIONS = 60  # each halves an interval; more than the digits of a float32


class WorstCaseSet(NamedTuple):
    """The forget set that was found.

    Attributes:
      ids: i32[size], stable ids in ascending order, for `mu.split`.
      weights: f32[n], the last weights in [0, 1] in the order of the data, before the `size`
        largest were taken; near 0 and 1 if the selection is clear.
      losses: f32[rounds], mean loss after unlearning of the examples chosen so far, each counted
        by its weight.
    """

    ids: jax.Array
    weights: jax.Array
    losses: jax.Array


class _Settings(NamedTuple):
    size: int
    rounds: int
    binarise_every: int
    easiest: bool


def worst_case_set(
    model: Model,
    variables: PyTree,
    data: Batches,
    size: int,
    *,
    key: jax.Array,
    unlearn: Unlearn | None = None,
    rounds: int = 10,
    step_size: ArrayLike = 0.01,
    gamma: ArrayLike = 0.0,
    binarise_every: int = 20,
    easiest: bool = False,
) -> WorstCaseSet:
    """Choose the forget set whose loss stays lowest after unlearning, by bi-level optimization.

    Weights w in [0, 1]^n with `sum_i w_i = size` start uniform. Each round unlearns from the
    original variables with w as row weights of the forget set and 1 - w of the retain set, which
    gives theta(w), takes `g_i = loss_i(theta(w))` of every example, and steps
    `w <- P(w - step_size (g + 2 gamma w))` with P of `project_capped_simplex`. The `size` largest
    weights become 1 and the others 0 every `binarise_every` rounds, and name the set at the end.

    Args:
      model: the model.
      variables: the original model.
      data: the training set, array-backed, without rows of weight 0.
      size: number of examples to choose; a tenth of the data as published.
      key: a PRNG key; round r unlearns with `fold_in(key, r)`.
      unlearn: `(key, variables, forget, retain) -> (variables, info)`, any transform that heeds row
        weights; it is given all examples on both sides. Default as published: fine-tuning by sign
        descent, learning rate 0.01, 10 epochs, batches of 256. Pass the same object again to reuse
        its compilation.
      rounds: 10 as published.
      step_size: of the weights, 0.01 as published; may be traced.
      gamma: pulls the weights together, 0 as published; may be traced.
      binarise_every: 20 as published.
      easiest: choose the set whose loss becomes highest instead.

    Returns:
      `WorstCaseSet`. Report every metric on it and on random sets.

    Raises:
      ValueError: data that is not `Batches` or has rows of weight 0, a size out of range, or an
        unlearning that diverges.

    Cost: `rounds` times the unlearning and one forward pass over the data, as one program.

    Differences from the published program:
      1. The weights start uniform; there from a random set, which small steps hardly leave.
      2. The loss is a mean over each batch, and g is taken in inference mode without augmentation;
         sign descent by default has no momentum and no weight decay.
      3. With `easiest` gamma still pulls the weights together; there it pushes them apart.

    Example:
      >>> import mu_jax as mu
      >>> data = mu.batches(jnp.ones((6, 1)), jnp.array([0, 0, 0, 0, 1, 1]), batch_size=6)
      >>> predict = lambda w, state, x: x @ w
      >>> model = mu.from_function(predict, optax.softmax_cross_entropy_with_integer_labels)
      >>> variables = mu.Variables(jnp.zeros((1, 2)))
      >>> hardest = worst_case_set(model, variables, data, 4, key=jax.random.key(0))
      >>> hardest.ids.tolist()  # the majority class is learned anew from whatever is left of it
      [0, 1, 2, 3]

    References:
      C. Fan, J. Liu, A. Hero, S. Liu. Challenging Forgets: Unveiling the Worst-Case Forget Sets in
      Machine Unlearning. ECCV 2024.
    """
    _check(data, size)
    settings = _Settings(size, rounds, binarise_every, easiest)
    unlearn = unlearn or _published(model)
    found = _select(model, unlearn, settings, key, variables, data, (step_size, gamma))
    if is_concrete(found.losses) and not bool(jnp.isfinite(found.losses).all()):
        number = int(jnp.argmin(jnp.isfinite(found.losses)))
        before = jnp.isfinite(map_rows(_losses(model), data, variables)).all()
        raise ValueError(
            f"expected finite losses after unlearning, found NaN or infinity in round {number}, "
            + (
                "none before it: give `unlearn` smaller steps"
                if before
                else "and before it: check inputs, targets and variables"
            )
        )
    return found


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _select(
    model: Model,
    unlearn: Unlearn,
    settings: _Settings,
    key: jax.Array,
    variables: PyTree,
    data: Batches,
    rates: tuple,
) -> WorstCaseSet:
    step_size, gamma = rates
    sign = -1 if settings.easiest else 1

    def round_(weights, number):
        weights = jnp.where(
            (number > 0) & (number % settings.binarise_every == 0),
            _largest(weights, settings.size),
            weights,
        )
        shares = weights.astype(data.weight.dtype)
        forget = data.replace(weight=data.weight * shares)
        retain = data.replace(weight=data.weight * (1 - shares))
        unlearned, _ = unlearn(jax.random.fold_in(key, number), variables, forget, retain)
        losses = map_rows(_losses(model), data, unlearned)
        weights = weights - step_size * (sign * losses + 2 * gamma * weights)
        weights = project_capped_simplex(weights, settings.size).astype(float)
        return weights, weights @ losses / settings.size

    start = jnp.full(data.num_examples, settings.size / data.num_examples, float)
    weights, losses = jax.lax.scan(round_, start, jnp.arange(settings.rounds))
    chosen = jax.lax.top_k(weights, settings.size)[1]
    return WorstCaseSet(jnp.sort(data.index[chosen]), weights, losses)


def project_capped_simplex(values: ArrayLike, size: ArrayLike) -> jax.Array:
    """The nearest point with entries in [0, 1] and sum `size`.

    `argmin_w |w - v|^2` is `clip(v - tau, 0, 1)` with the tau at which the sum is right, found by
    bisection.

    Args:
      values: f32[n], v.
      size: the sum, between 0 and n; may be traced.

    Returns:
      f32[n].

    Cost: 60 passes over v.

    Example:
      >>> [round(w, 3) for w in project_capped_simplex([2.0, 0.5, 0.25, -1.0], 1.5).tolist()]
      [1.0, 0.375, 0.125, 0.0]
    """
    return _project(as_float(values), size)


@jax.jit
def _project(values: jax.Array, size: ArrayLike) -> jax.Array:
    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        too_small = jnp.clip(values - middle, 0, 1).sum() < size
        return jnp.where(too_small, low, middle), jnp.where(too_small, middle, high)

    bounds = values.min() - 1, values.max()
    low, high = jax.lax.fori_loop(0, _BISECTIONS, halve, bounds)
    return jnp.clip(values - (low + high) / 2, 0, 1)


@cached(maxsize=64)
def _published(model: Model) -> Unlearn:
    return finetune(model, optax.sign_sgd(0.01), epochs=10, batch_size=256, training_mode=True)


@cached(maxsize=64)
def _losses(model: Model) -> Callable:
    return lambda batch, variables: model.losses(variables, batch)


def _largest(weights: jax.Array, size: int) -> jax.Array:
    """1 for the `size` largest, else 0."""
    return jnp.zeros_like(weights).at[jax.lax.top_k(weights, size)[1]].set(1)


def _check(data: Any, size: int) -> None:
    if not isinstance(data, Batches):
        raise ValueError(
            f"expected array-backed Batches, found {type(data).__name__}: make them with mu.batches"
        )
    if not 0 < size < data.num_examples:
        raise ValueError(
            f"expected a size between 1 and {data.num_examples - 1}, found {size}: some examples "
            "are forgotten and some retained"
        )
    if is_concrete(data.weight) and not (np.asarray(data.weight) > 0).all():
        raise ValueError(
            "expected rows of positive weight, found others: take them out, they are not examples "
            "that can be chosen"
        )
