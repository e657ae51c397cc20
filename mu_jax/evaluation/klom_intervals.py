"""Intervals of KLoM that hold for other models as well as other examples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike

from mu_jax.evaluation.intervals import (
    Interval,
    quantile_interval,
    t_interval,
    values_needed,
)
from mu_jax.evaluation.klom import _check_margins, klom
from mu_jax.evaluation.klom_check import left_out, summarize

FEWEST = 8  # models of every kind
MOST_BLOCKS = 16
RESAMPLES = 2000


def klom_interval(
    oracle_margins: ArrayLike,
    unlearned_margins: ArrayLike,
    q: float | None = 0.95,
    *,
    level: float = 0.95,
) -> Interval:
    """Interval of KLoM over models and examples: of its q-quantile over examples, or its mean.

    It encloses the value that other examples and other models *as many as these* have on average;
    the bias of KLoM at this number of models stays in it, as it stays in the floor. Either end is
    `sqrt(e^2 + m^2)` from the estimate: e that of `quantile_interval` over examples (`t_interval`
    for the mean), m the jackknife over 8 to 16 blocks of models, left out of all ensembles at once,
    times Student's t. For the mean it is Student's t at a fifth of the error, 99 % for 95 %: else
    85 % would be covered with 16 models whose effects have long tails. An interval over examples
    alone covers 40 to 97 %, the less the more a model is high or low on all examples together.

    Coverage of the 95 % interval, simulated with 8, 16, 24 and 64 models, with and without effects
    of a model on all examples: of the 95th percentile 91 to 100 %, of the mean 93 to 100 %, where
    the effects are normal, exponential, lognormal or Student's with 3 degrees. It is too wide
    rather than too narrow, two to four times without effects.

    Args:
        oracle_margins, unlearned_margins: as for `klom`, with its default options; at least eight
            models of each kind.
        q: quantile over examples, 0.95 for the 95th percentile; None is the mean.
        level: probability of covering the value.

    Returns:
        `Interval`, its lower end not below 0.

    Raises:
        ValueError: fewer than eight models, too few examples for the quantile (72 for the 95th
            percentile; eight for the mean), or as `klom`.

    Cost:
        As 17 times `klom`.

    Example:
        >>> import jax
        >>> oracle, unlearned = jax.random.normal(jax.random.key(0), (2, 32, 100))
        >>> found = klom_interval(oracle, unlearned + 1)
        >>> bool(3 < found.low < found.estimate < found.high < 8)
        True
    """
    oracle, unlearned = _check_margins(oracle_margins, unlearned_margins)
    blocks = _blocks((oracle.shape[0], unlearned.shape[0]))
    values = np.asarray(klom(oracle, unlearned), np.float64)
    examples = (
        t_interval(values, level=level) if q is None else quantile_interval(values, q, level=level)
    )
    without = summarize(left_out(oracle, unlearned, *blocks), q)
    found = _both(examples, without, q)
    return found._replace(low=max(found.low, 0.0))


def klom_difference(
    oracle_margins: ArrayLike,
    first_margins: ArrayLike,
    second_margins: ArrayLike,
    q: float | None = 0.95,
    *,
    seed: int,
    level: float = 0.95,
) -> Interval:
    """Interval of KLoM of the first ensemble minus KLoM of the second, both to the same oracles.

    Over models and examples, as `klom_interval`; what the two share cancels: the oracles, what is
    hard in an example, and, where the i-th models of both come from one original model, that too.
    An interval without 0 says that the two differ. Let one be retrained to compare with the floor.

    Coverage of the 95 % interval, simulated on Gaussian margins with 16, 24 and 64 models and 72 to
    400 examples: 97 to 100 % for the 95th percentile, the floor included.

    Args:
        oracle_margins: float `[N, n]`, see `klom`; at least eight models, of every ensemble.
        first_margins, second_margins: float `[N, n]`, of as many models as each other.
        q: quantile over examples, 0.95 for the 95th percentile; None is the mean.
        seed: seed of the examples drawn for the difference of two quantiles.
        level: probability of covering the difference.

    Returns:
        `Interval`.

    Raises:
        ValueError: fewer than eight models, too few examples for the quantile (72 for the 95th
            percentile; eight for the mean), different numbers of models in both ensembles, or as
            `klom`.

    Cost:
        As 34 times `klom`.

    Example:
        >>> import jax
        >>> oracle, first, second = jax.random.normal(jax.random.key(0), (3, 32, 100))
        >>> near, far = (klom_difference(oracle, first + shift, second, seed=0) for shift in (0, 4))
        >>> bool(near.low < 0 < near.high), bool(far.low > 0)
        (True, True)
    """
    oracle, first = _check_margins(oracle_margins, first_margins)
    _, second = _check_margins(oracle, second_margins)
    if first.shape != second.shape:
        raise ValueError(
            f"expected two ensembles of as many models, found {first.shape[0]} and "
            f"{second.shape[0]}: KLoM depends on their number, so leave out the surplus"
        )
    blocks = _blocks((oracle.shape[0], first.shape[0]))
    values = [np.asarray(klom(oracle, m), np.float64) for m in (first, second)]
    examples = _difference(*values, q=q, seed=seed, level=level)
    without = [summarize(left_out(oracle, m, *blocks), q) for m in (first, second)]
    return _both(examples, without[0] - without[1], q)


def _difference(
    first: np.ndarray, second: np.ndarray, *, q: float | None, seed: int, level: float
) -> Interval:
    """Over examples: the t interval of differences, or a bootstrap of pairs for a quantile."""
    if q is None:
        return t_interval(first - second, level=level)
    needed = values_needed(q, level=level)
    if first.size < needed:
        raise ValueError(
            f"expected at least {needed} examples for a {level:.0%} interval of their {q:g} "
            f"quantile, found {first.size}: score more examples, or print no interval"
        )
    picks = np.random.default_rng(seed).integers(first.size, size=(RESAMPLES, first.size))
    found = summarize(first[picks], q) - summarize(second[picks], q)
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(
        float(summarize(first, q) - summarize(second, q)), float(low), float(high), level
    )


def _blocks(counts: Sequence[int]) -> list[np.ndarray]:
    """Which models stay when each of B blocks is left out, int[B, kept] for every ensemble."""
    if min(counts) < FEWEST:
        raise ValueError(
            f"expected at least {FEWEST} models of every kind for an interval over models, found "
            f"{min(counts)}: train more, or print no interval"
        )
    sizes = range(min(MOST_BLOCKS, *counts), FEWEST - 1, -1)
    blocks = min(
        sizes, key=lambda b: sum(n % b for n in counts)
    )  # so that hardly a model is in none
    return [
        np.stack(
            [
                np.delete(np.arange(n), np.s_[b * (n // blocks) : (b + 1) * (n // blocks)])
                for b in range(blocks)
            ]
        )
        for n in counts
    ]


def _both(examples: Interval, without: np.ndarray, q: float | None) -> Interval:
    """Adds to an interval over examples what leaving out each block of models says."""
    from scipy.stats import t

    blocks = without.size
    error = np.sqrt((blocks - 1) / blocks * np.square(without - without.mean()).sum())
    tail = (1 - examples.level) / (10 if q is None else 2)
    models = t.ppf(1 - tail, blocks - 1) * error
    below = np.hypot(max(examples.estimate - examples.low, 0.0), models)
    above = np.hypot(max(examples.high - examples.estimate, 0.0), models)
    estimate = examples.estimate
    return examples._replace(low=float(estimate - below), high=float(estimate + above))
