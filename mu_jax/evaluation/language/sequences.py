"""What a model remembers of a text, teacher-forced: likelihood, hits, and how they run on."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mu_jax.evaluation.language.token_stats import TokenStatistics


def scored(values: jax.Array, statistics: TokenStatistics) -> jax.Array:
    """The values of scored tokens, 0 elsewhere."""
    return jnp.where(statistics.mask > 0, values, 0)


@jax.jit
def token_counts(statistics: TokenStatistics) -> jax.Array:
    """Number of scored tokens, `|y|`: f32 `[...]`.

    Args:
        statistics: arrays `[..., T]`.
    """
    return jnp.sum(statistics.mask, -1)


@jax.jit
def sequence_nll(statistics: TokenStatistics) -> jax.Array:
    """Negative log-likelihood of a text, `sum_t nll_t` in nats: f32 `[...]`.

    Args:
        statistics: arrays `[..., T]`.
    """
    return jnp.sum(scored(statistics.nll, statistics), -1)


@jax.jit
def mean_nll(statistics: TokenStatistics) -> jax.Array:
    """Negative log-likelihood a token, `sum_t nll_t / |y|`; the score of the loss attack.

    Args:
        statistics: arrays `[..., T]`.

    Returns:
        f32 `[...]`, nats; NaN where nothing is scored. Lower speaks for membership.
    """
    return sequence_nll(statistics) / token_counts(statistics)


@jax.jit
def probability(statistics: TokenStatistics) -> jax.Array:
    """Length-normalized probability of a text, `P(y)^(1 / |y|) = exp(-mean_nll)`.

    Args:
        statistics: arrays `[..., T]`.

    Returns:
        f32 `[...]` in (0, 1]; NaN where nothing is scored. Direction: closer to retrain on what is
        to be forgotten, higher on the rest.

    Reference:
        Maini, Feng, Schwarzschild, Lipton, Kolter, "TOFU: A Task of Fictitious Unlearning for
        LLMs", COLM 2024.
    """
    return jnp.exp(-mean_nll(statistics))


@jax.jit
def exact_memorization(statistics: TokenStatistics) -> jax.Array:
    """Fraction of scored tokens that have the largest logit; "memorization accuracy" of a secret.

    `sum_t hit_t / |y|`. Direction: closer to retrain, which predicts part of any text.

    Args:
        statistics: arrays `[..., T]`; of a secret alone, see `restricted`.

    Returns:
        f32 `[...]` in [0, 1]; NaN where nothing is scored.

    Differences from the published program:
        1. It drops the last scored token, which is often the end of the text.

    Reference:
        Tirumala, Markosyan, Zettlemoyer, Aghajanyan, "Memorization Without Overfitting: Analyzing
        the Training Dynamics of Large Language Models", NeurIPS 2022.
    """
    return jnp.sum(scored(statistics.hit, statistics), -1) / token_counts(statistics)


@jax.jit
def extraction_strength(statistics: TokenStatistics) -> jax.Array:
    """Fraction of a text that a greedy decoder completes from the rest of it.

    `1 - k / |y|`, k the fewest scored tokens after which all are hits: 1 if all are, 0 if the last
    one is not. Direction: closer to retrain.

    Args:
        statistics: arrays `[..., T]`.

    Returns:
        f32 `[...]` in [0, 1]; NaN where nothing is scored, or for a hit that is NaN.

    Differences from the published program:
        1. It drops the last scored token, so that a text of n tokens gives multiples of
           `1 / (n - 1)`.
        2. It gives `1 / n` in place of 0 where the last of its n tokens is no hit.

    Reference:
        Carlini et al., "Extracting Training Data from Large Language Models", USENIX Security 2021.
    """
    hits = scored(statistics.hit, statistics)
    misses = jnp.where(statistics.mask > 0, 1 - statistics.hit, 0)
    later = jnp.cumsum(misses[..., ::-1], -1)[..., ::-1]  # misses from here to the end
    run = jnp.sum(jnp.where(later == 0, statistics.mask, 0), -1)
    broken = jnp.isnan(jnp.sum(hits, -1))
    return jnp.where(broken, jnp.nan, run / token_counts(statistics))


@jax.jit
def extracted(statistics: TokenStatistics) -> jax.Array:
    """Whether greedy decoding from the prefix reproduces all scored tokens: 1 or 0.

    If every token is a hit under teacher forcing, the greedy decoder takes the same steps, so that
    no generation is needed. The mean over secrets is the extraction rate.

    Args:
        statistics: arrays `[..., T]`; scored tokens are contiguous.

    Returns:
        f32 `[...]`; NaN where nothing is scored, or for a hit that is NaN.
    """
    share = exact_memorization(statistics)
    return jnp.where(jnp.isnan(share), share, (share == 1).astype(share.dtype))
