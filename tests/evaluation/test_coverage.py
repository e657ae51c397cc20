"""How often 95 % intervals cover, on simulated data; the numbers are those of the docstrings."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from mu_jax import evaluation

LEAST = 0.9


def p95(values, axis):
    return np.percentile(values, 95, axis=axis)


def coverage(interval, truth, runs):
    """Share of the runs whose interval encloses the truth."""
    found = [interval(np.random.default_rng(seed)) for seed in range(runs)]
    return np.mean([one.low <= truth <= one.high for one in found])


def chance(runs, least=LEAST):
    """What is at least seen in so many runs of an interval that covers with `least`."""
    return least - 2.5 * (least * (1 - least) / runs) ** 0.5


def two_way(random, models, examples, draw="normal"):
    kinds = {
        "normal": lambda *s: random.normal(size=s),
        "skewed": lambda *s: random.exponential(1, s) - 1,
    }
    effect = kinds[draw]
    return effect(models, 1) + effect(1, examples) + 0.5 * random.normal(size=(models, examples))


@pytest.mark.quick("40-3", "40-16")
@pytest.mark.parametrize("models", [3, 5, 16, 64])
@pytest.mark.parametrize("examples", [40, 400])
def test_two_levels_cover_with_few_models(models, examples):
    def interval(random):
        return evaluation.two_level_interval(two_way(random, models, examples), seed=0)

    assert 0.93 <= coverage(interval, 0.0, 600) <= 0.985


@pytest.mark.slow
@pytest.mark.parametrize("models", [3, 5, 16, 64])
def test_two_levels_cover_skewed_effects(models):
    def interval(random):
        return evaluation.two_level_interval(two_way(random, models, 40, "skewed"), seed=0)

    assert coverage(interval, 0.0, 2000) >= (0.87 if models == 3 else chance(2000))


@pytest.mark.slow
@pytest.mark.parametrize("models", [3, 8])
def test_two_levels_cover_another_statistic(models):
    def interval(random):
        values = two_way(random, models, 20)
        return evaluation.two_level_interval(values, lambda a: a.mean(), seed=0, resamples=200)

    assert coverage(interval, 0.0, 300) >= chance(300)


@pytest.mark.quick("None-*")
@pytest.mark.parametrize("n", [72, 100, 400])
@pytest.mark.parametrize("sigma", [None, 1.0])
def test_order_statistics_cover_the_95th_percentile(n, sigma):
    truth = scipy.stats.norm.ppf(0.95) if sigma is None else np.exp(scipy.stats.norm.ppf(0.95))

    def interval(random):
        values = random.normal(size=n)
        return evaluation.quantile_interval(values if sigma is None else np.exp(values))

    assert 0.94 <= coverage(interval, truth, 1000) <= 0.99


@pytest.mark.parametrize("n, least", [(3, 0.87), (5, 0.865), (10, 0.89), (30, 0.9)])
def test_t_intervals_cover(n, least):
    assert 0.93 <= coverage(lambda r: evaluation.t_interval(r.normal(size=n)), 0.0, 1500) <= 0.97
    assert coverage(lambda r: evaluation.t_interval(r.uniform(size=n)), 0.5, 1500) >= 0.91
    assert coverage(lambda r: evaluation.t_interval(r.exponential(size=n)), 1.0, 1500) >= least


@pytest.mark.slow
@pytest.mark.parametrize("draw, truth", [("normal", 0.0), ("exponential", 1.0)])
def test_bootstraps_of_a_mean_cover_from_twenty_values_on(draw, truth):
    def interval(random):
        values = getattr(random, draw)(size=20)
        return evaluation.bootstrap_interval(values, seed=0, resamples=999)

    assert coverage(interval, truth, 600) >= chance(600)


@pytest.mark.slow
def test_bootstraps_of_a_percentile_cover_where_they_are_given():
    def interval(random):
        return evaluation.bootstrap_interval(random.lognormal(size=160), p95, seed=0, resamples=999)

    assert coverage(interval, np.exp(scipy.stats.norm.ppf(0.95)), 300) >= chance(300)


def pair(random, n, kind):
    common = random.normal(size=n)
    if kind == "floor":  # a method against what a perfect one would score
        return 4 + common**2 + random.exponential(size=n), 4 + 0.3 * random.normal(size=n)
    noise = 0.2 * random.normal(size=(2, n))
    return np.exp(common + noise[0]), 1.5 * np.exp(common + noise[1])


@pytest.mark.parametrize("n", [3, 5, 10])
def test_paired_means_cover_with_few_examples(n):
    def interval(random):
        common = random.lognormal(size=n)
        noise = random.normal(size=(2, n))
        return evaluation.paired_interval(common + 1 + noise[0], common + noise[1], seed=0)

    assert 0.93 <= coverage(interval, 1.0, 1000) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["floor", "common"])
def test_paired_percentiles_cover_where_they_are_given(kind):
    truth = np.subtract(
        *(np.percentile(side, 95) for side in pair(np.random.default_rng(1), 10**6, kind))
    )

    def interval(random):
        return evaluation.paired_interval(*pair(random, 170, kind), p95, seed=0, resamples=600)

    assert coverage(interval, truth, 500) >= chance(500)


def margins(random, models, examples, *, effect, shift=0.0, hard=0.0):
    """Oracles and unlearned models: effects of a model on all examples, of examples, and noise."""
    both = effect * random.normal(size=(2, models, 1)) + random.normal(size=(2, models, examples))
    both[1] += shift + hard * random.exponential(size=examples)
    return jnp.asarray(both, jnp.float32)


def klom_coverage(make, interval, runs):
    """The truth is the mean value over all runs."""
    found = [interval(*make(np.random.default_rng(seed))) for seed in range(runs)]
    truth = np.mean([one.estimate for one in found])
    return np.mean([one.low <= truth <= one.high for one in found])


CASES = [
    {"models": 16, "examples": 100, "effect": 1.0},
    {"models": 24, "examples": 100, "effect": 1.0, "hard": 1.0},
    {"models": 64, "examples": 100, "effect": 0.0},
    {"models": 64, "examples": 100, "effect": 1.0, "shift": 1.0, "hard": 1.0},
    {"models": 64, "examples": 400, "effect": 1.0},
]


@pytest.mark.slow
@pytest.mark.parametrize("q", [0.95, None])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_klom_covers_over_models_and_examples(case, q):
    def interval(oracle, unlearned):
        return evaluation.klom_interval(oracle, unlearned, q)

    assert klom_coverage(lambda r: margins(r, **case), interval, 150) >= 0.94


@pytest.mark.parametrize("q", [0.95, None])
def test_klom_covers_where_examples_alone_do_not(q):
    case = {"models": 24, "examples": 100, "effect": 2.0, "shift": 1.0}

    def make(random):
        return margins(random, **case)

    def examples_alone(oracle, unlearned):
        values = np.asarray(evaluation.klom(oracle, unlearned))
        return evaluation.t_interval(values) if q is None else evaluation.quantile_interval(values)

    def interval(oracle, unlearned):
        return evaluation.klom_interval(oracle, unlearned, q)

    assert klom_coverage(make, examples_alone, 40) < 0.85
    assert klom_coverage(make, interval, 40) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("examples", [72, 400])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_differences_to_the_floor_of_klom_cover(examples, shift):
    def make(random):
        oracle, first = margins(random, 24, examples, effect=0.5, shift=shift, hard=shift)
        return oracle, first, margins(random, 24, examples, effect=0.5)[0]

    def interval(*ensembles):
        return evaluation.klom_difference(*ensembles, seed=0)

    assert klom_coverage(make, interval, 120) >= 0.94
