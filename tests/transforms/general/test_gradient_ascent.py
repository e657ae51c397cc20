"""Gradient ascent on the forget set."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import setting
from trees import assert_close

import mu_jax as mu

KEY = jax.random.key(0)


@pytest.mark.quick("raw")
@pytest.mark.parametrize("name", ["raw", "linen", "nnx"])
def test_the_forget_loss_rises_with_every_step(name):
    chosen = setting(name)
    forget, retain = chosen.sets(batch_size=100)
    unlearn = mu.gradient_ascent(chosen.model, optax.sgd(0.02), steps=6)
    after, info = unlearn(KEY, chosen.variables, forget, retain)
    # The objective is the negative loss.
    assert jnp.all(jnp.diff(-info.details.loss) > 0)
    before = chosen.model.losses(chosen.variables, forget).mean()
    assert chosen.model.losses(after, forget).mean() > before
    assert_close(-info.details.loss[0], before)
    assert (info.steps, info.example_passes) == (6, 36)


def test_one_step_by_hand_without_the_retain_set():
    chosen = setting("raw")
    forget, retain = chosen.sets(batch_size=100)
    unlearn = mu.gradient_ascent(chosen.model, optax.sgd(0.1))
    junk = retain.replace(inputs=retain.inputs * jnp.nan)
    after, _ = unlearn(KEY, chosen.variables, forget, junk)

    def loss(params):
        return chosen.model.losses(chosen.variables._replace(params=params), forget).mean()

    step = optax.tree.scale(0.1, jax.grad(loss)(chosen.variables.params))
    assert_close(after.params, optax.apply_updates(chosen.variables.params, step))


def test_it_is_iau_without_its_correction():
    chosen = setting("raw")
    sets = chosen.sets(batch_size=100)
    ascent = mu.gradient_ascent(chosen.model, optax.sgd(0.1))
    iau = mu.iau(chosen.model, optax.sgd(0.1), retain_weight=0.0)
    found, expected = (t(KEY, chosen.variables, *sets)[0] for t in (ascent, iau))
    assert_close(found, expected)


@pytest.mark.filterwarnings("ignore:The forget set has")
def test_an_example_at_its_cap_pushes_no_further():
    model = mu.from_function(lambda w, state, x: x @ w, lambda f, y: jnp.abs(f - y))
    data = mu.batches(jnp.eye(3), jnp.zeros(3), batch_size=3)
    forget, retain = mu.split(data, [0, 1])
    unlearn = mu.gradient_ascent(model, optax.sgd(0.5), steps=40, cap=3.9)
    after, info = unlearn(KEY, mu.Variables(jnp.array([1.0, -2.0, 0.5])), forget, retain)
    # |w| rises by 1/4 a step from 1 and from 2, and stops beyond 3.9.
    np.testing.assert_allclose(after.params, [4.0, -4.0, 0.5])
    assert abs(info.details.loss[-1] + 3.9) < 1e-6
    assert jnp.all(jnp.diff(info.details.loss)[:12] < 0)
    free, _ = mu.gradient_ascent(model, optax.sgd(0.5), steps=40)(
        KEY, mu.Variables(jnp.array([1.0, -2.0, 0.5])), forget, retain
    )
    np.testing.assert_allclose(free.params, [11.0, -12.0, 0.5])


@pytest.mark.slow
def test_a_cap_out_of_reach_changes_nothing_and_may_be_traced():
    chosen = setting("raw")
    sets = chosen.sets()

    def run(cap):
        unlearn = mu.gradient_ascent(chosen.model, optax.sgd(0.05), steps=6, cap=cap)
        return unlearn(KEY, chosen.variables, *sets)[0].params

    found = jax.jit(jax.vmap(run))(jnp.array([0.0, 1.0, 1e9]))
    for cap, index in ((0.0, 0), (1.0, 1), (None, 2)):
        expected = run(cap) if cap != 0 else chosen.variables.params
        assert_close(jax.tree.map(lambda x, i=index: x[i], found), expected)
    assert not jnp.allclose(found["head"][1], found["head"][2])
