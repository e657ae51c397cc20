"""The margin of a classifier on its label: the log-odds of the label's probability."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from mu_jax.evaluation.accuracy import check_classification


def margins(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Margin of every example, `z_y - logsumexp_{k != y} z_k = log(p_y / (1 - p_y))`.

    Computed from logits, so it stays exact where the probability of the label rounds to 0 or 1.

    Args:
        logits: float `[..., n, K]`, K >= 2; leading axes are models.
        labels: int `[n]`.

    Returns:
        f32 `[..., n]`; positive where the label has more than half of the probability.

    Raises:
        ValueError: shapes disagree, no examples, fewer than two classes, labels out of range.

    Cost:
        One pass over the logits.

    Example:
        >>> margins([[100.0, 0.0], [0.0, 100.0]], [0, 0]).tolist()
        [100.0, -100.0]

    Reference:
        Carlini, Chien, Nasr, Song, Terzis, Tramer, "Membership Inference Attacks From First
        Principles", IEEE Symposium on Security and Privacy 2022.
    """
    return _margins(*check_classification(logits, labels))


@jax.jit
def _margins(logits: jax.Array, labels: jax.Array) -> jax.Array:
    is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    is_label = jnp.broadcast_to(is_label, logits.shape)
    index = jnp.broadcast_to(labels[:, None], (*logits.shape[:-1], 1))
    of_label = jnp.take_along_axis(logits, index, -1)[..., 0]
    return of_label - jax.nn.logsumexp(jnp.where(is_label, -jnp.inf, logits), axis=-1)
