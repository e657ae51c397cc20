"""Membership scores of texts: the lower, the more like a text of the training set."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mu_jax._at_once import as_array
from mu_jax.evaluation.accuracy import as_float
from mu_jax.evaluation.language.sequences import scored, token_counts
from mu_jax.evaluation.language.token_stats import TokenStatistics

FLOOR = 1e-6  # of the variance in `min_k_plus_plus`


def min_k(statistics: TokenStatistics, ratio: float = 0.4) -> jax.Array:
    """Mean negative log-likelihood of the least likely tokens, a share `ratio` of a text.

    With nll sorted from the largest and `k = max(1, floor(ratio |y|))`: `sum_{i < k} nll_i / k`.

    Args:
        statistics: arrays `[..., T]`.
        ratio: in (0, 1]; 0.4 as in MUSE.

    Returns:
        f32 `[...]`, nats; NaN where nothing is scored. Lower speaks for membership.

    Raises:
        ValueError: a ratio outside (0, 1].

    Cost:
        One sort of every row.

    Differences from the published programs:
        1. The benchmark's drops the last scored token.
        2. A product `ratio |y|` that rounding puts just below a whole number counts as that
           number, 0.29 of 100 as 29.

    Reference:
        Shi, Ajith, Xia, Huang, Liu, Blevins, Chen, Zettlemoyer, "Detecting Pretraining Data from
        Large Language Models", ICLR 2024.
    """
    return _least_likely(statistics.nll, statistics, _checked(ratio))


def min_k_plus_plus(statistics: TokenStatistics, ratio: float = 0.4) -> jax.Array:
    """Min-K with every token measured against what the model expects of its place.

    `-mean` of the k lowest `z_t = (log p(y_t) - mean_t) / sqrt(max(variance_t, 1e-6))`, k as in
    `min_k`; arguments, errors, cost and differences as there.

    Returns:
        f32 `[...]`; NaN where nothing is scored. Lower speaks for membership.

    Reference:
        Zhang, Sun, Yeats, Ouyang, Kuo, Zhang, Yang, Li, "Min-K%++: Improved Baseline for Detecting
        Pre-Training Data from Large Language Models", ICLR 2025.
    """
    deviation = jnp.sqrt(jnp.maximum(as_array(statistics.variance), FLOOR))
    surprise = (as_array(statistics.nll) + statistics.mean) / deviation
    return _least_likely(surprise, statistics, _checked(ratio))


def _checked(ratio: float) -> float:
    if not 0 < ratio <= 1:
        raise ValueError(f"expected a ratio in (0, 1], found {ratio}: 0.4 is usual")
    return float(ratio)


@functools.partial(jax.jit, static_argnums=2)
def _least_likely(values: jax.Array, statistics: TokenStatistics, ratio: float) -> jax.Array:
    length = statistics.mask.shape[-1]
    exact = np.arange(length + 1) * ratio * (1 + 1e-12)  # in float64, whatever the arrays' type
    chosen = jnp.asarray(np.maximum(1, np.floor(exact)).astype(np.int32))
    counts = token_counts(statistics)
    k = chosen[counts.astype(jnp.int32)]
    largest = -jnp.sort(jnp.where(statistics.mask > 0, -values, jnp.inf), -1)
    total = jnp.sum(jnp.where(jnp.arange(length) < k[..., None], largest, 0), -1)
    broken = jnp.isnan(jnp.sum(scored(values, statistics), -1))  # sorted last, NaN is not among k
    return jnp.where(broken | (counts == 0), jnp.nan, total / k)


def zlib_ratio(mean_nll: ArrayLike, texts: Sequence[str]) -> np.ndarray:
    """Negative log-likelihood a token over the length of the compressed text.

    `mean_nll / |zlib(text)|`, in nats a byte; on the host.

    Args:
        mean_nll: float `[n]`, see `mean_nll`.
        texts: n texts, those of the scored tokens.

    Returns:
        f64 `[n]`; lower speaks for membership.

    Raises:
        ValueError: another number of texts.

    Example:
        >>> zlib_ratio([2.2], ["abc"]).tolist()
        [0.2]

    Reference:
        Carlini et al., "Extracting Training Data from Large Language Models", USENIX Security 2021.
    """
    values = np.asarray(mean_nll, np.float64)
    if values.shape != (len(texts),):
        raise ValueError(
            f"expected one text for each value, found {len(texts)} texts and values of shape "
            f"{values.shape}: give the texts of the same rows"
        )
    return values / np.array([len(zlib.compress(text.encode())) for text in texts], np.float64)


def reference_difference(mean_nll: ArrayLike, reference_mean_nll: ArrayLike) -> jax.Array:
    """How much less likely a text is than to a reference model, `mean_nll - reference_mean_nll`.

    Args:
        mean_nll, reference_mean_nll: float `[...]` of the same texts; the reference has seen none
            of them.

    Returns:
        f32 `[...]`, nats; lower speaks for membership.

    Example:
        >>> reference_difference([1.5], [2.0]).tolist()
        [-0.5]
    """
    return as_float(mean_nll) - as_float(reference_mean_nll)


def gradient_norm(gradients: Any, order: int = 2) -> jax.Array:
    """Norm of a text's gradient, averaged over the arrays of the parameters.

    `mean_a ||d mean_nll / d theta_a||_order` over the arrays a.

    Args:
        gradients: tree of float `[B, ...]`, of every text.
        order: 1 or 2.

    Returns:
        f32 `[B]`; lower speaks for membership.

    Raises:
        ValueError: an order other than 1 or 2, or no arrays.

    Cost:
        One pass over the gradients, which are B times as large as the parameters.

    Differences from the published program:
        1. It leaves the last scored token out of the likelihood, and rounds to float32.

    Example:
        >>> gradient_norm({"w": np.array([[3.0, 4.0]]), "b": np.array([1.0])}).tolist()
        [3.0]
    """
    leaves = jax.tree.leaves(gradients)
    if order not in (1, 2) or not leaves:
        raise ValueError(
            f"expected order 1 or 2 and at least one array, found {order} and {len(leaves)} "
            "arrays: give the gradients of every text"
        )
    return _gradient_norm(leaves, order)


@functools.partial(jax.jit, static_argnums=1)
def _gradient_norm(leaves: list[jax.Array], order: int) -> jax.Array:
    flat = [as_float(leaf).reshape(leaf.shape[0], -1) for leaf in leaves]
    norms = [jnp.linalg.norm(leaf, order, axis=-1) for leaf in flat]
    return jnp.mean(jnp.stack(norms), 0)
