"""Per-example losses, and the one place where they are reduced."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean squared error of each example over its output dimensions, `f32[B]`.

    Args:
      outputs: f32[B, ...]; a last axis of size 1 that the targets lack is dropped.
      targets: f32[B, ...].

    Example:
      >>> squared_error(jnp.array([[1.0], [3.0]]), jnp.array([0.0, 1.0]))
      Array([1., 4.], dtype=float32)
    """
    errors = jnp.square(_residual(outputs, targets))
    return errors.reshape(errors.shape[0], -1).mean(axis=1)


def absolute_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean absolute error of each example over its output dimensions, `f32[B]`.

    Args:
      outputs, targets: as `squared_error`.

    Example:
      >>> absolute_error(jnp.array([[1.0], [3.0]]), jnp.array([0.0, 1.0]))
      Array([1., 2.], dtype=float32)
    """
    errors = jnp.abs(_residual(outputs, targets))
    return errors.reshape(errors.shape[0], -1).mean(axis=1)


def _residual(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    if outputs.ndim == targets.ndim + 1 and outputs.shape[-1] == 1:
        outputs = outputs[..., 0]
    if outputs.shape != targets.shape:
        raise ValueError(
            f"expected targets of shape {outputs.shape} like the outputs, found {targets.shape}: "
            "reshape the targets"
        )
    return outputs - targets


def weighted_sum(values: jax.Array, weight: jax.Array) -> jax.Array:
    """`sum_i weight_i values_i`, where a weight of 0 also silences a value that is not finite.

    Example:
      >>> weighted_sum(jnp.array([1.0, jnp.nan]), jnp.array([2.0, 0.0]))
      Array(2., dtype=float32)
    """
    return jnp.sum(jnp.where(weight > 0, values, 0) * weight)
