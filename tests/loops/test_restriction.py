"""Gradient restriction against double differentiation, at dead units, in parts and on a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import setting
from trees import assert_close

import mu_jax as mu
from mu_jax.loops.gradients import Term, micro_batches, plain, total
from mu_jax.loops.restriction import restricted_loss, safe_sqrt, unit
from mu_jax.losses import cross_entropy, weighted_sum

rng = np.random.default_rng(0)
ALPHA = 0.7
NORMS = ["per_leaf", "global"]


def network(params, x):
    return jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]


def dead_network(params, x):
    return jax.nn.relu(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]


def arrays(bias=0.0):
    shapes = {"w1": (4, 5), "b1": (5,), "w2": (5, 3), "b2": (3,)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    params["b1"] = params["b1"] + bias
    return params, rng.normal(size=(6, 4)), rng.integers(3, size=6)


def batch_of(x, y, weight=None):
    weight = np.ones(len(y)) if weight is None else weight
    return mu.Batch(x, y, weight, np.arange(len(y)))


def terms(params, batch, apply=network):
    losses = cross_entropy(apply(params, batch.inputs), batch.targets)
    return {"loss": Term(weighted_sum(losses, batch.weight), batch.weight.sum())}, ()


def norms(grads, norm):
    """Written out with roots of sums of squares."""
    squares = [jnp.sum(g * g) for g in jax.tree.leaves(grads)]
    return jnp.sqrt(sum(squares)) if norm == "global" else sum(map(jnp.sqrt, squares))


def explicit(losses, norm):
    """The restricted loss as a formula, to be differentiated twice by JAX."""

    def value(params):
        if norm != "per_example":
            mean, grads = jax.value_and_grad(lambda p: losses(p).mean())(params)
            return mean + ALPHA * norms(grads, norm)
        grads = jax.jacobian(losses)(params)
        squares = sum(jnp.square(g).reshape(6, -1).sum(1) for g in jax.tree.leaves(grads))
        return (losses(params) + ALPHA * jnp.sqrt(squares)).mean()

    return value


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("norm", [*NORMS, "per_example"])
def test_loss_and_gradient_against_the_formula(norm):
    params, x, y = arrays()

    def losses(params):
        return cross_entropy(network(params, x), y)

    found = jax.jit(jax.value_and_grad(restricted_loss(losses, ALPHA, norm)))(params)
    expected = jax.jit(jax.value_and_grad(explicit(losses, norm)))(params)
    assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("norm", NORMS)
def test_the_seam_gives_the_gradient_of_the_restricted_loss(norm):
    params, x, y = arrays()
    weight = np.arange(6.0)
    batch = batch_of(x, y, weight)

    def mean(params):
        return jnp.average(cross_entropy(network(params, x), y), weights=weight)

    def formula(params):
        return mean(params) + ALPHA * norms(jax.grad(mean)(params), norm)

    seam = mu.gradient_restriction(ALPHA, norm)
    grads, found, _ = jax.jit(seam, static_argnums=0)(terms, params, batch)
    expected, value = jax.jit(lambda p: (jax.grad(formula)(p), mean(p)))(params)
    assert_close(grads, expected, rtol=1e-12, atol=1e-14)
    # The terms are those of the loss itself: the penalty has no value of its own.
    np.testing.assert_allclose(total(found), value, rtol=1e-12)


def test_the_norms_are_three_different_penalties():
    params, x, y = arrays()

    def losses(params):
        return cross_entropy(network(params, x), y)

    @jax.jit
    def penalties(params):
        values = [restricted_loss(losses, ALPHA, norm)(params) for norm in (*NORMS, "per_example")]
        return [value - losses(params).mean() for value in values]

    per_leaf, whole, per_example = map(float, penalties(params))
    assert whole < per_leaf <= np.sqrt(4) * whole
    assert whole < per_example


def test_without_alpha_it_is_the_plain_gradient():
    params, x, y = arrays()
    seams = mu.gradient_restriction(0.0), plain
    found, expected = (jax.jit(s, static_argnums=0)(terms, params, batch_of(x, y)) for s in seams)
    assert_close(found, expected)


# --- norms of 0 ---


def test_dead_units_are_finite_and_count_for_nothing():
    params, x, y = arrays(bias=-100.0)
    hidden = {name: params[name] for name in ("w1", "b1", "w2")}

    def losses(params):
        return cross_entropy(dead_network(params, x), y)

    def alone(b2):
        return losses({**hidden, "b2": b2})

    def dead(params, batch):
        return terms(params, batch, dead_network)

    def both(params, norm):
        whole = jax.value_and_grad(restricted_loss(losses, ALPHA, norm))(params)
        return whole, jax.value_and_grad(restricted_loss(alone, ALPHA, norm))(params["b2"])

    for norm in (*NORMS, "per_example"):
        (value, grads), (kept, expected) = jax.jit(both, static_argnums=1)(params, norm)
        np.testing.assert_allclose(value, kept, rtol=1e-14)
        np.testing.assert_allclose(grads["b2"], expected, rtol=1e-13)
        assert all(not grads[name].any() for name in hidden)
        if norm in NORMS:
            seam = jax.jit(mu.gradient_restriction(ALPHA, norm), static_argnums=0)
            assert_close(seam(dead, params, batch_of(x, y))[0], grads, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("norm", [*NORMS, "per_example"])
def test_a_gradient_of_0_everywhere(norm):
    loss = restricted_loss(lambda p: 0 * p["a"], 1.0, norm)
    value, grads = jax.jit(jax.value_and_grad(loss))({"a": np.ones(6)})
    assert value == 0
    np.testing.assert_array_equal(grads["a"], 0.0)


def test_safe_root_and_unit_vectors():
    slope, units = jax.jit(jax.grad(safe_sqrt)), jax.jit(unit, static_argnums=1)
    assert slope(0.0) == 0
    assert slope(4.0) == 0.25
    tree = {"a": jnp.array([3.0, 4.0]), "b": jnp.zeros(2), "c": jnp.array([12.0])}
    np.testing.assert_allclose(units(tree, "per_leaf")["a"], [0.6, 0.8])
    np.testing.assert_allclose(units(tree, "global")["c"], [12 / 13])
    np.testing.assert_array_equal(units(tree, "per_leaf")["b"], 0.0)
    np.testing.assert_array_equal(units({"b": jnp.zeros(2)}, "global")["b"], 0.0)


# --- in a fit ---


@pytest.mark.quick("global")
@pytest.mark.parametrize("norm", NORMS)
def test_in_parts_the_norm_is_that_of_the_whole_batch(norm):
    params, x, y = arrays()
    batch = batch_of(x, y, np.array([1.0, 2.0, 0.5, 1.0, 0.0, 3.0]))
    seam = mu.gradient_restriction(ALPHA, norm)
    parts = mu.gradient_restriction(ALPHA, norm, gradients=micro_batches(3))
    expected, found = (jax.jit(s, static_argnums=0)(terms, params, batch) for s in (seam, parts))
    assert_close(found[0], expected[0], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(total(found[1]), total(expected[1]), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.quick("per_leaf")
@pytest.mark.parametrize("norm", NORMS)
def test_a_fit_on_a_mesh_equals_one_device(norm):
    with jax.enable_x64(False):
        chosen = setting("raw")
        unlearn = mu.finetune(
            chosen.model,
            optax.sgd(0.1),
            epochs=2,
            gradients=mu.gradient_restriction(0.05, norm),
        )
        forget, retain = chosen.sets(batch_size=8)
        given = (jax.random.key(0), chosen.variables, forget)
        expected = unlearn(*given, retain)
        devices = mu.data_mesh(jax.devices()[:2])
        found = unlearn(*given[:2], mu.shard(forget, devices), mu.shard(retain, devices))
        assert_close(found, expected)


@pytest.mark.slow
def test_a_restricted_fit_ends_with_smaller_gradients():
    with jax.enable_x64(False):
        chosen = setting("raw")
        given = (jax.random.key(0), chosen.variables, *chosen.sets(batch_size=16))

        def last_norm(gradients):
            unlearn = mu.finetune(chosen.model, optax.sgd(0.1), epochs=30, gradients=gradients)
            return unlearn(*given)[0]

        statistic = mu.statistics.mean_gradient(chosen.model)
        free, restricted = (
            optax.tree.norm(mu.collect(statistic, last_norm(g), given[3]).value)
            for g in (None, mu.gradient_restriction(0.5, "global"))
        )
        assert restricted < 0.85 * free
