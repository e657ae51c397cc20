"""Linear mode connectivity against closed forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import setting
from trees import assert_close, is_one_sentence

import mu_jax as mu
from mu_jax.probes import barrier, linear_mode_connectivity

WELL = mu.from_function(lambda w, state, x: w @ x.T, lambda z, y: (z**2 - y) ** 2)
LINEAR = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)


def ones(count=3):
    return mu.batches(jnp.ones((count, 1)), jnp.ones(count), batch_size=2)


def test_two_minima_of_a_double_well_have_the_barrier_of_its_middle():
    ends = (mu.Variables(jnp.array([-1.0])), mu.Variables(jnp.array([1.0])))
    found = linear_mode_connectivity(WELL, *ends, ones())
    w = np.linspace(-1, 1, 11)
    np.testing.assert_allclose(found.shares, np.linspace(0, 1, 11), rtol=1e-6)
    np.testing.assert_allclose(found.errors, (w**2 - 1) ** 2, atol=1e-6)
    assert float(found.barrier) == pytest.approx(1.0)
    other = linear_mode_connectivity(WELL, *ends, ones(), points=4)
    assert float(other.barrier) == pytest.approx((1 / 9 - 1) ** 2)


def test_a_convex_loss_has_none_and_unequal_ends_are_no_barrier():
    x = jax.random.normal(jax.random.key(0), (20, 4))
    data = mu.batches(x, x.sum(1), batch_size=7)
    ends = [mu.Variables(scale * jnp.ones(4)) for scale in (3.0, 1.0)]
    found = linear_mode_connectivity(LINEAR, *ends, data)
    share, norm = np.linspace(0, 1, 11), np.mean(np.asarray(x.sum(1)) ** 2)
    np.testing.assert_allclose(found.errors, norm * (2 - 2 * share) ** 2, rtol=1e-4, atol=1e-5)
    assert float(found.barrier) == 0.0 < float(found.errors[0])


def test_the_barrier_is_the_height_above_the_line_between_the_ends():
    errors = np.random.default_rng(0).random((5, 3, 11))
    share = np.linspace(0, 1, 11)
    line = errors[..., :1] + share * (errors[..., -1:] - errors[..., :1])
    np.testing.assert_allclose(barrier(errors), (errors - line).max(-1), rtol=1e-5)
    assert (np.asarray(barrier(errors)) >= 0).all()
    for wrong in (0.5, [0.1, 0.2]):
        with pytest.raises(ValueError, match="three points or more") as error:
            barrier(wrong)
        assert is_one_sentence(str(error.value))


def test_another_metric_and_weights_of_examples_count():
    data = mu.batches(
        jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]),
        jnp.array([0, 1, 1]),
        batch_size=2,
        weight=jnp.array([1.0, 1.0, 2.0]),
    )
    model = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)
    right, wrong = (mu.Variables(sign * jnp.eye(2)) for sign in (1.0, -1.0))
    found = linear_mode_connectivity(
        model, right, wrong, data, points=3, metric=lambda z, y: z.argmax(-1) != y
    )
    assert found.errors[jnp.array([0, 2])].tolist() == [0.5, 0.5]


@pytest.mark.slow
def test_batch_statistics_are_interpolated_or_refreshed_and_programs_agree():
    chosen = setting("linen")
    ends = chosen.variables, chosen.init(jax.random.key(8))
    _, retain = chosen.sets(batch_size=8)
    plain = linear_mode_connectivity(chosen.model, *ends, retain, points=3)
    middle = jax.tree.map(lambda a, b: (a + b) / 2, *ends)
    expected = mu.outputs(chosen.model, middle, retain)
    losses = chosen.model.loss(expected, retain.targets)
    assert float(plain.errors[1]) == pytest.approx(float(losses.mean()), rel=1e-5)
    found = linear_mode_connectivity(chosen.model, *ends, retain, points=3, refresh=retain)
    exact = mu.loops.exact_statistics(chosen.model, middle, retain)
    losses = chosen.model.loss(mu.outputs(chosen.model, exact, retain), retain.targets)
    assert float(found.errors[1]) == pytest.approx(float(losses.mean()), rel=1e-4)

    def both(first, second, data):
        return linear_mode_connectivity(chosen.model, first, second, data, points=3)

    assert_close(jax.jit(both)(*ends, retain), plain, rtol=1e-4)


def test_ends_of_two_kinds_and_too_few_points_are_refused_in_one_sentence():
    start = mu.Variables(jnp.ones(4))
    for other in (mu.Variables(jnp.ones(3)), mu.Variables({"w": jnp.ones(4)})):
        with pytest.raises(ValueError, match="one structure at both ends") as error:
            linear_mode_connectivity(LINEAR, start, other, ones())
        assert is_one_sentence(str(error.value))
    with pytest.raises(ValueError, match="points"):
        linear_mode_connectivity(LINEAR, start, start, ones(), points=2)
