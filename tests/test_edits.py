"""Edits against values worked out by hand, and the properties that the methods rely on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trees import assert_close, assert_identical

from mu_jax import edits

rng = np.random.default_rng(0)


def tree(scale=1.0):
    leaves = {"a": (7, 5), "b": (5,), "c": (5, 3)}
    return {
        name: jnp.asarray(scale * rng.normal(size=s), jnp.float32) for name, s in leaves.items()
    }


def importances():
    return jax.tree.map(jnp.square, tree()), jax.tree.map(jnp.square, tree())


def dampened(theta, forget, full, **options):
    updates = edits.dampen(theta, forget, full, **options)
    return optax.apply_updates(theta, updates)


# --- dampen ---


def test_dampen_against_the_check_vector():
    theta = jnp.array([1.0, 1.0, 1.0, 1.0, 1.0, -2.0])
    full = jnp.array([1.0, 1.0, 1.0, 0.0, 0.0, 3.0])
    forget = jnp.array([4.0, 4.4, 8.0, 1.0, 0.0, 60.0])
    found = dampened(theta, forget, full, alpha=4.0, dampening=2.0)
    np.testing.assert_allclose(found, [1.0, 0.4545454545, 0.25, 0.0, 1.0, -0.2], rtol=1e-6)


def test_dampen_clips_at_one_where_lambda_exceeds_alpha():
    ones, forget = jnp.ones(4), jnp.array([4.0, 4.4, 8.0, 1.5])
    found = dampened(ones, forget, ones, alpha=0.5, dampening=2.0)
    np.testing.assert_allclose(found, [0.5, 0.4545454545, 0.25, 1.0], rtol=1e-6)
    found = dampened(ones, forget, ones, alpha=0.5, dampening=2.0, upper=0.4)
    np.testing.assert_allclose(found, [0.4, 0.4, 0.25, 0.4], rtol=1e-6)


def test_dampen_raises_to_the_exponent_before_it_clips():
    ones = jnp.ones(2)
    found = dampened(ones, jnp.array([4.0, 3.0]), ones, alpha=2.0, dampening=2.0, exponent=2.0)
    np.testing.assert_allclose(found, [0.25, 4 / 9], rtol=1e-6)


def test_dampen_selects_strictly_and_never_where_the_forget_importance_is_0():
    ones = jnp.ones(3)
    found = dampened(ones, jnp.array([2.0, 0.0, 0.0]), jnp.array([1.0, 0.0, 1.0]), alpha=2.0)
    np.testing.assert_array_equal(found, ones)
    chosen = edits.selected(jnp.array([2.0, 0.0, 1.0]), jnp.array([1.0, 0.0, 0.0]), 2.0)
    assert chosen.tolist() == [False, False, True]


@pytest.mark.parametrize(("alpha", "dampening"), [(2.0, 1.0), (2.0, 0.5), (1.5, 1.4)])
def test_beta_stays_below_lambda_over_alpha(alpha, dampening):
    theta, (forget, full) = tree(), importances()
    found = dampened(theta, forget, full, alpha=alpha, dampening=dampening)
    chosen = edits.selected(forget, full, alpha)
    for before, after, mask in zip(*map(jax.tree.leaves, (theta, found, chosen)), strict=True):
        assert mask.any()
        beta = np.asarray(after / before)
        assert np.all(beta[mask] < dampening / alpha * (1 + 1e-6))
        np.testing.assert_array_equal(np.asarray(after)[~mask], np.asarray(before)[~mask])


def test_a_common_factor_of_the_importances_changes_nothing():
    theta, (forget, full) = tree(), importances()
    updates = edits.dampen(theta, forget, full, alpha=2.0)
    forget, full = (jax.tree.map(lambda x: x * 2.0**-40, x) for x in (forget, full))
    assert_identical(edits.dampen(theta, forget, full, alpha=2.0), updates)


def test_dampening_twice_with_the_same_importances_dampens_twice():
    theta, forget, full = jnp.ones(2), jnp.array([4.0, 1.0]), jnp.ones(2)
    once = dampened(theta, forget, full, alpha=2.0)
    np.testing.assert_allclose(dampened(once, forget, full, alpha=2.0), [1 / 16, 1.0])


def test_dampen_works_in_float32_on_bfloat16_parameters():
    theta = jnp.full((1,), 1.5, jnp.bfloat16)
    updates = edits.dampen(theta, jnp.array([3.0]), jnp.array([1.0]), alpha=2.0)
    assert updates.dtype == jnp.bfloat16
    assert edits.apply(theta, updates) == jnp.asarray(0.5, jnp.bfloat16)


def test_dampen_takes_traced_numbers():
    theta, (forget, full) = tree(), importances()
    alphas, lambdas = jnp.array([1.5, 3.0]), jnp.array([0.5, 1.0])

    def edit(alpha, dampening):
        return edits.dampen(theta, forget, full, alpha=alpha, dampening=dampening)

    found = jax.jit(jax.vmap(edit))(alphas, lambdas)
    for i, (alpha, dampening) in enumerate(zip([1.5, 3.0], [0.5, 1.0])):
        assert_close(jax.tree.map(lambda x, i=i: x[i], found), edit(alpha, dampening))


# --- ratios and the adaptive threshold ---


def test_ratios_of_zeros():
    found = edits.ratios(jnp.array([0.0, 1.0, 6.0]), jnp.array([0.0, 0.0, 2.0]))
    np.testing.assert_array_equal(found, [0.0, np.inf, 3.0])
    assert edits.largest({"a": found, "b": jnp.zeros(2)}) == np.inf


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
def test_adaptive_alpha_is_a_pooled_percentile(fraction):
    forget, full = importances()
    pooled = np.concatenate(
        [np.ravel(f / g) for f, g in zip(jax.tree.leaves(forget), jax.tree.leaves(full))]
    )
    expected = np.percentile(pooled, 100 - np.log(1 + 100 * fraction))
    found = edits.adaptive_alpha(forget, full, fraction)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_adaptive_alpha_leaves_out_what_has_no_ratio():
    forget, full = importances()
    more = {**forget, "d": jnp.array([0.0, 5.0])}, {**full, "d": jnp.zeros(2)}
    assert edits.adaptive_alpha(*more, 0.1) == edits.adaptive_alpha(forget, full, 0.1)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
def test_adaptive_alpha_selects_the_promised_share(fraction):
    forget, full = (jnp.asarray(rng.exponential(size=5000), jnp.float32) for _ in range(2))
    chosen = edits.selected(forget, full, edits.adaptive_alpha(forget, full, fraction))
    promised = np.log(1 + 100 * fraction) / 100 * 5000
    assert abs(int(chosen.sum()) - promised) <= 1


# --- the report, and how updates are applied ---


def test_summary_against_explicit_counts():
    before = {"a": jnp.array([3.0, 0.0, 4.0]), "b": jnp.array([[12.0]])}
    after = {"a": jnp.array([3.0, 2.0, 3.0]), "b": jnp.array([[12.0]])}
    found = edits.summarize(before, after)
    assert found.changed == 0.5
    np.testing.assert_allclose(found.changed_by_leaf["a"], 2 / 3, rtol=1e-6)
    assert found.changed_by_leaf["b"] == 0
    np.testing.assert_allclose(found.update_norm, np.sqrt(5), rtol=1e-6)
    np.testing.assert_allclose(found.update_norm_by_leaf["a"], np.sqrt(5), rtol=1e-6)
    assert found.update_norm_by_leaf["b"] == 0
    np.testing.assert_allclose(found.params_norm, 13.0, rtol=1e-6)
    assert found.finite


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_summary_sees_what_is_not_finite(bad):
    before = tree()
    assert not edits.summarize(before, {**before, "b": before["b"].at[2].set(bad)}).finite


def test_apply_adds_in_float32():
    params = jnp.full((3,), 256.0, jnp.bfloat16)
    updates = jnp.array([1.0, 2.0, 3.0], jnp.float32)
    found = edits.apply(params, updates)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found.astype(jnp.float32), [256.0, 258.0, 260.0])


def test_where_holds_back_momentum_and_decay():
    params = tree()
    mask = jax.tree.map(lambda x: x > 0, params)
    optimizer = optax.chain(optax.adamw(0.1, weight_decay=0.5), edits.where(mask))
    state, now = optimizer.init(params), params
    for _ in range(3):
        updates, state = optimizer.update(params, state, now)
        now = optax.apply_updates(now, updates)
    for before, after, kept in zip(*map(jax.tree.leaves, (params, now, mask)), strict=True):
        np.testing.assert_array_equal(np.asarray(after == before), ~np.asarray(kept))


@pytest.mark.parametrize("norm", ["global", "per_leaf"])
def test_normalized_steps_have_the_size_of_the_parameters(norm):
    params, grads = tree(), {**tree(1e-3), "b": jnp.zeros(5)}
    transformation = edits.normalized(0.01, norm)
    updates, _ = transformation.update(grads, transformation.init(params), params)
    np.testing.assert_array_equal(updates["b"], 0.0)
    if norm == "global":
        size, length = optax.tree.norm(params), optax.tree.norm(grads)
        assert_close(updates, jax.tree.map(lambda g: -0.01 * size * g / length, grads))
        return
    for name in ("a", "c"):
        size = jnp.linalg.norm(params[name].ravel())
        length = jnp.linalg.norm(grads[name].ravel())
        assert_close(updates[name], -0.01 * size * grads[name] / length)


def test_a_normalized_step_on_nothing_is_nothing():
    transformation = edits.normalized(0.01)
    updates, _ = transformation.update({"a": jnp.zeros(3)}, None, {"a": jnp.ones(3)})
    np.testing.assert_array_equal(updates["a"], 0.0)
