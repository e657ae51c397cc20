"""How much of a planted secret a model gives away: exposure by rank, extrapolated, and by decoding.

A value that is capped by the number of references and one that is extrapolated are numbers of two
kinds: never average one with the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mu_jax._extras import extra
from mu_jax.evaluation.accuracy import as_float


class Exposure(NamedTuple):
    """Result of `exposure`.

    value: bits `[...]`. rank: i32 `[...]`, from 1. cap: the largest value that the number of
    references allows; a value at the cap says "at least".
    """

    value: jax.Array
    rank: jax.Array
    cap: float


def exposure(secret_nll: ArrayLike, reference_nll: ArrayLike) -> Exposure:
    """Exposure of secrets by their rank among references that could have stood in their place.

    With N = m + 1 candidates, the secret and m references, and
    `rank = 1 + #{references with nll <= that of the secret}`:

        `value = log2 N - log2 rank`, in [0, log2 N].

    A tie counts against the secret. Chance gives `log2 N - log2(N!) / N`, near 1.44 bits for large
    N (`exposure_floor`). Direction: closer to retrain.

    Args:
        secret_nll: float `[...]`, `sequence_nll` of the secrets.
        reference_nll: float `[..., m]` or `[m]`, of random secrets of the same format in the same
            place.

    Returns:
        `Exposure`.

    Raises:
        ValueError: no references.

    Cost:
        One comparison a reference.

    Differences from the published program:
        1. The secret is one of the candidates: with m references that program gives
           `log2 m - log2 rank`, a little below 0 for the worst rank. Over all secrets there are,
           both are the paper's `log2 |R| - log2 rank`.

    Example:
        >>> found = exposure(5.0, np.arange(1.0, 256.0))
        >>> int(found.rank), float(found.value), found.cap
        (6, 5.4150..., 8.0)

    Reference:
        Carlini, Liu, Erlingsson, Kos, Song, "The Secret Sharer: Evaluating and Testing Unintended
        Memorization in Neural Networks", USENIX Security 2019.
    """
    secret, references = as_float(secret_nll), as_float(reference_nll)
    if references.ndim == 0 or not references.shape[-1]:
        raise ValueError(
            f"expected references [..., m] with m > 0, found shape {references.shape}: draw random "
            "secrets of the same format"
        )
    candidates = references.shape[-1] + 1
    value, rank = _exposure(secret, references)
    return Exposure(value, rank, float(np.log2(candidates)))


@jax.jit
def _exposure(secret: jax.Array, references: jax.Array) -> tuple[jax.Array, jax.Array]:
    rank = 1 + jnp.sum(references <= secret[..., None], -1, dtype=jnp.int32)
    value = jnp.log2(references.shape[-1] + 1.0) - jnp.log2(rank.astype(secret.dtype))
    broken = jnp.isnan(secret) | jnp.isnan(references).any(-1)
    return jnp.where(broken, jnp.nan, value), rank


def exposure_floor(references: int) -> float:
    """Mean exposure of a secret that the model never saw, `log2 N - log2(N!) / N`, N = m + 1.

    Args:
        references: m.

    Example:
        >>> round(exposure_floor(255), 3)
        1.422
    """
    ranks = np.arange(1, references + 2, dtype=np.float64)
    return float(np.log2(references + 1) - np.log2(ranks).mean())


def exposure_extrapolated(secret_nll: ArrayLike, reference_nll: ArrayLike) -> np.ndarray:
    """Exposure beyond what the number of references allows, from a skew-normal fit to them.

    `-log2 F(nll)`, F the cumulative distribution of a skew-normal one fitted to the references by
    maximum likelihood; its logarithm is integrated where F underflows. There is no cap, but far
    out the value rests on the fit alone.

    Args:
        secret_nll: float `[...]`. reference_nll: float `[m]`, m >= 30, of random secrets.

    Returns:
        f64 `[...]`, bits, at least 0.

    Raises:
        ValueError: fewer than 30 references, equal or non-finite ones.

    Cost:
        One fit of three parameters on the host.

    Example:
        >>> references = 20 + 2 * np.random.default_rng(0).normal(size=1000)
        >>> float(exposure_extrapolated(12.0, references))
        14.21...

    Reference:
        Carlini, Liu, Erlingsson, Kos, Song, "The Secret Sharer", USENIX Security 2019.
    """
    with extra("evaluation"):
        from scipy.stats import skewnorm

    references = np.asarray(reference_nll, np.float64)
    if references.ndim != 1 or references.size < 30 or not np.isfinite(references).all():
        raise ValueError(
            f"expected at least 30 finite references [m], found shape {references.shape}: draw "
            "more random secrets, of one format"
        )
    if not np.ptp(references):
        raise ValueError(
            f"expected references that differ, found {references[0]:.6g} for all "
            f"{references.size}: constant outputs (a collapsed model) have no exposure"
        )
    shape, location, scale = skewnorm.fit(references)
    standard = (np.asarray(secret_nll, np.float64) - location) / scale
    bits = [-_log_cdf(float(x), float(shape)) / np.log(2) for x in standard.ravel()]
    return np.array(bits).reshape(standard.shape)


def _log_cdf(x: float, shape: float) -> float:
    """Logarithm of the skew-normal distribution function, also where the function underflows."""
    from scipy.integrate import quad
    from scipy.special import log_ndtr
    from scipy.stats import skewnorm

    direct = float(skewnorm.cdf(x, shape))
    if direct > 1e-6:
        return float(np.log(direct))

    def log_density(z: float) -> float:
        return float(np.log(2 / np.sqrt(2 * np.pi)) - z * z / 2 + log_ndtr(shape * z))

    at = log_density(x)
    step = 1e-4 * max(1.0, abs(x))
    rate = (at - log_density(x - step)) / step  # the density is log-concave: it falls faster below
    area = quad(lambda u: np.exp(log_density(x - u / rate) - at), 0, np.inf)[0]
    return at + float(np.log(area / rate))


def extraction_likelihood(secret: ArrayLike, generated: Sequence[ArrayLike], n: int) -> float:
    """EL_n: how many n-grams of a secret greedy decoding gives back, whatever it starts from.

    For every start i with at least n tokens of the secret s left, with `g_i` decoded from `s_<i`:

        `EL_n = sum_i #{n-grams of s_>=i that occur in g_i} / #{n-grams of s_>=i} / (|s| - n + 1)`.

    A secret of fewer than n tokens counts 1 if `g_0` is the secret, else 0. Direction: at most the
    mean over texts that the model never saw, the threshold of the paper.

    Args:
        secret: int `[L]`, the tokens of the secret.
        generated: for every start i, from 0, the `L - i` tokens that greedy decoding gives after
            the prefix and the first i tokens of the secret; `max(1, L - n + 1)` of them.
        n: length of the n-grams; 3, 5 and 10 in the paper.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: an empty secret, n < 1, or another number of continuations.

    Cost:
        On the host, `O(L^2)` n-grams.

    Example:
        >>> extraction_likelihood([1, 2, 3], [[1, 2, 9], [2, 3]], 2)
        0.75

    References:
        Jang et al., "Knowledge Unlearning for Mitigating Privacy Risks in Language Models", ACL
        2023. Chu et al., "Scrub It Out! Erasing Sensitive Memorization in Code Language Models via
        Machine Unlearning", 2025.
    """
    tokens = np.asarray(secret).tolist()
    starts = max(1, len(tokens) - n + 1)
    if not tokens or n < 1 or len(generated) != starts:
        raise ValueError(
            f"expected a secret of L > 0 tokens, n >= 1 and max(1, L - n + 1) continuations, found "
            f"L = {len(tokens)}, n = {n} and {len(generated)}: decode from every start"
        )
    continuations = [np.asarray(each).tolist() for each in generated]
    if len(tokens) < n:
        return float(continuations[0][: len(tokens)] == tokens)
    shares = []
    for start, continuation in enumerate(continuations):
        found = set(_ngrams(continuation, n))
        wanted = _ngrams(tokens[start:], n)
        shares.append(sum(gram in found for gram in wanted) / len(wanted))
    return float(np.mean(shares))


def _ngrams(tokens: list[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
