"""Per-example losses, and the one place where they are reduced."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mu_jax._at_once import wide as wide


def cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross-entropy of the softmax with a class as label, `-log softmax(z_i)[y_i]`, `f32[B]`.

    A label outside `[0, K)` is refused where it can be seen. Inside `jit` it cannot, and its loss
    and gradient are NaN, which every statistic and fit reports: nothing silently takes it for
    another class. Models that are given `optax.softmax_cross_entropy_with_integer_labels` compute
    the same.

    Args:
      outputs: f32[B, K], logits.
      targets: int[B], classes from 0 to K - 1.

    Raises:
      ValueError: a label that is no class. For labels to ignore see `CrossEntropy`.

    Example:
      >>> cross_entropy(jnp.array([[0.0, 0.0], [0.0, 50.0]]), jnp.array([0, 1])) / jnp.log(2)
      Array([1., 0.], dtype=float32)
    """
    return _cross_entropy(outputs, targets, None)


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy in which rows with a certain label do not count.

    `mean_t -log softmax(z_it)[y_it]` over the positions t of example i whose label is not
    `ignore_label`; of labels [B] that is `cross_entropy`. An example without any such position has
    loss 0, and as the loss of a `Model` also weight 0: it is in no sum and in no divisor, in
    statistics, fits and methods.

    Attributes:
      ignore_label: the label to ignore, such as -1 or -100; None ignores none.

    Example:
      >>> loss = CrossEntropy(ignore_label=-1)
      >>> loss(jnp.zeros((2, 3)), jnp.array([2, -1])) / jnp.log(3)
      Array([1., 0.], dtype=float32)
    """

    ignore_label: int | None = None

    def __call__(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        """Losses f32[B] of logits f32[B, ..., K] and labels int[B, ...]."""
        targets = wide(targets)
        losses = _cross_entropy(outputs, targets, self.ignore_label)
        some = self._counted(targets)
        losses = jnp.where(some, losses, 0).reshape(len(targets), -1).sum(axis=1)
        return losses / jnp.maximum(some.reshape(len(targets), -1).sum(axis=1), 1)

    def counts(self, targets: jax.Array) -> jax.Array:
        """Which examples have a label that is not ignored, bool[B]."""
        return self._counted(targets).reshape(len(targets), -1).any(axis=1)

    def _counted(self, targets: jax.Array) -> jax.Array:
        if self.ignore_label is None:
            return jnp.ones(targets.shape, bool)
        return wide(targets) != self.ignore_label


def _cross_entropy(outputs: jax.Array, targets: jax.Array, ignored: int | None) -> jax.Array:
    if not jnp.issubdtype(targets.dtype, jnp.integer):  # optax says what is wrong
        return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
    classes, targets = outputs.shape[-1], wide(targets)
    refuse_labels(targets, classes, ignored)
    known = (targets >= 0) & (targets < classes)
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs, jnp.where(known, targets, 0))
    allowed = known if ignored is None else known | (targets == ignored)
    return losses * jnp.where(allowed, 1, jnp.nan).astype(losses.dtype)  # of the gradient as well


def softmax_divergence(outputs: jax.Array, wanted: jax.Array) -> jax.Array:
    """`KL(softmax h || softmax f)` of outputs f from wanted ones h, `f32[B]`.

    A sum over classes and a mean over positions. A class that h rules out (a logit of minus
    infinity) adds nothing, so where both rule it out the value is that of the logits without it.

    Args:
      outputs, wanted: f32[B, ..., K], logits.

    Example:
      >>> softmax_divergence(jnp.array([[0.0, -jnp.inf, 0.0]]), jnp.array([[2.0, -jnp.inf, 2.0]]))
      Array([0.], dtype=float32)
    """
    wide = (x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (outputs, wanted))
    found, aim = (jax.nn.log_softmax(x) for x in wide)
    some = aim > -jnp.inf
    terms = jnp.where(some, jnp.exp(aim) * jnp.where(some, aim - found, 0), 0)
    return terms.sum(axis=-1).reshape(len(outputs), -1).mean(axis=1)


def refuse_labels(labels: Any, classes: int, ignored: int | None = None, where: str = "") -> None:
    """Refuse labels outside `[0, classes)`, but for one that is ignored, where they can be seen."""
    if isinstance(labels, jax.core.Tracer) or not getattr(labels, "is_fully_addressable", True):
        return
    values = np.asarray(labels)
    bad = (values < 0) | (values >= classes)
    if ignored is not None:
        bad &= values != ignored
    if bad.any():
        first = tuple(int(place) for place in np.argwhere(bad)[0])
        raise ValueError(
            f"expected labels{where} from 0 to {classes - 1}, found {values[first]} in row "
            f"{first[0]}: correct them, or ignore them by the loss "
            f"mu.losses.CrossEntropy(ignore_label={values[first]})"
        )


def reads_classes(loss: Callable) -> bool:
    """Whether a loss is known to take classes for labels."""
    plain = loss is cross_entropy or loss is optax.softmax_cross_entropy_with_integer_labels
    return plain or isinstance(loss, CrossEntropy)


def guarded(loss: Callable) -> Callable:
    """The same loss; optax's cross-entropy in the form that takes no label for another class."""
    plain = loss is optax.softmax_cross_entropy_with_integer_labels
    return cross_entropy if plain else loss


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


def total_weight(weight: jax.Array) -> jax.Array:
    """`sum_i weight_i`: float32, or float64 where that is on, so that no sum is divided by less.

    Example:
      >>> total_weight(jnp.array([1.0, 0.5]))
      Array(1.5, dtype=float32)
    """
    return jnp.sum(weight, dtype=float)


def weighted_sum(values: jax.Array, weight: jax.Array) -> jax.Array:
    """`sum_i weight_i values_i`, where a weight of 0 also silences a value that is not finite.

    Example:
      >>> weighted_sum(jnp.array([1.0, jnp.nan]), jnp.array([2.0, 0.0]))
      Array(2., dtype=float32)
    """
    return jnp.sum(jnp.where(weight > 0, values, 0) * weight)
