from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from mu_jax import evaluation


def published_procedure(oracle, unlearned, bins=20, eps=1e-5, clip=100.0, closed_last=False):
    """One example, step by step, in NumPy float64; NaN where the oracle histogram is empty."""
    oracle, unlearned = (np.clip(sample, -clip, clip) for sample in (oracle, unlearned))
    low, high = min(oracle.min(), unlearned.min()), max(oracle.max(), unlearned.max())
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    histograms = []
    for sample in (oracle, unlearned):
        if closed_last:
            counts = np.histogram(sample, edges)[0]
        else:
            counts = np.bincount(np.digitize(sample, edges), minlength=bins + 2)[1 : bins + 1]
        histograms.append(counts / max(counts.sum(), 1))
    p, q = histograms
    if p.sum() == 0:
        return np.nan
    return scipy.stats.entropy(p, np.where(p > 0, np.maximum(q, eps), q))


def gaussians(models=100, examples=48, seed=0, dtype=np.float64):
    """Oracle and unlearned margins whose shifts and widths grow along the examples."""
    rng = np.random.default_rng(seed)
    shift, scale = np.linspace(0, 12, examples), np.linspace(0.3, 3, examples)
    oracle = rng.normal(size=(models, examples)) * scale
    unlearned = rng.normal(size=(models + 20, examples)) * scale[::-1] + shift
    return oracle.astype(dtype), unlearned.astype(dtype)


def edge_columns():
    """Constant samples, equal samples, samples at the clip, oracles all at the maximum."""
    ramp = np.linspace(-3, 3, 40)
    columns = [
        (np.full(40, 2.0), np.full(40, 2.0)),
        (np.full(40, 2.0), np.full(40, 3.0)),
        (np.full(40, 3.0), np.full(40, 2.0)),
        (np.full(40, 3.0), ramp),
        (ramp, np.full(40, 3.0)),
        (ramp, ramp),
        (ramp * 100, ramp * 100 + 50),
        (np.round(ramp), np.round(ramp * 2)),
    ]
    return tuple(np.stack(side, 1) for side in zip(*columns))


@pytest.mark.parametrize("data", [gaussians(), edge_columns()], ids=["gaussians", "edges"])
@pytest.mark.parametrize("preset", [None, "reference"])
def test_equals_the_published_procedure_example_by_example(data, preset):
    oracle, unlearned = data
    expected = [
        published_procedure(o, u, closed_last=preset is None) for o, u in zip(oracle.T, unlearned.T)
    ]
    with jax.enable_x64(True):
        found = evaluation.klom(oracle, unlearned, preset=preset)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_reference_preset_is_nan_only_where_every_oracle_sample_is_dropped():
    found = np.asarray(evaluation.klom(*edge_columns(), preset="reference"))
    assert np.isnan(found).nonzero()[0].tolist() == [2, 3]
    assert np.isfinite(evaluation.klom(*edge_columns())).all()


def test_closing_the_last_bin_changes_little():
    oracle, unlearned = gaussians(models=100)
    difference = np.abs(
        evaluation.klom(oracle, unlearned) - evaluation.klom(oracle, unlearned, preset="reference")
    )
    assert 0 < difference.mean() < 0.03
    assert difference.max() < 0.1


def test_float32_agrees_with_float64_and_jit_with_eager():
    oracle, unlearned = gaussians(dtype=np.float32)
    with jax.enable_x64(True):
        exact = evaluation.klom(oracle.astype(np.float64), unlearned.astype(np.float64))
    found = evaluation.klom(oracle, unlearned)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-5)
    compiled = jax.jit(partial(evaluation.klom, bins=20))(oracle, unlearned)
    np.testing.assert_array_equal(compiled, found)


def test_direction_goes_by_role():
    oracle, unlearned = gaussians()
    forward = evaluation.klom(oracle, unlearned)
    backward = evaluation.klom(oracle, unlearned, direction="unlearned||oracle")
    np.testing.assert_array_equal(backward, evaluation.klom(unlearned, oracle))
    assert np.abs(forward - backward).max() > 0.3


def test_extremes_are_zero_and_minus_log_eps():
    sample = np.random.default_rng(0).normal(size=(50, 4))
    same = np.asarray(evaluation.klom(sample, sample))
    assert (same >= 0).all() and same.max() < 1e-6
    # One oracle bin without an unlearned sample: log((1 + eps) / eps) after normalization.
    apart = evaluation.klom(np.zeros((50, 1)), np.ones((50, 1)))
    np.testing.assert_allclose(apart, np.log((1 + 1e-5) / 1e-5), rtol=1e-6)


def test_fixed_range_is_blind_to_shifts_inside_a_bin():
    rng = np.random.default_rng(0)
    oracle, unlearned = 5 + rng.normal(size=(100, 1)), 5 + rng.normal(size=(100, 1)) * 0.2
    assert evaluation.klom(oracle, unlearned, range="fixed") == 0
    assert evaluation.klom(oracle, unlearned) > 0.5
    edges = np.linspace(-100, 100, 21)
    p, q = (np.histogram(s, edges)[0] / 100 for s in (oracle * 10, unlearned * 30 - 70))
    expected = scipy.stats.entropy(p, np.where(p > 0, np.maximum(q, 1e-5), q))
    found = evaluation.klom(oracle * 10, unlearned * 30 - 70, range="fixed")
    np.testing.assert_allclose(found, [expected], rtol=1e-5)


@pytest.mark.parametrize(
    "models, mean, percentile_95",
    [
        (5, 7.9, None),
        (10, 5.6, None),
        (20, 3.1, None),
        (50, 0.90, 1.75),
        (100, 0.35, 0.65),
        (200, 0.15, 0.29),
        (500, 0.05, 0.09),
    ],
)
def test_noise_floor_of_two_samples_of_one_gaussian(models, mean, percentile_95):
    oracle, unlearned = np.random.default_rng(models).normal(size=(2, models, 2000))
    found = np.asarray(evaluation.klom(oracle, unlearned))
    assert found.mean() == pytest.approx(mean, rel=0.1)
    if percentile_95:
        assert np.percentile(found, 95) == pytest.approx(percentile_95, rel=0.15)


def test_floor_is_the_value_of_half_the_oracles_against_the_other_half():
    oracle = np.random.default_rng(0).normal(size=(201, 500))
    floor = evaluation.klom_floor(oracle, jax.random.key(0))
    assert float(floor.mean()) == pytest.approx(0.35, rel=0.1)  # 100 models against 100
    assert not np.array_equal(floor, evaluation.klom_floor(oracle, jax.random.key(1)))
    np.testing.assert_array_equal(floor, jax.jit(evaluation.klom_floor)(oracle, jax.random.key(0)))
    np.testing.assert_array_equal(
        evaluation.klom_floor(oracle, jax.random.key(0), bins=1), np.zeros(500)
    )


def test_halves_of_the_floor_are_disjoint():
    # Half of the oracles sit at 0 and half at 1: equal halves would always score 0.
    oracle = np.repeat([0.0, 1.0], 2)[:, None] + np.zeros((4, 1))
    floors = {float(evaluation.klom_floor(oracle, jax.random.key(k))[0]) for k in range(12)}
    assert {round(floor, 3) for floor in floors} == {0.0, 11.513}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_margins_are_refused_or_nan_under_jit(bad):
    oracle, unlearned = gaussians(examples=3, dtype=np.float32)
    unlearned[4, 1] = bad
    with pytest.raises(
        ValueError, match="finite margins, found NaN or infinity in those of the un"
    ):
        evaluation.klom(oracle, unlearned)
    found = jax.jit(evaluation.klom)(oracle, unlearned)
    assert np.isnan(found).tolist() == [False, True, False]


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((np.zeros((3, 2)), np.zeros((3, 3))), {}, "same examples"),
        ((np.zeros(3), np.zeros(3)), {}, "models, examples"),
        ((np.zeros((0, 3)), np.zeros((2, 3))), {}, "at least two models"),
        ((np.zeros((5, 3)), np.zeros((1, 3))), {}, "at least two models"),
        ((np.zeros((5, 0)), np.zeros((5, 0))), {}, "one example"),
        ((np.zeros((3, 2)),) * 2, {"range": "both"}, "range"),
        ((np.zeros((3, 2)),) * 2, {"direction": "p||q"}, "direction"),
        ((np.zeros((3, 2)),) * 2, {"bins": 0}, "bins >= 1"),
        ((np.zeros((3, 2)),) * 2, {"preset": "paper"}, "preset"),
        ((np.zeros((3, 2)),) * 2, {"preset": "reference", "bins": 10}, "drop either"),
    ],
)
def test_bad_input_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        evaluation.klom(*arguments, **options)


def test_floor_of_too_few_oracles_is_refused():
    with pytest.raises(ValueError, match="at least four oracles"):
        evaluation.klom_floor(np.zeros((3, 5)), jax.random.key(0))
