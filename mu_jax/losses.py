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


def quantile_loss(
    outputs: jax.Array, targets: jax.Array, *, quantiles: tuple[float, ...] = (0.1, 0.5, 0.9)
) -> jax.Array:
    """Quantile (pinball) loss of each example, a mean over all but the quantiles, `f32[B]`.

    `l_i = mean_t sum_q max(q e, (q - 1) e)` with `e = y_it - f_itq`: it is least where a share q of
    the targets lies below `f_itq`. For the median alone it is half of the absolute error.

    Args:
      outputs: f32[B, ..., Q], a forecast for each quantile, in their order.
      targets: f32[B, ...], such as the hours of a forecast.
      quantiles: in (0, 1).

    Raises:
      ValueError: another number of quantiles, or targets of another shape.

    Example:
      >>> quantile_loss(jnp.array([[1.0, 2.0, 5.0]]), jnp.array([4.0])).round(2)
      Array([1.4], dtype=float32)

    References:
      R. Koenker, G. Bassett. Regression Quantiles. Econometrica, 1978.
      B. Lim, S. O. Arik, N. Loeff, T. Pfister. Temporal Fusion Transformers for Interpretable
      Multi-Horizon Time Series Forecasting. International Journal of Forecasting, 2021.
    """
    if outputs.shape != (*targets.shape, len(quantiles)):
        raise ValueError(
            f"expected outputs of shape {(*targets.shape, len(quantiles))}, the targets' with one "
            f"for each quantile, found {outputs.shape}: change the outputs of the model"
        )
    share = jnp.asarray(quantiles, outputs.dtype)
    errors = targets[..., None] - outputs
    losses = jnp.maximum(share * errors, (share - 1) * errors).sum(axis=-1)
    return losses.reshape(losses.shape[0], -1).mean(axis=1)


def binary_cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross-entropy of several yes-or-no labels, their mean for each example, `f32[B]`.

    `l_i = mean_k log(1 + exp(-s_ik z_ik))` with the logits z, and s 1 for yes and -1 for no.

    Args:
      outputs: f32[B, K], logits of yes.
      targets: [B, K], 1 for yes and 0 for no.

    Example:
      >>> binary_cross_entropy(jnp.array([[0.0, 50.0]]), jnp.array([[1, 1]])) / jnp.log(2)
      Array([0.5], dtype=float32)
    """
    _check_shapes(outputs, targets)
    losses = optax.sigmoid_binary_cross_entropy(outputs, targets)
    return losses.reshape(losses.shape[0], -1).mean(axis=1)


def _residual(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    if outputs.ndim == targets.ndim + 1 and outputs.shape[-1] == 1:
        outputs = outputs[..., 0]
    _check_shapes(outputs, targets)
    return outputs - targets


def _check_shapes(outputs: jax.Array, targets: jax.Array) -> None:
    if outputs.shape != targets.shape:
        raise ValueError(
            f"expected targets of shape {outputs.shape} like the outputs, found {targets.shape}: "
            "reshape the targets"
        )


def weighted_sum(values: jax.Array, weight: jax.Array) -> jax.Array:
    """`sum_i weight_i values_i`, where a weight of 0 also silences a value that is not finite.

    Example:
      >>> weighted_sum(jnp.array([1.0, jnp.nan]), jnp.array([2.0, 0.0]))
      Array(2., dtype=float32)
    """
    return jnp.sum(jnp.where(weight > 0, values, 0) * weight)
