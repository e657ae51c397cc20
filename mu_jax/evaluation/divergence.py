"""How far two models' predicted distributions are apart, example by example."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from mu_jax._at_once import as_array, holds
from mu_jax.evaluation.accuracy import as_float, is_concrete


def _log_probabilities(reference: ArrayLike, other: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Log-softmax of both logits, broadcast to one shape `[..., n, K]`, or raises ValueError."""
    reference, other = as_float(reference), as_float(other)
    if min(reference.ndim, other.ndim) < 2 or reference.shape[-2:] != other.shape[-2:]:
        raise ValueError(
            "expected logits [..., n, K] of the same examples and classes, found "
            f"{reference.shape} and {other.shape}: score both models on one set in one order"
        )
    if reference.shape[-2] == 0 or reference.shape[-1] < 2:
        raise ValueError(
            f"expected at least one example and two classes, found {reference.shape}: write a "
            "binary model's logit z as the pair (0, z)"
        )
    for logits in (reference, other):
        if is_concrete(logits) and holds(_broken, logits):
            raise ValueError(
                "expected logits that are finite or -inf, found NaN or infinity: a model that "
                "diverged has no distance, so report it as failed"
            )
    return _log_softmaxes(reference, other)


def _broken(xp: Any, logits: Any) -> Any:
    return xp.any(xp.isnan(logits) | (logits == xp.inf))


@jax.jit
def _log_softmaxes(reference: jax.Array, other: jax.Array) -> tuple[jax.Array, jax.Array]:
    shape = jnp.broadcast_shapes(reference.shape, other.shape)
    first, second = (jnp.broadcast_to(jax.nn.log_softmax(z), shape) for z in (reference, other))
    return first, second


@jax.jit
def _relative_entropy(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """`sum_k p_k (log p_k - log q_k)` with `0 log 0 = 0`; rounding below 0 becomes 0."""
    p = jnp.exp(log_p)
    difference = jnp.where(p > 0, log_p, 0.0) - jnp.where(p > 0, log_q, 0.0)
    return jnp.maximum(jnp.sum(p * difference, -1), 0.0)


@jax.jit
def _log_middle(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    return jnp.logaddexp(log_p, log_q) - jnp.log(jnp.asarray(2.0, log_p.dtype))


def kl_divergence(reference_logits: ArrayLike, logits: ArrayLike) -> jax.Array:
    """Kullback-Leibler divergence of predictions, `sum_k p_k log(p_k / q_k)` in nats.

    p are the probabilities of the reference, usually a retrained model, and q those of the model
    in question. Direction: lower is closer to the reference; the floor is `pairwise_floor`.

    Args:
        reference_logits: float `[..., n, K]`; `-inf` marks an impossible class.
        logits: float `[..., n, K]` of the same examples; leading axes broadcast.

    Returns:
        f32 `[..., n]`, infinite where q rules out a class that p does not; the mean over examples
        is what tables show.

    Raises:
        ValueError: shapes disagree, no examples, fewer than two classes, NaN logits.

    Cost:
        One pass over both logits.

    Example:
        >>> even, odd = jnp.zeros((1, 2)), jnp.log(jnp.array([[0.25, 0.75]]))
        >>> [round(float(kl_divergence(*pair)[0]), 4) for pair in ((even, odd), (odd, even))]
        [0.1438, 0.1308]
    """
    return _relative_entropy(*_log_probabilities(reference_logits, logits))


def js_divergence(reference_logits: ArrayLike, logits: ArrayLike) -> jax.Array:
    """Jensen-Shannon divergence of predictions, `(KL(p || m) + KL(q || m)) / 2`, m = (p + q) / 2.

    Symmetric, from 0 to log 2 nats. Arguments, errors and cost: as `kl_divergence`.
    Direction: lower is closer to the reference; the floor is `pairwise_floor`.

    Returns:
        f32 `[..., n]`.

    Example:
        >>> sure = jnp.array([[0.0, -jnp.inf]])
        >>> round(float(js_divergence(sure, sure[:, ::-1])[0]), 4)
        0.6931
    """
    log_p, log_q = _log_probabilities(reference_logits, logits)
    return _jensen_shannon(log_p, log_q)


@jax.jit
def _jensen_shannon(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    log_m = _log_middle(log_p, log_q)
    return (_relative_entropy(log_p, log_m) + _relative_entropy(log_q, log_m)) / 2


def activation_distance(reference_logits: ArrayLike, logits: ArrayLike) -> jax.Array:
    """Euclidean distance of the predicted probabilities, `|p - q|_2`, from 0 to sqrt(2).

    Arguments, errors and cost: as `kl_divergence`. Direction: lower is closer to the
    reference; the floor is `pairwise_floor`.

    Returns:
        f32 `[..., n]`.

    Example:
        >>> sure = jnp.array([[0.0, -jnp.inf]])
        >>> round(float(activation_distance(sure, sure[:, ::-1])[0]), 4)
        1.4142

    Reference:
        Golatkar, Achille, Ravichandran, Polito, Soatto, "Mixed-Privacy Forgetting in Deep
        Networks", CVPR 2021.
    """
    return _distance(*_log_probabilities(reference_logits, logits))


@jax.jit
def _distance(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    return jnp.linalg.norm(jnp.exp(log_p) - jnp.exp(log_q), axis=-1)


def agreement(reference_logits: ArrayLike, logits: ArrayLike) -> jax.Array:
    """Whether two models predict the same class, 1 or 0; one minus the mean is called churn.

    Arguments, errors and cost: as `kl_divergence`. Ties go to the lower class number.
    Direction: higher is closer to the reference; the ceiling is `pairwise_floor`.

    Returns:
        f32 `[..., n]`.

    Example:
        >>> agreement([[2.0, 1.0], [0.0, 1.0]], [[5.0, 1.0], [3.0, 1.0]]).tolist()
        [1.0, 0.0]
    """
    return _agreement(*_log_probabilities(reference_logits, logits))


@jax.jit
def _agreement(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    same = (jnp.argmax(log_p, -1) == jnp.argmax(log_q, -1)).astype(log_p.dtype)
    return jnp.where(jnp.isnan(log_p + log_q).any(-1), jnp.nan, same)


def zrf(incompetent_logits: ArrayLike, logits: ArrayLike) -> jax.Array:
    """Zero-retrain forgetting score, one minus the mean JS divergence from an untrained model.

    On forget examples. It needs no retrained model to compute, but one to be read: the target is
    the retrained model's score, not 1, which a model with random predictions has.

    Args:
        incompetent_logits: float `[..., n, K]` of a randomly initialized model.
        logits: float `[..., n, K]` of the model in question.

    Returns:
        f32 `[...]` from 1 - log 2 to 1.

    Raises:
        ValueError: as `kl_divergence`.

    Example:
        >>> float(zrf(jnp.zeros((3, 4)), jnp.zeros((3, 4))))
        1.0

    Reference:
        Chundawat, Tarun, Mandal, Kankanhalli, "Can Bad Teaching Induce Forgetting? Unlearning in
        Deep Networks Using an Incompetent Teacher", AAAI 2023.
    """
    return 1 - jnp.mean(js_divergence(incompetent_logits, logits), -1)


def zrf_as_published(incompetent_logits: ArrayLike, logits: ArrayLike) -> jax.Array:
    """ZRF by the published program, which is wrong; only to reproduce numbers in print.

    `1 - (KL(m || p) + KL(m || q)) / (2 n K)`, summed over the n examples.

    Differences from the definition, see `zrf`:
        1. The divergences have their arguments exchanged, so that they have no upper bound.
        2. The sum is divided by n K instead of n, so that nearly all scores are near 1.

    Args:
        incompetent_logits: float `[..., n, K]`.
        logits: float `[..., n, K]`.

    Returns:
        f32 `[...]`.

    Raises:
        ValueError: as `kl_divergence`.

    Example:
        >>> sure = jnp.array([[3.0, -3.0]])
        >>> [round(float(f(sure, -sure)), 3) for f in (zrf, zrf_as_published)]
        [0.324, -0.155]
    """
    log_p, log_q = _log_probabilities(incompetent_logits, logits)
    log_m = _log_middle(log_p, log_q)
    total = _relative_entropy(log_m, log_p) + _relative_entropy(log_m, log_q)
    return 1 - jnp.mean(total, -1) / (2 * log_p.shape[-1])


def pairwise_floor(
    metric: Callable[[jax.Array, jax.Array], jax.Array], oracle: ArrayLike
) -> jax.Array:
    """Values of a metric between retrained models of different seeds, as a perfect unlearner has.

    Args:
        metric: of two models' arrays, such as `js_divergence`, `agreement` or `linear_cka`.
        oracle: float `[N, ...]`, logits or features of N >= 2 retrained models.

    Returns:
        `[N (N - 1) / 2, ...]`, one value (or one per example) for each pair; their mean is the
        floor, or the ceiling where higher is closer.

    Raises:
        ValueError: fewer than two oracles, or as the metric.

    Cost:
        One evaluation of the metric per pair, one after another.

    Example:
        >>> oracle = jax.random.normal(jax.random.key(0), (3, 50, 10))
        >>> pairwise_floor(js_divergence, oracle).shape
        (3, 50)
    """
    oracle = as_array(oracle)
    if oracle.ndim < 2 or oracle.shape[0] < 2:
        raise ValueError(
            "expected arrays [models, ...] of at least two oracles, found shape "
            f"{oracle.shape}: retrain with a second seed to know the floor"
        )
    pairs = combinations(range(oracle.shape[0]), 2)
    return jnp.stack([metric(oracle[first], oracle[second]) for first, second in pairs])
