from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from mu_jax import evaluation


def test_t_interval_of_symmetric_values_equals_scipy():
    values = np.random.default_rng(0).normal(size=7)
    values = np.concatenate([values, 2.0 - values])  # skewness 0 about 1
    for level in (0.5, 0.95):
        low, high = scipy.stats.t.interval(level, 13, values.mean(), scipy.stats.sem(values))
        expected = (values.mean(), low, high, level)
        found = evaluation.t_interval(values, level=level)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_t_interval_is_where_halls_transformation_equals_the_quantiles():
    values = np.random.default_rng(1).exponential(size=9)
    n, mean, s = 9, values.mean(), values.std(ddof=1)
    skew = n / ((n - 1) * (n - 2)) * np.sum(((values - mean) / s) ** 3)
    found = evaluation.t_interval(values, level=0.9)
    assert found.high - mean > 1.5 * (mean - found.low)  # the long tail is above
    for end, tail in ((found.low, 0.95), (found.high, 0.05)):
        t = (mean - end) / s
        g = t + skew * t**2 / 3 + skew**2 * t**3 / 27 + skew / (6 * n)
        assert n**0.5 * g == pytest.approx(scipy.stats.t.ppf(tail, n - 1), rel=1e-9)
    # Mirrored values have the mirrored interval.
    mirrored = evaluation.t_interval(-values, level=0.9)
    np.testing.assert_allclose([-mirrored.high, -mirrored.low], found[1:3], rtol=1e-12)


@pytest.mark.parametrize("successes, trials", [(0, 10), (3, 10), (10, 10), (499, 1000)])
def test_clopper_pearson_ends_are_where_the_tails_have_half_of_the_rest(successes, trials):
    found = evaluation.clopper_pearson(successes, trials, level=0.9)
    assert found.estimate == successes / trials
    if successes > 0:
        tail = scipy.stats.binom.sf(successes - 1, trials, found.low)
        assert tail == pytest.approx(0.05, rel=1e-6)
    else:
        assert found.low == 0
    if successes < trials:
        tail = scipy.stats.binom.cdf(successes, trials, found.high)
        assert tail == pytest.approx(0.05, rel=1e-6)
    else:
        assert found.high == 1


def test_bca_equals_scipy_and_follows_the_seed():
    values = np.random.default_rng(0).exponential(size=30)
    expected = scipy.stats.bootstrap(
        (values,), np.median, n_resamples=999, rng=np.random.default_rng(4), method="BCa"
    ).confidence_interval
    found = evaluation.bootstrap_interval(values, np.median, seed=4, resamples=999)
    assert found == (np.median(values), expected.low, expected.high, 0.95)
    other = evaluation.bootstrap_interval(values, np.median, seed=5, resamples=999)
    assert other != found
    wide = evaluation.bootstrap_interval(values, np.median, seed=4, level=0.99, resamples=999)
    narrow = evaluation.bootstrap_interval(values, np.median, seed=4, level=0.5, resamples=999)
    assert wide.low < narrow.low < np.median(values) < narrow.high < wide.high
    assert evaluation.bootstrap_interval(values, seed=4) == evaluation.t_interval(values)


def two_way(rng, models=12, examples=40):
    """Mean 0, with effects of models and examples of a standard deviation of 1, and noise."""
    effects = rng.normal(size=(models, 1)) + rng.normal(size=(1, examples))
    return effects + 0.5 * rng.normal(size=(models, examples))


def test_a_paired_interval_covers_and_is_narrower_than_an_unpaired_one():
    random, covered, widths = np.random.default_rng(1), 0, []
    for seed in range(200):
        common = random.normal(scale=5.0, size=80)
        first, second = common + 1 + random.normal(size=80), common
        found = evaluation.paired_interval(first, second, seed=seed, resamples=400)
        covered += found.low <= 1 <= found.high
        widths.append(found.high - found.low)
    assert 0.90 <= covered / 200 <= 0.99
    assert np.mean(widths) < 0.6  # 2 * 1.96 / sqrt(80) = 0.44; unpaired it is 3.1
    quantile = evaluation.paired_interval(first, second, np.median, seed=0)
    assert quantile.estimate == np.median(first) - np.median(second)
    with pytest.raises(ValueError, match="expected values of the same examples, found 80 and 79"):
        evaluation.paired_interval(first, second[1:], seed=0)


def test_two_levels_cover_the_mean_where_one_does_not():
    rng = np.random.default_rng(0)
    covered, covered_by_examples = [], []
    for seed in range(200):
        values = two_way(rng)
        both = evaluation.two_level_interval(values, seed=seed, level=0.9, resamples=400)
        examples = evaluation.t_interval(values.mean(0), level=0.9)
        covered.append(both.low <= 0 <= both.high)
        covered_by_examples.append(examples.low <= 0 <= examples.high)
    assert 0.82 <= np.mean(covered) <= 0.96
    assert np.mean(covered_by_examples) < 0.75


def test_mean_and_general_statistic_agree():
    values = two_way(np.random.default_rng(1))
    fast = evaluation.two_level_interval(values, seed=0, resamples=4000)
    slow = evaluation.two_level_interval(values, lambda a: a.mean(), seed=0, resamples=4000)
    np.testing.assert_allclose(fast, slow, atol=0.05)
    spread = evaluation.two_level_interval(values, np.std, seed=0, resamples=500)
    assert spread.low < spread.estimate == values.std() and spread.high > spread.low


RAMP, LONG = np.arange(5.0), np.arange(99.0)


def p95(values, axis):
    return np.percentile(values, 95, axis=axis)


@pytest.mark.parametrize("q", [0.05, 0.5, 0.9, 0.95])
def test_a_quantile_lies_between_order_statistics_from_the_number_needed_on(q):
    needed = evaluation.values_needed(q)
    values = np.random.default_rng(0).permutation(np.arange(1.0, needed + 1))
    found = evaluation.quantile_interval(values, q)
    r, s = int(found.low), int(found.high)  # the k-th smallest value is k

    def missed(r, s):  # fewer than r values below the quantile, or s and more
        return scipy.stats.binom.cdf(r - 1, needed, q), scipy.stats.binom.sf(s - 1, needed, q)

    assert max(missed(r, s)) <= 0.025
    assert missed(r + 1, s)[0] > 0.025 and missed(r, s - 1)[1] > 0.025
    with pytest.raises(ValueError, match=f"at least {needed} values"):
        evaluation.quantile_interval(values[1:], q)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: evaluation.t_interval(LONG[:7]), "at least 8 values, found 7"),
        (lambda: evaluation.t_interval(LONG * np.nan), "finite values"),
        (lambda: evaluation.t_interval(LONG * 0 + 0.1), "differ, found 0.1 for all 99"),
        (lambda: evaluation.t_interval(LONG, level=95), "level in \\(0, 1\\)"),
        (lambda: evaluation.clopper_pearson(3, 2), "3 of 2"),
        (lambda: evaluation.clopper_pearson(0, 0), "trials > 0"),
        (lambda: evaluation.clopper_pearson(1, 2, level=0), "level in"),
        (lambda: evaluation.bootstrap_interval(RAMP, seed=0), "at least 8 values, found 5"),
        (lambda: evaluation.bootstrap_interval(RAMP * 0, np.median, seed=0), "for all 5"),
        (lambda: evaluation.bootstrap_interval(RAMP, np.median, seed=0), "at least 20 values"),
        (lambda: evaluation.bootstrap_interval(np.arange(99.0) ** 2, p95, seed=0), "at least 8"),
        (lambda: evaluation.paired_interval(RAMP, RAMP, np.std, seed=0), "at least 20 values"),
        (lambda: evaluation.paired_interval(RAMP, RAMP**2, seed=0), "at least 8 values, found 5"),
        (lambda: evaluation.paired_interval(LONG + 0.3, LONG, seed=0), "expected values that dif"),
        (lambda: evaluation.paired_interval(LONG, LONG**2, p95, seed=0), "at least 8 values on"),
        (lambda: evaluation.quantile_interval(LONG[:71]), "at least 72 values .* found 71"),
        (lambda: evaluation.quantile_interval(LONG, 1.0), "quantile in"),
        (lambda: evaluation.two_level_interval(RAMP, seed=0), "2 axes"),
        (
            lambda: evaluation.two_level_interval(np.ones((7, 9)), seed=0),
            "at least 8 .* found 7 x 9",
        ),
        (lambda: evaluation.two_level_interval(np.full((8, 8), np.inf), seed=0), "finite values"),
        (
            lambda: evaluation.two_level_interval(np.tile(LONG, (8, 1)), seed=0),
            "models that differ",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
