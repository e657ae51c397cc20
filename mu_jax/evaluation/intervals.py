"""Confidence intervals: of a mean, of a fraction, of a quantile, of a table of two levels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

FEWEST = 8  # values: with fewer, no interval of a mean covers 90 % of skewed and bounded values


class Interval(NamedTuple):
    """estimate, and the ends of an interval that covers the truth with probability `level`."""

    estimate: float
    low: float
    high: float
    level: float


def _values(values: ArrayLike, minimum: int, ndim: int = 1) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != ndim or not values.size:
        raise ValueError(
            f"expected an array of {ndim} axes with values, found shape {values.shape}: pass one "
            f"number for each {'seed or model' if ndim == 1 else 'model and example'}"
        )
    if min(values.shape) < minimum:
        raise ValueError(
            f"expected at least {minimum} values{' on either axis' if ndim > 1 else ''}, found "
            f"{' x '.join(map(str, values.shape))}: an interval of fewer covers too seldom, so run "
            "more seeds, or print none"
        )
    if not np.isfinite(values).all():
        raise ValueError(
            f"expected finite values, found NaN or infinity in {(~np.isfinite(values)).sum()} of "
            f"{values.size}: leave out runs that failed and report how many there were"
        )
    return values


def _check_spread(values: np.ndarray, what: str = "values") -> None:
    if np.ptp(values) <= 1e-12 * np.abs(values).max():  # rounding of equal values
        raise ValueError(
            f"expected {what} that differ, found {values[0]:.6g} for all {values.size}: an "
            "interval would have no width, so print none, or take `clopper_pearson` for counts"
        )


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"expected a level in (0, 1), found {level}: 0.95 is usual")


def t_interval(values: ArrayLike, *, level: float = 0.95) -> Interval:
    """Interval of a mean over seeds or models: Student's t, corrected for skewness by Hall.

    The ends are `mean - s f(q)` and `mean - s f(-q)`, q the upper quantile of Student's t with
    n - 1 degrees of freedom, s the standard deviation, a the skewness of the values, and
    `f(q) = 3 (cbrt(1 + a y) - 1) / a` with `y = q / sqrt(n) - a / (6 n)`. With a = 0 this is
    `mean +- q s / sqrt(n)`. For two methods run on the same seeds, pass their differences: the
    seeds' own differences, often larger than the methods', then cancel.

    With fewer than eight values no rule that was tried covers 90 % of all kinds of values, so that
    there is no interval; nor is there one where all values are equal, which would have no width.
    Coverage of the 95 % interval in percent, simulated, and of Student's t beside it:

    | values | n = 3 (t) | 5 (t) | 8 | 8 (t) | 10 | 16 | 32 | 32 (t) | 64 |
    |---|---|---|---|---|---|---|---|---|---|
    | normal | 95 | 95 | 94 | 95 | 95 | 95 | 95 | 95 | 95 |
    | Student's t, 3 degrees | 96 | 96 | 93 | 96 | 93 | 92 | 92 | 95 | 93 |
    | exponential | 88 | 88 | 94 | 89 | 94 | 94 | 95 | 93 | 95 |
    | lognormal, sigma 1 | 84 | 82 | 91 | 83 | 91 | 92 | 93 | 88 | 93 |
    | beta(9, 1/2), accuracies near 1 | 83 | 84 | 94 | 86 | 95 | 95 | 95 | 92 | 95 |
    | fraction 0.98 of 100 examples | 95 | 94 | 94 | 93 | 95 | 95 | 95 | 95 | 95 |
    | fraction 0.95 of 20 examples | 99 | 96 | 92 | 92 | 94 | 96 | 95 | 94 | 95 |

    No interval holds for every distribution: where one model in a hundred is far off and none of
    the n values is, the mean is not where it seems.

    Args:
        values: float `[n]`, one per seed or model, n >= 8.
        level: probability of covering the mean.

    Returns:
        `Interval`.

    Raises:
        ValueError: fewer than eight values, equal or non-finite ones, or a level outside (0, 1).

    Differences from the reference:
        1. The quantile is Student's in place of the normal one, for n as small as eight.

    Example:
        >>> [round(number, 2) for number in t_interval(np.arange(9.0))]
        [4.0, 1.89, 6.11, 0.95]
        >>> [round(number, 2) for number in t_interval(np.arange(9.0) ** 4)]
        [974.67, 189.97, 5315.51, 0.95]

    Reference:
        Hall, "On the Removal of Skewness by Transformation", Journal of the Royal Statistical
        Society B 1992.
    """
    from scipy.stats import skew

    _check_level(level)
    values = _values(values, FEWEST)
    _check_spread(values)
    error = float(values.std(ddof=1)) / values.size**0.5
    below, above = _widths(values.size, error, float(skew(values, bias=False)), level)
    mean = float(values.mean())
    return Interval(mean, mean - below, mean + above, level)


def _widths(n: int, error: float, skewness: float, level: float) -> tuple[float, float]:
    """How far the ends of `t_interval` are from the mean of n values with this standard error."""
    from scipy.stats import t

    q = np.array([1, -1]) * t.ppf((1 + level) / 2, n - 1)
    y = q / n**0.5 - skewness / (6 * n)
    root = np.cbrt(1 + skewness * y)
    below, above = np.array([1, -1]) * 3 * y / (root**2 + root + 1)  # (root - 1) / skewness
    return float(below * error * n**0.5), float(above * error * n**0.5)


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

    It holds for other models *and* other examples. Either end is `sqrt(h_models^2 + h_examples^2)`
    from the estimate, each h that of `t_interval` over one of both: of the means of rows, or of
    columns. Of another statistic the standard error is that of a bootstrap of the rows, or of the
    columns, and the skewness that of the jackknife's pseudo-values. Not for statistics whose bias
    depends on the number of different models, such as `klom`, since drawn models repeat: see
    `klom_interval`.

    Coverage of the 95 % interval of the mean, simulated with 8, 16 and 64 models and 8, 40 and 400
    examples, effects of models and examples of one kind, and noise: 94 to 97 % of normal and of
    exponential effects, 91 to 96 % of lognormal ones, 93 to 95 % of Student's with 3 degrees.

    Args:
        values: float `[models, examples]`, at least eight of each, such as losses or correctness.
        statistic: of an array `[models, examples]`; of the mean nothing is drawn.
        seed: seed of the resampling.
        level: probability of covering the statistic of the population.
        resamples: number of resamples of either kind.

    Returns:
        `Interval`.

    Raises:
        ValueError: fewer than eight models or examples, a statistic that does not differ between
            models or between examples, non-finite values, or a level outside (0, 1).

    Cost:
        None for the mean; else the statistic of 2 `resamples` arrays, on the host.

    Example:
        >>> values = np.add.outer(np.arange(8.0), np.arange(100.0) % 5)
        >>> interval = two_level_interval(values, seed=0)
        >>> [round(number, 2) for number in interval]
        [5.5, 3.43, 7.57, 0.95]

    Reference:
        Owen, "The Pigeonhole Bootstrap", Annals of Applied Statistics 2007. Tukey, "Bias and
        Confidence in Not-quite Large Samples", Annals of Mathematical Statistics 1958.
    """
    from scipy.stats import skew

    _check_level(level)
    values = _values(values, FEWEST, ndim=2)
    random = np.random.default_rng(seed)
    estimate, squares = float(statistic(values)), np.zeros(2)
    for axis, (what, n) in enumerate(zip(("models", "examples"), values.shape)):
        if statistic is np.mean:
            alone = values.mean(1 - axis)
            error = alone.std(ddof=1) / n**0.5
        else:
            without = [statistic(np.delete(values, i, axis)) for i in range(n)]
            alone = n * estimate - (n - 1) * np.array(without)
            picks = random.integers(n, size=(resamples, n))
            found = [statistic(values.take(pick, axis)) for pick in picks]
            error = np.std(found, ddof=1) * (n / (n - 1)) ** 0.5
        _check_spread(alone, what)
        squares += np.square(_widths(n, float(error), float(skew(alone, bias=False)), level))
    below, above = np.sqrt(squares)
    return Interval(estimate, float(estimate - below), float(estimate + above), level)
