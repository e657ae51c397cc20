"""Per-example losses, and the sum that silences padding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax import losses


def test_cross_entropy_is_minus_the_log_probability_of_the_label():
    logits = jax.random.normal(jax.random.key(0), (5, 3))
    labels = jnp.array([0, 2, 1, 1, 0])
    expected = [-jnp.log(jax.nn.softmax(row)[label]) for row, label in zip(logits, labels)]
    np.testing.assert_allclose(losses.cross_entropy(logits, labels), expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3), (4, 2, 3)])
def test_squared_error_is_a_mean_over_everything_but_the_examples(shape):
    outputs, targets = jax.random.normal(jax.random.key(0), (2, *shape))
    found = losses.squared_error(outputs, targets)
    expected = [np.mean((np.asarray(o) - np.asarray(t)) ** 2) for o, t in zip(outputs, targets)]
    assert found.shape == (4,)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_squared_error_drops_a_last_axis_that_the_targets_lack():
    outputs = jnp.arange(4.0)[:, None]
    np.testing.assert_array_equal(losses.squared_error(outputs, jnp.ones(4)), [1, 0, 1, 4])


@pytest.mark.parametrize("shape", [(4,), (4, 1), (2, 4), (4, 2, 1)])
def test_squared_error_never_broadcasts(shape):
    outputs = jnp.zeros((4, 2))
    with pytest.raises(ValueError, match=r"^expected targets of shape \(4, 2\).*: reshape"):
        losses.squared_error(outputs, jnp.zeros(shape))


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_weight_zero_silences_what_is_not_finite(bad):
    values, weight = jnp.array([1.0, bad, 3.0]), jnp.array([2.0, 0.0, 0.5])
    assert losses.weighted_sum(values, weight) == 3.5


def test_a_value_that_counts_is_never_silenced():
    assert jnp.isnan(losses.weighted_sum(jnp.array([1.0, jnp.nan]), jnp.array([1.0, 0.1])))


@pytest.mark.parametrize("shape", [(4,), (4, 3)])
def test_the_quantile_loss_is_a_sum_over_quantiles_and_a_mean_over_hours(shape):
    keys = jax.random.split(jax.random.key(0))
    outputs, targets = jax.random.normal(keys[0], (*shape, 3)), jax.random.normal(keys[1], shape)
    expected = np.zeros(4)
    for place in np.ndindex(shape):
        for q, f in zip((0.1, 0.5, 0.9), outputs[place]):
            error = float(targets[place] - f)
            expected[place[0]] += (q * error if error > 0 else (q - 1) * error) / (targets.size / 4)
    np.testing.assert_allclose(losses.quantile_loss(outputs, targets), expected, rtol=1e-5)


def test_the_median_alone_has_half_of_the_absolute_error():
    outputs, targets = jax.random.normal(jax.random.key(0), (2, 5, 3))
    found = losses.quantile_loss(outputs[..., None], targets, quantiles=(0.5,))
    np.testing.assert_allclose(found, losses.absolute_error(outputs, targets) / 2, rtol=1e-6)


def test_the_best_constants_for_the_quantile_loss_are_the_quantiles():
    targets = jnp.arange(101.0)
    grid = jnp.arange(101.0)
    forecasts = jnp.broadcast_to(grid[:, None, None], (101, 101, 3))
    by_quantile = [
        jax.vmap(lambda f, q=q: losses.quantile_loss(f[:, :1], targets, quantiles=(q,)).mean())
        for q in (0.1, 0.5, 0.9)
    ]
    assert [int(found(forecasts).argmin()) for found in by_quantile] == [10, 50, 90]


def test_the_quantile_loss_never_broadcasts():
    with pytest.raises(
        ValueError, match=r"^expected outputs of shape \(4, 2, 3\), .*\(4, 2\): cha"
    ):
        losses.quantile_loss(jnp.zeros((4, 2)), jnp.zeros((4, 2)))


def test_binary_cross_entropy_is_the_mean_over_labels():
    logits = jax.random.normal(jax.random.key(0), (5, 3))
    labels = jax.random.bernoulli(jax.random.key(1), 0.5, (5, 3)).astype(jnp.int32)
    chance = jax.nn.sigmoid(logits)
    expected = -jnp.log(jnp.where(labels == 1, chance, 1 - chance)).mean(1)
    np.testing.assert_allclose(losses.binary_cross_entropy(logits, labels), expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"^expected targets of shape \(5, 3\)"):
        losses.binary_cross_entropy(logits, labels[:, 0])
