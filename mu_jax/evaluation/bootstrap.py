"""Bootstrap intervals over examples or seeds, of one method and of the difference of two."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jax.typing import ArrayLike

from mu_jax.evaluation.intervals import Interval, _check_level, _check_spread, _values, t_interval

FEWEST = 20  # values: with fewer, a bootstrap covers less than 90 %
BEYOND = 8  # values on either side of a quantile: with fewer, a bootstrap covers less than 90 %
LEFT_OUT = 64  # values left out in turn, to tell a quantile from other statistics


def _check_enough(values: np.ndarray, statistic: Callable[..., ArrayLike]) -> None:
    """Refuses what a bootstrap does not cover: few values, and quantiles close to their ends."""
    if values.size < FEWEST:
        raise ValueError(
            f"expected at least {FEWEST} values for a bootstrap, found {values.size}: take "
            "`t_interval` for a mean, `quantile_interval` for a quantile, or more values"
        )
    if not _is_quantile(values, statistic):
        return
    estimate = np.asarray(statistic(values, axis=-1))
    beyond = int(min((values >= estimate).sum(), (values <= estimate).sum()))
    if beyond < BEYOND:
        raise ValueError(
            f"expected at least {BEYOND} values on either side of a quantile for a bootstrap, "
            f"found {beyond} of {values.size}: take `quantile_interval`, or more values"
        )


def _is_quantile(values: np.ndarray, statistic: Callable[..., ArrayLike]) -> bool:
    """Whether the statistic hangs on single values: left out, most of them change it alike."""
    order = np.argsort(values)
    picked = order[np.unique(np.linspace(0, values.size - 1, LEFT_OUT).astype(int))]
    without = [np.asarray(statistic(np.delete(values, i), axis=-1)) for i in picked]
    return np.unique(without).size <= 3 < np.unique(values[picked]).size


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[..., np.ndarray] = np.mean,
    *,
    seed: int,
    level: float = 0.95,
    resamples: int = 9999,
) -> Interval:
    """Bootstrap interval of a statistic, bias-corrected and accelerated (BCa).

    Of the mean it is `t_interval`, since BCa covers 87 % with 20 lognormal values and 88 % with
    100. Of a quantile it takes 8 values or more on either side, 160 for the 95th percentile; with
    fewer there is `quantile_interval`.

    Coverage of the 95 % interval, simulated: of the median with 20 values 93 to 94 % for normal,
    exponential and lognormal ones; of the 95th percentile with 160 values 93 % for normal and
    lognormal ones; of the standard deviation 91 % with 50 normal values, but 82 % with 50
    exponential ones and 69 % with 50 lognormal ones: of values with long tails print none.

    Args:
        values: float `[n]`, n >= 20 (8 for the mean).
        statistic: `statistic(sample, axis=...)`, such as `numpy.mean` or `numpy.median`.
        seed: seed of the resampling.
        level: probability of covering the statistic of the population.
        resamples: number of resamples (9999 in SciPy).

    Returns:
        `Interval`.

    Raises:
        ValueError: fewer than 20 values (8 for the mean), a quantile with fewer than 8 on one side,
            non-finite or equal values, a level outside (0, 1), or resamples that all give one
            value.

    Cost:
        The statistic of `resamples` and of n arrays of n values, on the host.

    Example:
        >>> interval = bootstrap_interval(np.arange(30.0) ** 2, np.median, seed=0)
        >>> bool(60 < interval.low < interval.estimate < interval.high < 450)
        True

    Reference:
        Efron, "Better Bootstrap Confidence Intervals", Journal of the American Statistical
        Association 1987.
    """
    from scipy.stats import bootstrap

    if statistic is np.mean:
        return t_interval(values, level=level)
    _check_level(level)
    values = _values(values, 1)
    _check_spread(values)
    _check_enough(values, statistic)
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
    """Interval of `statistic(first) - statistic(second)` over the same examples.

    What makes an example hard for both cancels; an interval without 0 says that the two differ on
    examples of this kind. Of the mean it is `t_interval` of the differences, which takes eight; of
    another statistic it is the percentile interval of a bootstrap that draws the same examples for
    both, which takes 20 of them, and for a quantile 8 on either side: 160 for the 95th percentile.
    It does not know that other models would differ: of KLoM take `klom_difference`.

    Coverage of the 95 % interval, simulated: of the mean as `t_interval`; of the 95th percentile
    with 160 examples 92 to 99 %, the least where one side is a noise floor, much narrower than the
    other. Other statistics than quantiles were not simulated.

    Args:
        first, second: float `[n]`, values of two methods on the same n examples.
        statistic: of an array, with an argument `axis`.
        seed: seed of the resampling.
        level: probability of covering the difference.
        resamples: number of resamples.

    Returns:
        `Interval`.

    Raises:
        ValueError: fewer than eight examples (20 but for the mean), equal differences, a quantile
            with fewer than 8 examples on one side, different numbers of them, non-finite values,
            or a level outside (0, 1).

    Cost:
        The statistic of two arrays `[resamples, n]`, on the host; none for the mean.

    Example:
        >>> hard = 100 * np.arange(20.0)
        >>> interval = paired_interval(hard + 1 + np.arange(20) % 2, hard, seed=0)
        >>> [round(number, 2) for number in interval]
        [1.5, 1.26, 1.74, 0.95]
    """
    _check_level(level)
    first, second = _values(first, 1), _values(second, 1)
    if first.shape != second.shape:
        raise ValueError(
            f"expected values of the same examples, found {first.size} and {second.size}: score "
            "both methods on one set"
        )
    if statistic is np.mean:
        return t_interval(first - second, level=level)
    _check_enough(first, statistic)
    _check_enough(second, statistic)
    picks = np.random.default_rng(seed).integers(first.size, size=(resamples, first.size))

    def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray(statistic(a, axis=-1)) - np.asarray(statistic(b, axis=-1))

    found = difference(first[picks], second[picks])
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(difference(first, second)), float(low), float(high), level)
