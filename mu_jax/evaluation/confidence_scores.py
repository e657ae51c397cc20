"""Membership scores of a single model, from its logits: higher means more like a member."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mu_jax.evaluation.accuracy import check_classification, confidence, entropy


class MembershipScores(NamedTuple):
    """Scores f32 `[..., n]` of `membership_scores`; both entropies have their sign turned."""

    correctness: jax.Array
    confidence: jax.Array
    entropy: jax.Array
    modified_entropy: jax.Array


def membership_scores(logits: ArrayLike, labels: ArrayLike) -> MembershipScores:
    """The four scores of attacks on one model: correctness, confidence and minus both entropies.

    Args:
        logits: float `[..., n, K]`.
        labels: int `[n]`.

    Returns:
        `MembershipScores`, each f32 `[..., n]`, to be given to `threshold_mia` or `svc_mia`.

    Raises:
        ValueError: shapes disagree, no examples, or labels out of range.

    Cost:
        Four passes over the logits.

    Example:
        >>> scores = membership_scores([[9.0, 0.0], [0.0, 1.0]], [0, 0])
        >>> scores.correctness.tolist(), bool(scores.confidence[0] > scores.confidence[1])
        ([1.0, 0.0], True)
    """
    logits, labels = check_classification(logits, labels)
    return MembershipScores(
        correctness=_correctness(logits, labels),
        confidence=confidence(logits, labels),
        entropy=-entropy(logits),
        modified_entropy=-modified_entropy(logits, labels),
    )


@jax.jit
def _correctness(logits: jax.Array, labels: jax.Array) -> jax.Array:
    correct = jnp.argmax(logits, -1) == jnp.broadcast_to(labels, logits.shape[:-1])
    return jnp.where(jnp.isnan(logits).any(-1), jnp.nan, correct.astype(logits.dtype))


def modified_entropy(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Entropy that knows the label, `-(1 - p_y) log p_y - sum_{k != y} p_k log(1 - p_k)`.

    0 for a confident correct prediction, large for a confident wrong one, which the entropy does
    not tell apart. Computed from logits, so it stays exact where a probability rounds to 1.

    Args:
        logits: float `[..., n, K]`.
        labels: int `[n]`.

    Returns:
        f32 `[..., n]` in nats, at least 0.

    Raises:
        ValueError: shapes disagree, no examples, or labels out of range.

    Cost:
        One pass over the logits.

    Example:
        >>> logits = [[50.0, 0.0, 0.0], [0.0, 50.0, 0.0], [0.0, 0.0, 0.0]]
        >>> [round(nats, 2) + 0.0 for nats in modified_entropy(logits, [0, 0, 0]).tolist()]
        [0.0, 99.31, 1.0]

    Reference:
        Song, Mittal, "Systematic Evaluation of Privacy Risks of Machine Learning Models", USENIX
        Security Symposium 2021.
    """
    logits, labels = check_classification(logits, labels)
    return _modified_entropy(logits, labels)


@jax.jit
def _modified_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    log_p = jax.nn.log_softmax(logits)
    is_label = jnp.broadcast_to(jax.nn.one_hot(labels, log_p.shape[-1], dtype=bool), log_p.shape)
    log_rest = _log_complement(log_p)
    factor = jnp.exp(jnp.where(is_label, log_rest, log_p))
    log_factor = jnp.where(is_label, log_p, log_rest)
    return -jnp.sum(factor * jnp.where(factor > 0, log_factor, 0.0), -1)


def _log_complement(log_p: jax.Array) -> jax.Array:
    """`log(1 - p_k)`; for the largest p_k as the sum of the others, which does not cancel."""
    largest = jnp.argmax(log_p, -1, keepdims=True)
    is_largest = jnp.arange(log_p.shape[-1]) == largest
    others = jax.nn.logsumexp(jnp.where(is_largest, -jnp.inf, log_p), -1, keepdims=True)
    return jnp.where(is_largest, others, jnp.log1p(-jnp.exp(jnp.where(is_largest, -1.0, log_p))))


def modified_entropy_as_published(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Modified entropy by a widely copied program, which is wrong; only to reproduce its numbers.

    `-sum_k q_k log p_k` with q_k = 1 - p_k for every class k that is the label of *any* example
    in the call, and q_k = p_k for the others.

    Differences from the definition, see `modified_entropy`:
        1. Where the definition exchanges p_y and 1 - p_y for the label of the example, it does so
           for the labels of all examples at once, so that values depend on the rest of the set.
        2. log p_k stands where log(1 - p_k) is meant.

    Args:
        logits: float `[n, K]`, of the whole set that the program was given.
        labels: int `[n]`.

    Returns:
        f64 `[n]`; logarithms are floored at log(1e-30).

    Raises:
        ValueError: as `modified_entropy`.

    Example:
        >>> logits = [[50.0, 0.0, 0.0], [0.0, 50.0, 0.0]]
        >>> modified_entropy_as_published(logits, [0, 1]).round(2).tolist()
        [50.0, 50.0]
    """
    check_classification(logits, labels)
    logits = np.asarray(logits, np.float64)
    log_p = logits - np.logaddexp.reduce(logits, -1, keepdims=True)
    p = np.exp(log_p)
    somewhere = np.isin(np.arange(p.shape[-1]), np.asarray(labels))
    return -np.sum(np.where(somewhere, 1 - p, p) * np.maximum(log_p, np.log(1e-30)), -1)
