"""Gaussian-Amnesiac: the distribution of the drawn labels, and what is fitted to them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trees import assert_close, assert_identical

import mu_jax as mu
from mu_jax.losses import squared_error
from mu_jax.transforms.general.gaussian_amnesiac import draw_labels

KEY, SGD, N = jax.random.key(0), optax.sgd(0.1), 23
MODEL = mu.from_function(lambda w, state, x: x @ w, squared_error)
START = mu.Variables(jnp.ones(3))
FORGET = [0, 3, 4, 11, 17]


def data(targets=None, **arguments):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(N, 3)).astype(np.float32)
    targets = 40 + 15 * rng.normal(size=N) if targets is None else targets
    return mu.batches(inputs, np.asarray(targets), batch_size=4, **arguments)


def many_draws(forget, retain, **arguments):
    draw = jax.vmap(lambda key: draw_labels(key, forget, retain, **arguments))
    return np.asarray(draw(jax.random.split(KEY, 4000)))


def test_labels_have_the_mean_and_deviation_of_all_labels():
    forget, retain = mu.split(data(), FORGET)
    labels = np.asarray(data().targets)
    drawn = many_draws(forget, retain)
    assert drawn.shape == (4000, 5)
    mean, deviation = labels.mean(), labels.std(ddof=1)
    assert not np.isclose(mean, np.asarray(retain.targets).mean(), rtol=1e-3)
    normal = (drawn - mean) / deviation
    np.testing.assert_allclose(normal.mean(0), 0, atol=4 / 4000**0.5)
    np.testing.assert_allclose(normal.std(0), 1, atol=4 / 8000**0.5)
    np.testing.assert_allclose(np.corrcoef(normal.T), np.eye(5), atol=0.07)
    # The draw itself, to the digit: the deviation is that of a sample.
    draw = draw_labels(KEY, forget, retain)
    np.testing.assert_allclose(draw, mean + deviation * jax.random.normal(KEY, (5,)), rtol=1e-5)


def test_labels_of_several_outputs_have_a_distribution_each():
    targets = np.stack([np.arange(N), 100.0 - 3 * np.arange(N)], axis=1)
    drawn = many_draws(*mu.split(data(targets), FORGET))
    assert drawn.shape == (4000, 5, 2)
    np.testing.assert_allclose(drawn.mean((0, 1)), targets.mean(0), rtol=0.05)
    np.testing.assert_allclose(drawn.std((0, 1)), targets.std(0, ddof=1), rtol=0.05)


def test_a_weight_counts_a_label_that_often_and_0_not_at_all():
    times = np.arange(N) % 3
    targets = np.where(times > 0, np.arange(N), np.nan)
    weighted = mu.split(data(targets, weight=times), FORGET)
    copies = np.repeat(np.arange(N), times)
    found = draw_labels(KEY, *weighted)
    noise = jax.random.normal(KEY, (5,))
    np.testing.assert_allclose(found, copies.mean() + copies.std(ddof=1) * noise, rtol=1e-5)


def test_labels_stay_between_the_bounds_that_are_given():
    sets = mu.split(data(), FORGET)
    free, clipped = many_draws(*sets), many_draws(*sets, clip=(30.0, 50.0))
    assert free.min() < 0 and free.max() > 80
    np.testing.assert_array_equal(clipped, np.clip(free, 30.0, 50.0))


def test_integer_labels_stay_integers_among_those_there_are():
    drawn = many_draws(*mu.split(data(np.arange(N) % 4 + 2), FORGET))
    assert drawn.dtype == np.int32
    assert np.unique(drawn).tolist() == [2, 3, 4, 5]


def test_it_is_a_fit_to_labels_drawn_once():
    forget, retain = mu.split(data(), FORGET)
    unlearn = mu.gaussian_amnesiac(MODEL, SGD, epochs=3)
    after, info = unlearn(KEY, START, forget, retain)
    labels = draw_labels(jax.random.fold_in(KEY, 0), forget, retain)
    everything = mu.concatenate(retain, forget.replace(targets=labels))
    state, expected = mu.fit(
        MODEL,
        mu.supervised(MODEL),
        SGD,
        START,
        everything,
        key=jax.random.fold_in(KEY, 1),
        epochs=3,
    )
    assert_identical(after, state.variables)
    assert_identical(info.details, expected)
    assert (info.steps, info.example_passes) == (18, 3 * N)


def test_it_forgets_and_keeps():
    """A table of one entry per example: retained labels come back, forgotten ones do not."""
    table = mu.from_function(lambda w, state, x: w[x], squared_error)
    labels = jnp.linspace(0, 10, N)
    everything = mu.batches(jnp.arange(N), labels, batch_size=N)
    unlearn = mu.gaussian_amnesiac(table, optax.sgd(1.0), epochs=200)
    after, _ = unlearn(KEY, mu.Variables(labels), *mu.split(everything, FORGET))
    moved = jnp.abs(after.params - labels)
    rows = np.isin(np.arange(N), FORGET)
    assert jnp.all(moved[~rows] < 1e-4) and jnp.all(moved[rows] > 1e-2)


def test_every_key_draws_its_own_labels():
    sets = mu.split(data(), FORGET)
    unlearn = mu.gaussian_amnesiac(MODEL, SGD, epochs=2)
    keys = jax.random.split(KEY, 3)
    found, _ = jax.jit(jax.vmap(lambda key: unlearn(key, START, *sets)))(keys)
    expected = jnp.stack([unlearn(key, START, *sets)[0].params for key in keys])
    assert_close(found.params, expected)
    assert len(np.unique(np.asarray(found.params))) == 9


@pytest.mark.quick("None")
@pytest.mark.parametrize("targets", [None, np.arange(N) % 4])
def test_streams_draw_the_same_labels(targets):
    everything = data(targets)
    pairs = list(zip(np.asarray(everything.inputs), np.asarray(everything.targets), strict=True))
    streams = mu.split(mu.stream(pairs, batch_size=4), FORGET)
    sets = mu.split(everything, FORGET)
    assert_close(draw_labels(KEY, *streams), draw_labels(KEY, *sets))
    unlearn = mu.gaussian_amnesiac(MODEL, SGD, epochs=2)
    found, expected = (unlearn(KEY, START, *x)[0] for x in (streams, sets))
    assert_close(found, expected)
