"""Batch statistics of other weights than those they were collected with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from mu_jax._tracing import cached
from mu_jax.data.batches import Batch, Batches
from mu_jax.loops.scan import fold
from mu_jax.mesh.shards import on_automatic_axes
from mu_jax.model import Model

PyTree = Any


def refresh_statistics(
    model: Model,
    variables: PyTree,
    batches: Batches | Iterable[Batch],
    *,
    key: jax.Array,
    epochs: int = 1,
) -> PyTree:
    """Move the batch statistics over examples; the parameters stay as they are.

    After an edit of the weights the running statistics still belong to the old ones, and hold what
    the forget set left in them. Forward passes in training mode over the retain set replace them:
    with momentum m, a share `m^steps` of the old ones remains. `mu.loops.exact_statistics` leaves
    nothing of them.

    Args:
      model: the model; without statistics nothing changes.
      variables: where to start.
      batches: examples, usually the retain set.
      key: shuffles, and drives dropout.
      epochs: passes over the batches.

    Returns:
      The variables with their statistics moved.

    Cost: one forward pass per example and epoch.

    Example:
      >>> import mu_jax as mu
      >>> move = lambda params, state, x, key: (x, 0.5 * state + 0.5 * x.mean())
      >>> model = mu.from_function(
      ...     lambda params, state, x: x - state, mu.losses.squared_error, predict_train=move)
      >>> data = mu.batches(jnp.full(4, 8.0), jnp.zeros(4), batch_size=2)
      >>> variables = mu.Variables((), jnp.zeros(()))
      >>> refresh_statistics(model, variables, data, key=jax.random.key(0)).state
      Array(6., dtype=float32)
    """
    params, state = model.split(variables)
    start = (state, jnp.zeros((), jnp.int32))
    state, _ = fold(_step(model), start, batches, (params, key), epochs=epochs, key=key)
    return model.join(params, state)


@cached(maxsize=64)
def _step(model: Model) -> Callable:
    def step(carry, batch, frozen):
        (state, count), (params, key) = carry, frozen
        key = jax.random.fold_in(key, count)
        _, state = model.predict_train(params, state, batch.inputs, key)
        return state, count + 1

    def step_anywhere(carry, batch, frozen):
        return on_automatic_axes(step, carry, batch, frozen, like=carry)

    return step_anywhere
