"""Datamodel matching and oracle matching: the released run, and what both must obey."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_files import load

import mu_jax as mu
from mu_jax.transforms._shared.matching import Recipe, matching_pool

RELEASED = Recipe(epochs=4, batch_size=32, retain_multiplier=3, forget_multiplier=2, shuffle=False)


def predict(params, state, x):
    hidden = jax.nn.relu(x @ params["0.weight"].T + params["0.bias"])
    return hidden @ params["2.weight"].T + params["2.bias"]


MODEL = mu.from_function(predict, mu.losses.cross_entropy)
NAMES = ("0.weight", "0.bias", "2.weight", "2.bias")


def golden():
    return {k: array for k, array in load("dmm_golden.npz").items() if k.startswith("mlp")}


def released_run(arrays):
    """Start, sets and transform of the released run."""
    data = mu.batches(arrays["mlp_x"], arrays["mlp_y"], batch_size=64)
    sets = data.take(arrays["mlp_forget"]), data.take(arrays["mlp_retain_sample"])
    beta = jnp.asarray(arrays["mlp_beta"])

    def attribution(model, variables, forget, examples):
        return beta.sum(axis=0)[examples.index]

    steps = 4
    schedule = optax.exponential_decay(1e-3, steps, 0.95, staircase=True)
    transform = mu.dmm(
        MODEL,
        attribution,
        optax.adam(schedule),
        multiplier=float(arrays["mlp_multiplier"]),
        recipe=RELEASED,
    )
    start = mu.Variables({name: jnp.asarray(arrays[f"mlp_theta0.{name}"]) for name in NAMES})
    return transform, start, sets


def test_golden_run_of_datamodel_matching():
    arrays = golden()
    with jax.enable_x64(True):
        transform, start, sets = released_run(arrays)
        found, info = transform(jax.random.key(0), start, *sets)
        for name in NAMES:
            expected = arrays[f"mlp_theta_dmm.{name}"]
            np.testing.assert_allclose(found.params[name], expected, atol=1e-9, rtol=0)
        logits = predict(found.params, (), jnp.asarray(arrays["mlp_x"]))
        np.testing.assert_allclose(logits, arrays["mlp_logits_after"], atol=1e-7)
    np.testing.assert_allclose(info.details.loss, arrays["mlp_losses"], rtol=1e-6)


def test_a_grid_of_multipliers_is_one_program():
    arrays = golden()
    _, start, sets = released_run(arrays)

    @jax.jit
    @jax.vmap
    def grid(multiplier):
        attribution = lambda model, variables, forget, examples: jnp.ones((100, 10))  # noqa: E731
        unlearn = mu.dmm(MODEL, attribution, optax.sgd(0.1), multiplier=multiplier, recipe=RELEASED)
        return unlearn(jax.random.key(0), start, *sets)[0]

    found = grid(jnp.array([0.0, 0.5]))
    # Without an effect the start matches itself.
    chex.assert_trees_all_close(
        jax.tree.map(lambda x: x[0], found), jax.tree.map(jnp.float32, start), atol=1e-6
    )
    assert not np.allclose(found.params["2.bias"][1], start.params["2.bias"])


def test_oracle_matching_reaches_its_oracle():
    rng = np.random.RandomState(0)
    model = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)
    data = mu.batches(rng.normal(size=(40, 4)), rng.randint(0, 3, 40), batch_size=8)
    forget, retain = mu.split(data, np.arange(10))
    oracles = mu.Variables(jnp.asarray(rng.normal(size=(2, 4, 3)), jnp.float32))
    recipe = Recipe(epochs=100, batch_size=10)
    transform = mu.oracle_matching(model, optax.sgd(0.3), oracles=oracles, recipe=recipe)
    found, _ = transform(jax.random.key(0), mu.Variables(jnp.zeros((4, 3))), forget, retain)
    np.testing.assert_allclose(found.params, oracles.params.mean(axis=0), atol=1e-3)


def test_the_pool_is_copies_of_the_forget_set_and_a_sample_of_the_rest():
    data = mu.batches(np.zeros((30, 1)), np.zeros(30), batch_size=8)
    forget, retain = mu.split(data, [3, 4, 5, 6])
    recipe = Recipe(forget_multiplier=2.5, retain_multiplier=2)
    pool = matching_pool(jax.random.key(0), forget, retain, recipe)
    assert pool.index[:10].tolist() == [3, 4, 5, 6, 3, 4, 5, 6, 3, 4]
    sample = pool.index[10:].tolist()
    assert len(set(sample)) == 8 and sample == sorted(sample) and not set(sample) & {3, 4, 5, 6}
    other = matching_pool(jax.random.key(1), forget, retain, recipe)
    assert other.index[10:].tolist() != sample


@pytest.mark.slow
def test_proximity_and_kl():
    arrays = golden()
    _, start, sets = released_run(arrays)
    moved = {}
    for proximity in (0.0, 10.0):
        recipe = RELEASED._replace(proximity=proximity, distance="kl")
        attribution = lambda model, v, f, e: jnp.eye(10)[e.targets] * 5  # noqa: E731
        unlearn = mu.dmm(MODEL, attribution, optax.sgd(1e-2), recipe=recipe)
        _, info = unlearn(jax.random.key(0), start, *sets)
        moved[proximity] = float(info.edit.update_norm)
    assert 0 < moved[10.0] < moved[0.0]


@pytest.mark.filterwarnings("ignore:The model has forgotten nothing")
def test_iterables_and_streams_give_the_same_answer():
    rng = np.random.RandomState(0)
    inputs, targets = rng.normal(size=(11, 3)).astype(np.float32), np.arange(11) % 2
    sets = mu.split(mu.batches(inputs, targets, batch_size=4), [1, 7])
    streams = mu.split(mu.stream(list(zip(inputs, targets, strict=True)), batch_size=4), [1, 7])
    model = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)
    oracles = mu.Variables(jnp.ones((1, 3, 2)))
    transform = mu.oracle_matching(model, optax.sgd(0.1), oracles=oracles)
    start = mu.Variables(jnp.zeros((3, 2)))
    expected, _ = transform(jax.random.key(0), start, *sets)
    for other in (streams, [list(part) for part in sets]):
        found, _ = transform(jax.random.key(0), start, *other)
        chex.assert_trees_all_close(found, expected, atol=1e-6)


def test_the_recipe_knows_its_pool_and_its_steps():
    recipe = Recipe(epochs=3, batch_size=16, forget_multiplier=2.5, retain_multiplier=4.0)
    assert recipe.pool_sizes(10, 100) == (25, 40)
    assert recipe.num_steps(10, 100) == 3 * 5  # batches of 16 from 65
    assert recipe.pool_sizes(10, 7) == (25, 7)
