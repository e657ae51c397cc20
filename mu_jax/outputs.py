"""Outputs of a model over a set of examples, in the order of the examples."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mu_jax.data import Batches
from mu_jax.folding import fold
from mu_jax.model import Model

PyTree = Any


def outputs(model: Model, variables: PyTree, batches: Batches) -> jax.Array:
    """Outputs in inference mode for every row, `[n, ...]`, computed batch by batch.

    Args:
      model: the model; its outputs are one array with a leading axis of examples.
      variables: its arrays.
      batches: the examples; rows of weight 0 get their outputs too.

    Cost: one forward pass; memory of the result and one batch of activations.

    Example:
      >>> import jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, optax.squared_error)
      >>> data = mu.batches(jnp.eye(3), jnp.zeros(3), batch_size=2)
      >>> mu.outputs(model, mu.Variables(jnp.arange(3.0)), data)
      Array([0., 1., 2.], dtype=float32)
    """
    one = jax.eval_shape(lambda v, b: model.apply(v, b.at(0).inputs), variables, batches)
    zeros = jnp.zeros((batches.num_examples, *one.shape[1:]), one.dtype)
    real = min(batches.batch_size, batches.num_examples)
    step = _step(model, real)
    # Every row takes part, also one whose weight is 0.
    rows = batches.replace(weight=jnp.ones_like(batches.weight))
    return fold(step, (zeros, jnp.zeros((), jnp.int32)), rows, variables)[0]


@functools.lru_cache(maxsize=64)
def _step(model: Model, real: int) -> Callable:
    def step(carry, batch, variables):
        found, number = carry
        values = model.apply(variables, batch.inputs)
        slot = jnp.arange(batch.weight.shape[0])
        row = jnp.where(slot < real, number * real + slot, found.shape[0])
        return found.at[row].set(values.astype(found.dtype), mode="drop"), number + 1

    return step
