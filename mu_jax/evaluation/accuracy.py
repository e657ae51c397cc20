"""Accuracy, regression error and per-example scores, from outputs and targets alone."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from mu_jax._at_once import as_array, holds, wide


def is_concrete(*arrays: Any) -> bool:
    """Says whether values can be looked at: False while `jax.jit` or `jax.vmap` traces."""
    return not any(isinstance(array, Tracer) for array in arrays)


def as_float(array: ArrayLike) -> jax.Array:
    """Returns the array in float32, or in its own type where that is wider."""
    array = as_array(array)
    return as_array(array, jnp.promote_types(array.dtype, jnp.float32))


def check_classification(logits: ArrayLike, labels: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Returns logits `[..., n, K]` as floats and labels `[n]`, or raises ValueError."""
    logits, labels = as_float(logits), wide(as_array(labels))
    if logits.ndim < 2 or labels.shape != logits.shape[-2:-1] or labels.size == 0:
        raise ValueError(
            f"expected logits [..., n, K] and labels [n] with n > 0, found {logits.shape} and "
            f"{labels.shape}: pass one label per example and at least one example"
        )
    if logits.shape[-1] < 2:
        raise ValueError(
            f"expected logits of at least two classes, found {logits.shape}: write a binary "
            "model's logit z as the pair (0, z)"
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"expected integer class labels, found {labels.dtype}: pass class numbers, not "
            "one-hot rows or probabilities"
        )
    classes = logits.shape[-1]
    if is_concrete(labels) and holds(lambda xp, y: xp.any((y < 0) | (y >= classes)), labels):
        raise ValueError(
            f"expected labels in [0, {classes}), found {int(labels.min())} to "
            f"{int(labels.max())}: drop the unlabeled examples or renumber the classes"
        )
    return logits, labels


def check_weight(weight: ArrayLike | None, n: int) -> jax.Array:
    """Returns weights f32`[n]` (ones when None), or raises ValueError."""
    weight = as_float(np.ones(n, np.float32) if weight is None else weight)
    if weight.shape != (n,):
        raise ValueError(
            f"expected one weight per example, shape ({n},), found {weight.shape}: pass the "
            "weight array of the same batches"
        )
    if is_concrete(weight) and not holds(lambda xp, w: xp.all(w >= 0) & (w.sum() > 0), weight):
        raise ValueError(
            "expected non-negative weights with a positive sum, found none or a negative one: "
            "pass 1 for examples and 0 for padding"
        )
    return weight


def _accuracy_by_group(logits: jax.Array, labels: jax.Array, weight: jax.Array) -> jax.Array:
    """Weighted accuracy `[..., G]` for group weights `[n, G]`; NaN where it is undefined."""
    # argmax takes NaN for the largest logit, so a broken model would score as class 0.
    broken = jnp.isnan(logits).any(-1)
    predictions = jnp.argmax(logits, -1)
    correct = predictions == jnp.broadcast_to(labels, predictions.shape)

    def total(flags: jax.Array) -> jax.Array:
        return jnp.matmul(flags.astype(weight.dtype), weight, precision="highest")

    shares = total(correct) / total(jnp.ones_like(correct))
    return jnp.where(total(broken) > 0, jnp.nan, shares)


@jax.jit
def _accuracy(logits: jax.Array, labels: jax.Array, weight: jax.Array) -> jax.Array:
    return _accuracy_by_group(logits, labels, weight[:, None])[..., 0]


@jax.jit
def _accuracy_by_class(logits: jax.Array, labels: jax.Array, weight: jax.Array) -> jax.Array:
    one_hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=weight.dtype)
    return _accuracy_by_group(logits, labels, one_hot * weight[:, None])


def accuracy(logits: ArrayLike, labels: ArrayLike, weight: ArrayLike | None = None) -> jax.Array:
    """Fraction of examples whose largest logit is the label's.

    `sum_i w_i [argmax_k z_ik = y_i] / sum_i w_i`, divided once, so a short last batch counts by
    its size. Ties go to the lower class number.

    Args:
        logits: float `[..., n, K]`; leading axes are models.
        labels: int `[n]`.
        weight: f32 `[n]`, 0 for padding; None counts every example once.

    Returns:
        f32 `[...]` in [0, 1]; NaN where a counted example has a NaN logit.

    Raises:
        ValueError: shapes disagree, no examples, labels out of range, or weights sum to 0.

    Cost:
        One pass over the logits.

    Example:
        >>> float(accuracy([[2.0, 1.0], [0.0, 1.0], [0.0, 1.0]], [0, 1, 0], weight=[1, 1, 2]))
        0.5
    """
    logits, labels = check_classification(logits, labels)
    weight = check_weight(weight, labels.size)
    return _accuracy(logits, labels, weight)


def accuracy_by_class(
    logits: ArrayLike, labels: ArrayLike, weight: ArrayLike | None = None
) -> jax.Array:
    """Accuracy among the examples of each class.

    Args:
        logits: float `[..., n, K]`.
        labels: int `[n]`.
        weight: f32 `[n]`, 0 for padding.

    Returns:
        f32 `[..., K]`; NaN for a class without examples, which has no accuracy.

    Raises:
        ValueError: as `accuracy`.

    Cost:
        One pass over the logits and an `[n, K]` array of weights.

    Example:
        >>> accuracy_by_class([[2.0, 1, 0], [0, 1.0, 0], [1.0, 0, 0]], [0, 1, 1]).tolist()
        [1.0, 0.5, nan]
    """
    logits, labels = check_classification(logits, labels)
    weight = check_weight(weight, labels.size)
    return _accuracy_by_class(logits, labels, weight)


def losses(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Cross-entropy of every example, `-log softmax(z)_y` in nats.

    Args:
        logits: float `[..., n, K]`.
        labels: int `[n]`.

    Returns:
        f32 `[..., n]`.

    Raises:
        ValueError: shapes disagree, no examples, or labels out of range.

    Example:
        >>> [round(loss, 4) for loss in losses([[0.0, 0.0]], [1]).tolist()]
        [0.6931]
    """
    return _losses(*check_classification(logits, labels))


@jax.jit
def _losses(logits: jax.Array, labels: jax.Array) -> jax.Array:
    log_probabilities = jax.nn.log_softmax(logits)
    index = jnp.broadcast_to(labels[:, None], (*logits.shape[:-1], 1))
    return -jnp.take_along_axis(log_probabilities, index, -1)[..., 0]


def confidence(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Probability given to the label, `softmax(z)_y`; arguments and result as `losses`.

    Example:
        >>> confidence([[0.0, 0.0]], [1]).tolist()
        [0.5]
    """
    return _confidence(*check_classification(logits, labels))


@jax.jit
def _confidence(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.exp(-_losses(logits, labels))


def entropy(logits: ArrayLike) -> jax.Array:
    """Entropy of the predicted distribution in nats, with `0 log 0 = 0`.

    Args:
        logits: float `[..., n, K]`; `-inf` marks an impossible class.

    Returns:
        f32 `[..., n]` in [0, log K].

    Example:
        >>> [round(nats, 4) for nats in entropy([[0.0, 0.0], [0.0, -float("inf")]]).tolist()]
        [0.6931, 0.0]
    """
    return _entropy(as_float(logits))


@jax.jit
def _entropy(logits: jax.Array) -> jax.Array:
    log_probabilities = jax.nn.log_softmax(logits)
    probabilities = jnp.exp(log_probabilities)
    terms = probabilities * jnp.where(probabilities == 0, 0.0, log_probabilities)
    return jnp.abs(jnp.sum(terms, -1))  # the sum is <= 0; abs also turns -0 into 0


def _check_regression(
    predictions: ArrayLike, targets: ArrayLike, weight: ArrayLike | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns predictions and targets of any permitted shape as floats, and weights `[n]`."""
    predictions, targets = as_float(predictions), as_float(targets)
    shape = predictions.shape[-targets.ndim :] if targets.ndim else ()
    if targets.ndim not in (1, 2) or targets.size == 0 or shape != targets.shape:
        raise ValueError(
            "expected targets [n] or [n, d] with n > 0 and predictions [..., n] or [..., n, d], "
            f"found {targets.shape} and {predictions.shape}: give both the same trailing shape"
        )
    return predictions, targets, check_weight(weight, targets.shape[0])


def _columns(
    predictions: jax.Array, targets: jax.Array, weight: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Predictions `[..., n, d]`, targets `[n, d]` and weights `[n, 1]`."""
    if targets.ndim == 1:
        predictions, targets = predictions[..., None], targets[:, None]
    return predictions, targets, weight[:, None]


def _weighted_square(values: jax.Array, weight: jax.Array) -> jax.Array:
    """`sum_i w_i v_i^2` over the example axis of `[..., n, d]`; padding cannot turn it NaN."""
    counted = jnp.broadcast_to(weight > 0, values.shape)
    weight = jnp.broadcast_to(weight, values.shape)
    return jnp.sum(jnp.where(counted, weight * values**2, 0.0), -2)


def mean_squared_error(
    predictions: ArrayLike, targets: ArrayLike, weight: ArrayLike | None = None
) -> jax.Array:
    """Mean squared error `sum_i w_i |f_i - t_i|^2 / (d sum_i w_i)`.

    Args:
        predictions: float `[..., n]` or `[..., n, d]`; leading axes are models.
        targets: float `[n]` or `[n, d]`.
        weight: f32 `[n]`, 0 for padding.

    Returns:
        f32 `[...]`, in squared units of the target.

    Raises:
        ValueError: shapes disagree, no examples, or weights sum to 0.

    Example:
        >>> float(mean_squared_error([1.0, 2.0], [1.0, 4.0]))
        2.0
    """
    return _mean_squared_error(*_check_regression(predictions, targets, weight))


@jax.jit
def _mean_squared_error(predictions: jax.Array, targets: jax.Array, weight: jax.Array) -> jax.Array:
    predictions, targets, weight = _columns(predictions, targets, weight)
    targets = jnp.broadcast_to(targets, predictions.shape)
    return jnp.mean(_weighted_square(predictions - targets, weight), -1) / jnp.sum(weight)


def r2(predictions: ArrayLike, targets: ArrayLike, weight: ArrayLike | None = None) -> jax.Array:
    """Coefficient of determination `1 - SS_residual / SS_total`, averaged over outputs.

    Args:
        predictions: float `[..., n]` or `[..., n, d]`.
        targets: float `[n]` or `[n, d]`; each output must vary.
        weight: f32 `[n]`, 0 for padding.

    Returns:
        f32 `[...]`; 1 is exact, 0 is the mean of the targets, negative is worse than that.

    Raises:
        ValueError: as `mean_squared_error`, or an output is constant.

    Example:
        >>> float(r2([1.0, 3.0, 2.0], [1.0, 3.0, 2.0])), float(r2([2.0, 2.0, 2.0], [1.0, 3.0, 2.0]))
        (1.0, 0.0)
    """
    score, total = _r2(*_check_regression(predictions, targets, weight))
    if is_concrete(total) and holds(lambda xp, total: xp.any(total == 0), total):
        raise ValueError(
            "expected targets that vary, found a constant output: R2 compares with the variance "
            "of the targets, so report the mean squared error instead"
        )
    return score


@jax.jit
def _r2(
    predictions: jax.Array, targets: jax.Array, weight: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """R2, and the total sum of squares `[d]`."""
    predictions, targets, weight = _columns(predictions, targets, weight)
    mean = jnp.sum(weight * targets, 0, keepdims=True) / jnp.sum(weight)
    total = _weighted_square(targets - mean, weight)
    targets = jnp.broadcast_to(targets, predictions.shape)
    residual = _weighted_square(predictions - targets, weight)
    return jnp.mean(1 - residual / jnp.broadcast_to(total, residual.shape), -1), total
