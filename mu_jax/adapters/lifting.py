"""A model of which the adapters alone are trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mu_jax._tracing import cached
from mu_jax.adapters.low_rank import Adapters, factored, merged, new_adapters
from mu_jax.model import Model
from mu_jax.reparameterized import check_kind, reparameterized

PyTree = Any
Array = jax.Array


class Adapted(NamedTuple):
    """The variables of an adapted model.

    Attributes:
      adapters: `{name: LowRank}`, what is trained and edited.
      scale: f32[], `alpha / r`.
      base: the variables of the model without adapters, which never move (but for statistics of
        normalizations in training mode).
    """

    adapters: Adapters
    scale: Array
    base: PyTree


class Gated(NamedTuple):
    """Inputs of an adapted model, with the share of the adapters that each row gets.

    Attributes:
      inputs: the inputs of the model, leaves [B, ...].
      weight: f32[B]; 0: the base alone, 1: the whole adapter.
    """

    inputs: PyTree
    weight: Array


def attach(
    key: Array,
    model: Model,
    variables: PyTree,
    *,
    rank: int = 8,
    alpha: Array | float = 16.0,
    chosen: Callable[[str], bool] | None = None,
) -> Adapted:
    """New adapters for the variables of a model; outputs stay as they are.

    Args:
      key: a PRNG key.
      model: the model without adapters. variables: its variables.
      rank: r, 8 as published for O3. alpha: `scale = alpha / r`, 16 there; may be traced.
      chosen: names of the kernels to adapt, see `new_adapters`.

    Example:
      >>> import mu_jax as mu
      >>> model = mu.from_function(lambda p, state, x: x @ p["w"], mu.losses.squared_error)
      >>> start = mu.adapters.attach(
      ...     jax.random.key(0), model, mu.Variables({"w": jnp.ones((3, 2))}), rank=1)
      >>> lifted = mu.adapters.adapted(model)
      >>> lifted.apply(start, jnp.ones((1, 3)))
      Array([[3., 3.]], dtype=float32)
      >>> jax.tree.map(jnp.shape, lifted.params(start))
      {'w': LowRank(a=(1, 3), b=(1, 2))}
    """
    adapters = new_adapters(key, model.params(variables), rank=rank, chosen=chosen)
    return Adapted(
        adapters, jnp.asarray(alpha, jax.dtypes.canonicalize_dtype(float)) / rank, variables
    )


def adapted(model: Model, *, factored: bool = False) -> Model:
    """The model with adapters: `W + scale a^T b` in the place of every adapted kernel.

    Its variables are `Adapted` and its parameters are the adapters, so that every transform,
    statistic and fit acts on them alone: the base has no gradient and no optimizer state, and it is
    the reference model of methods that have one.

    Its inputs are those of the model, or `Gated` inputs, which say how much of the adapters each
    row gets: `h = W x + w scale B A x`.

    Args:
      model: any model.
      factored: compute `x W + w scale (x a^T) b` in the place of a merged kernel. The model has to
        multiply by adapted kernels as `x @ kernel`, as the linear layers of `models.decoder` do.

    Returns:
      A `Model`. Equal arguments give the same one, so that nothing is compiled again.

    Cost: of a merged kernel: a product of r columns and rows, and the gradient of the whole kernel
    in the backward pass; with `Gated` inputs, kernels for every row. Factored: two thin products
    for each row, forwards and backwards, gated or not.
    """
    return _adapted(model, factored)


def merge(model: Model, variables: Adapted) -> PyTree:
    """The variables of the model without adapters, with what these add to it.

    Args:
      model: the model without adapters. variables: of the adapted model.

    Cost: one copy of the adapted kernels. What the base stored is gone from the result if nobody
    keeps the base beside it.
    """
    check_adapted(variables)
    params = merged(model.params(variables.base), variables.adapters, variables.scale)
    return model.with_params(variables.base, params)


def check_adapted(variables: Any) -> None:
    """Refuse variables without adapters."""
    check_kind(variables, Adapted, "mu.adapters.attach(key, model, variables)")


@cached(maxsize=64)
def _adapted(model: Model, thin: bool) -> Model:
    def computed(function, adapters, state, inputs, *key):
        scale, base = state
        params, own = model.split(base)
        if not isinstance(inputs, Gated):
            put = factored if thin else merged
            return function(put(params, adapters, scale), own, inputs, *key)
        if thin:
            gated = factored(params, adapters, scale, inputs.weight)
            return function(gated, own, inputs.inputs, *key)
        if key:
            raise ValueError(
                "expected inputs without a gate in training mode, found Gated ones: gate the "
                "trained adapters, or use factored=True"
            )
        return _row_by_row(function, params, adapters, scale, own, inputs)

    return reparameterized(model, Adapted, check_adapted, computed)


def _row_by_row(
    function: Callable, params: PyTree, adapters: Adapters, scale: Array, own: PyTree, inputs: Gated
) -> PyTree:
    """A function of the model on rows with kernels of their own."""

    def row(weight: Array, one: PyTree) -> PyTree:
        kernels = merged(params, adapters, weight * scale)
        found = function(kernels, own, jax.tree.map(lambda x: x[None], one))
        return jax.tree.map(lambda x: x[0], found)

    return jax.vmap(row)(inputs.weight, inputs.inputs)
