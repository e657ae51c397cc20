"""Confidence intervals: of a mean, of a fraction, of a quantile, of a table of two levels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike


class Interval(NamedTuple):
    """estimate, and the ends of an interval that covers the truth with probability `level`."""

    estimate: float
    low: float
    high: float
    level: float


def _values(values: ArrayLike, minimum: int, ndim: int = 1) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != ndim or min(values.shape, default=0) < minimum:
        raise ValueError(
            f"expected an array of {ndim} axes with at least {minimum} entries each, found shape "
            f"{values.shape}: with fewer there is no interval, so run more seeds"
        )
    if not np.isfinite(values).all():
        raise ValueError(
            f"expected finite values, found NaN or infinity in {(~np.isfinite(values)).sum()} of "
            f"{values.size}: leave out runs that failed and report how many there were"
        )
    return values


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"expected a level in (0, 1), found {level}: 0.95 is usual")


def t_interval(values: ArrayLike, *, level: float = 0.95) -> Interval:
    """Student's t interval of a mean over seeds, `mean +- t s / sqrt(n)`.

    For two methods run on the same seeds, pass their differences: the seeds' own differences,
    often larger than the methods', then cancel.

    Coverage of the 95 % interval, simulated: 95 % of normal values whatever n, at least 92 % of
    uniform ones; of exponential ones 88 % with 3 to 5 values and at least 90 % from 10 on. Of
    lognormal values, 83 % with 3 to 10, take logarithms first.

    Args:
        values: float `[n]`, one per seed, n >= 3.
        level: probability of covering the mean.

    Returns:
        `Interval`.

    Raises:
        ValueError: fewer than three values, non-finite ones, or a level outside (0, 1).

    Example:
        >>> [round(number, 2) for number in t_interval([1.0, 2.0, 3.0])]
        [2.0, -0.48, 4.48, 0.95]
    """
    from scipy.stats import t

    _check_level(level)
    values = _values(values, 3)
    mean = float(values.mean())
    half = float(t.ppf((1 + level) / 2, values.size - 1) * values.std(ddof=1) / values.size**0.5)
    return Interval(mean, mean - half, mean + half, level)


def clopper_pearson(successes: int, trials: int, *, level: float = 0.95) -> Interval:
    """Exact binomial interval of a fraction, for accuracies on few examples.

    It covers with at least the stated probability, whatever the fraction and the number.

    Args:
        successes: number of correct examples.
        trials: number of examples, at least 1.
        level: probability, at least, of covering the fraction.

    Returns:
        `Interval`.

    Raises:
        ValueError: successes outside [0, trials], no trials, or a level outside (0, 1).

    Example:
        >>> [round(number, 3) for number in clopper_pearson(10, 10)]
        [1.0, 0.692, 1.0, 0.95]
    """
    from scipy.stats import binomtest

    _check_level(level)
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(
            f"expected 0 <= successes <= trials with trials > 0, found {successes} of {trials}: "
            "pass counts, not fractions"
        )
    found = binomtest(int(successes), int(trials)).proportion_ci(level, method="exact")
    return Interval(successes / trials, float(found.low), float(found.high), level)


def values_needed(q: float, *, level: float = 0.95) -> int:
    """The fewest values whose order statistics enclose the q-quantile, see `quantile_interval`.

    The largest of n values lies above the quantile with probability `1 - q^n`, the smallest below
    it with `1 - (1 - q)^n`; both have to reach `1 - (1 - level) / 2`.

    Example:
        >>> values_needed(0.95), values_needed(0.5)
        (72, 6)
    """
    _check_level(level)
    if not 0 < q < 1:
        raise ValueError(f"expected a quantile in (0, 1), found {q}: 0.95 is the 95th percentile")
    return math.ceil(math.log((1 - level) / 2) / math.log(max(q, 1 - q)))


def quantile_interval(values: ArrayLike, q: float = 0.95, *, level: float = 0.95) -> Interval:
    """Interval of a quantile between two order statistics, whatever the distribution.

    The r-th and the s-th smallest value enclose the q-quantile of the population with probability
    `P(r <= B < s)`, B binomial with n and q; r and s are the closest ones that leave at most
    `(1 - level) / 2` on either side. Extremes of few values enclose nothing: the 95th percentile
    needs 72 of them (`values_needed`), and with fewer there is no interval.

    Coverage of the 95 % interval of the 95th percentile, simulated on normal and on lognormal
    values: 95 to 98 % with 72, 100 and 400 values.

    Args:
        values: float `[n]`, independent, n >= `values_needed(q, level=level)`.
        q: the quantile, 0.95 for the 95th percentile.
        level: probability, at least, of covering the quantile of the population.

    Returns:
        `Interval`; the estimate is `numpy.quantile(values, q)`.

    Raises:
        ValueError: too few values, with the number that is needed; non-finite ones; q or level
            outside (0, 1).

    Cost:
        One sort, on the host.

    Example:
        >>> quantile_interval(np.arange(101.0), 0.9)
        Interval(estimate=90.0, low=84.0, high=96.0, level=0.95)

    Reference:
        Conover, "Practical Nonparametric Statistics", 1999, section 3.2.
    """
    from scipy.stats import quantile_test

    needed = values_needed(q, level=level)
    values = _values(values, 1)
    if values.size < needed:
        raise ValueError(
            f"expected at least {needed} values for a {level:.0%} interval of their {q:g} "
            f"quantile, found {values.size}: score more examples, or print no interval"
        )
    found = quantile_test(values, p=q).confidence_interval(level)
    return Interval(float(np.quantile(values, q)), float(found.low), float(found.high), level)


def two_level_interval(
    values: ArrayLike,
    statistic: Callable[[np.ndarray], float] = np.mean,
    *,
    seed: int,
    level: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """Interval over models and examples, for values of every model on every example.

    It holds for other models *and* other examples: `estimate +- sqrt(h_models^2 + h_examples^2)`,
    where each half width is that of Student's t over one of both, `h = t(N - 1) s / sqrt(N)`, with
    s / sqrt(N) of the means of rows, or of columns. Of another statistic the standard errors are
    those of a bootstrap of the rows and of one of the columns. Not for statistics whose bias
    depends on the number of different models, such as `klom`, since drawn models repeat: see
    `klom_interval`.

    Coverage of the 95 % interval, simulated on normal effects of models and examples with noise:
    95 to 97 % with 3, 5, 16 and 64 models and 40 or 400 examples. Where both effects are
    exponential, 88 % with 3 models and 90 % from 5 on.

    Args:
        values: float `[models, examples]`, at least three of each, such as losses or correctness.
        statistic: of an array `[models, examples]`; of the mean nothing is drawn.
        seed: seed of the resampling.
        level: probability of covering the statistic of the population.
        resamples: number of resamples of either kind.

    Returns:
        `Interval`.

    Raises:
        ValueError: fewer than three models or examples, non-finite values, or a level outside
            (0, 1).

    Cost:
        None for the mean; else the statistic of 2 `resamples` arrays, on the host.

    Example:
        >>> values = np.add.outer(np.arange(8.0), np.arange(100.0) % 5)
        >>> interval = two_level_interval(values, seed=0)
        >>> [round(number, 2) for number in interval]
        [5.5, 3.43, 7.57, 0.95]

    Reference:
        Owen, "The Pigeonhole Bootstrap", Annals of Applied Statistics 2007.
    """
    from scipy.stats import t

    _check_level(level)
    values = _values(values, 3, ndim=2)
    random = np.random.default_rng(seed)
    estimate, square = float(statistic(values)), 0.0
    for axis, n in enumerate(values.shape):
        if statistic is np.mean:
            error = values.mean(1 - axis).std(ddof=1) / n**0.5
        else:
            picks = random.integers(n, size=(resamples, n))
            found = [statistic(values.take(pick, axis)) for pick in picks]
            error = np.std(found, ddof=1) * (n / (n - 1)) ** 0.5
        square += float(t.ppf((1 + level) / 2, n - 1) * error) ** 2
    return Interval(estimate, estimate - square**0.5, estimate + square**0.5, level)
