"""Confidence intervals: over seeds, over examples, and over both."""

from __future__ import annotations

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


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[..., np.ndarray] = np.mean,
    *,
    seed: int,
    level: float = 0.95,
    resamples: int = 9999,
) -> Interval:
    """Bootstrap interval of a statistic, bias-corrected and accelerated (BCa).

    Over seeds where the mean is far from normal, or over examples for a quantile of per-example
    values, such as the 95th percentile of `klom`.

    Args:
        values: float `[n]`, n >= 3.
        statistic: `statistic(sample, axis=...)`, such as `numpy.mean` or `numpy.median`.
        seed: seed of the resampling.
        level: probability of covering the statistic of the population.
        resamples: number of resamples (9999 in SciPy).

    Returns:
        `Interval`.

    Raises:
        ValueError: fewer than three values, non-finite or equal ones, a level outside (0, 1), or
            resamples that all give one value.

    Cost:
        The statistic of `resamples` and of n arrays of n values, on the host.

    Example:
        >>> interval = bootstrap_interval([1.0, 2.0, 3.0, 4.0, 10.0], seed=0)
        >>> bool(1.5 < interval.low < interval.estimate == 4.0 < interval.high < 8.5)
        True

    Reference:
        Efron, "Better Bootstrap Confidence Intervals", Journal of the American Statistical
        Association 1987.
    """
    from scipy.stats import bootstrap

    _check_level(level)
    values = _values(values, 3)
    if np.ptp(values) == 0:
        raise ValueError(
            f"expected values that differ, found {values[0]:.6g} for all {values.size}: resampling "
            "them says nothing, so take `clopper_pearson` for fractions"
        )
    found = bootstrap(
        (values,),
        statistic,
        n_resamples=resamples,
        confidence_level=level,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    if not np.isfinite([found.low, found.high]).all():
        raise ValueError(
            "expected a statistic that moves when values are drawn again, found one value: take "
            "more values or another statistic"
        )
    return Interval(float(statistic(values, axis=0)), float(found.low), float(found.high), level)


def paired_interval(
    first: ArrayLike,
    second: ArrayLike,
    statistic: Callable[..., ArrayLike] = np.mean,
    *,
    seed: int,
    level: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """Bootstrap interval of `statistic(first) - statistic(second)` over the same examples.

    The same examples are drawn for both, so that what makes an example hard for both cancels; an
    interval without 0 says that the two differ. A percentile interval, which also holds for
    quantiles.

    Args:
        first, second: float `[n]`, values of two methods on the same n >= 3 examples.
        statistic: of an array, with an argument `axis`.
        seed: seed of the resampling.
        level: probability of covering the difference.
        resamples: number of resamples.

    Returns:
        `Interval`.

    Raises:
        ValueError: fewer than three examples, different numbers of them, non-finite values, or a
            level outside (0, 1).

    Cost:
        The statistic of two arrays `[resamples, n]`, on the host.

    Example:
        >>> hard = np.arange(20.0)
        >>> interval = paired_interval(hard + 1, hard, seed=0)
        >>> (interval.low, interval.estimate, interval.high)
        (1.0, 1.0, 1.0)
    """
    _check_level(level)
    first, second = _values(first, 3), _values(second, 3)
    if first.shape != second.shape:
        raise ValueError(
            f"expected values of the same examples, found {first.size} and {second.size}: score "
            "both methods on one set"
        )
    picks = np.random.default_rng(seed).integers(first.size, size=(resamples, first.size))

    def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray(statistic(a, axis=-1)) - np.asarray(statistic(b, axis=-1))

    found = difference(first[picks], second[picks])
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(difference(first, second)), float(low), float(high), level)


def two_level_interval(
    values: ArrayLike,
    statistic: Callable[[np.ndarray], float] = np.mean,
    *,
    seed: int,
    level: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """Bootstrap interval over models and examples, for values of every model on every example.

    Rows and columns are drawn anew, each with replacement and independently, so that the interval
    holds for other models *and* other examples; drawing only one of both makes it too narrow. It
    is a percentile interval, somewhat too wide rather than too narrow. Not for statistics whose
    bias depends on the number of different models, such as `klom`: resampled models repeat. For
    those, resample the per-example values with `bootstrap_interval`.

    Args:
        values: float `[models, examples]`, at least three of each, such as losses or correctness.
        statistic: of an array `[models, examples]`; the mean is computed without copies.
        seed: seed of the resampling.
        level: probability of covering the statistic of the population.
        resamples: number of resamples.

    Returns:
        `Interval`.

    Raises:
        ValueError: fewer than three models or examples, non-finite values, or a level outside
            (0, 1).

    Cost:
        The statistic of `resamples` arrays, on the host; for the mean one matrix product.

    Example:
        >>> values = np.add.outer(np.arange(8.0), np.arange(100.0) % 5)
        >>> interval = two_level_interval(values, seed=0)
        >>> bool(3.5 < interval.low < interval.estimate == 5.5 < interval.high < 7.5)
        True

    Reference:
        Owen, "The Pigeonhole Bootstrap", Annals of Applied Statistics 2007.
    """
    _check_level(level)
    values = _values(values, 3, ndim=2)
    random = np.random.default_rng(seed)
    if statistic is np.mean:
        draws = [random.multinomial(n, np.full(n, 1 / n), resamples) / n for n in values.shape]
        found = np.einsum("rn,rn->r", draws[0] @ values, draws[1])
    else:
        picks = [random.integers(n, size=(resamples, n)) for n in values.shape]
        found = np.array([statistic(values[np.ix_(*pick)]) for pick in zip(*picks)])
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(values)), float(low), float(high), level)
