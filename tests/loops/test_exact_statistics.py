"""Batch statistics that are exact over a set, and the combinator that refreshes them."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import setting
from trees import assert_close, assert_identical, is_one_sentence, stack

import mu_jax as mu
from mu_jax.data.batches import random_order
from mu_jax.loops import exact_statistics

KEY = jax.random.key(0)
pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")


class Network(nn.Module):
    """Two normalizations, of which the second sees what the first has normalized."""

    momentum: float = 0.9
    frozen: bool = False

    @nn.compact
    def __call__(self, x, train: bool = False):
        norm = nn.BatchNorm(use_running_average=not train or self.frozen, momentum=self.momentum)
        x = norm(nn.Dense(4, name="first")(x))
        x = nn.Dense(3, name="second")(jnp.tanh(3 * x))
        return nn.BatchNorm(use_running_average=not train, momentum=self.momentum, name="last")(x)


def made(**options):
    """A model, its variables with statistics that belong to nothing, and 24 examples."""
    module, x = Network(**options), 2 + jax.random.normal(KEY, (24, 5))
    variables = module.init(KEY, x)
    stats = jax.tree.map(lambda s: s + jax.random.uniform(KEY, s.shape), variables["batch_stats"])
    model = mu.from_linen(module, mu.losses.squared_error)
    return model, variables | {"batch_stats": stats}, x


def data(x, batch_size):
    return mu.batches(x, jnp.zeros((len(x), 3)), batch_size=batch_size)


def dense(variables, name, x):
    layer = variables["params"][name]
    return np.asarray(x, np.float64) @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])


def normalized(variables, name, x, mean, var):
    layer = variables["params"][name]
    return (x - mean) / np.sqrt(var + 1e-5) * np.asarray(layer["scale"]) + np.asarray(layer["bias"])


def second_layer(variables, x, parts):
    """Inputs of the last normalization where the first one takes the statistics of each part."""
    first, found = dense(variables, "first", x), []
    for rows in np.split(first, parts):
        hidden = normalized(variables, "BatchNorm_0", rows, rows.mean(0), rows.var(0))
        found.append(dense(variables, "second", np.tanh(3 * hidden)))
    return np.concatenate(found)


def check(found, name, values, rtol=2e-5):
    stats = found["batch_stats"][name]
    np.testing.assert_allclose(stats["mean"], values.mean(0), rtol=rtol, atol=1e-5)
    np.testing.assert_allclose(stats["var"], values.var(0), rtol=rtol, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.9, pytest.param(0.3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("parts", [1, 3])
def test_they_are_the_mean_and_variance_over_all_batches(parts, momentum):
    model, variables, x = made(momentum=momentum)
    found = exact_statistics(model, variables, data(x, 24 // parts))
    check(found, "BatchNorm_0", dense(variables, "first", x))
    last = second_layer(variables, x, parts)
    means = np.split(last, parts)
    within = np.mean([rows.var(0) for rows in means], axis=0)
    between = np.var([rows.mean(0) for rows in means], axis=0)
    np.testing.assert_allclose(last.var(0), within + between, rtol=1e-9)
    check(found, "last", last)
    assert_identical(found["params"], variables["params"])


def test_sequential_ones_are_those_of_use_whatever_the_batch_size():
    model, variables, x = made()
    found = exact_statistics(model, variables, data(x, 7), sequential=True)
    first = dense(variables, "first", x)
    check(found, "BatchNorm_0", first)
    hidden = normalized(variables, "BatchNorm_0", first, first.mean(0), first.var(0))
    check(found, "last", dense(variables, "second", np.tanh(3 * hidden)))
    apart = exact_statistics(model, variables, data(x, 6))["batch_stats"]["last"]["var"]
    assert np.abs(apart / found["batch_stats"]["last"]["var"] - 1).max() > 1e-3
    # So the model in use normalizes its last layer to mean 0 and variance 1.
    outputs = model.apply(found, x)
    np.testing.assert_allclose(outputs.mean(0), 0, atol=1e-4)


def test_a_batch_with_missing_rows_does_not_count_and_the_key_draws_the_order():
    model, variables, x = made()
    found = exact_statistics(model, variables, data(x, 10), key=KEY)
    order = np.asarray(random_order(jax.random.fold_in(KEY, 0), 24))[:20]
    check(found, "BatchNorm_0", dense(variables, "first", x)[order])
    large = exact_statistics(model, variables, data(x, 1000))
    check(large, "BatchNorm_0", dense(variables, "first", x))
    streamed = exact_statistics(model, variables, list(data(x, 10)))
    check(streamed, "BatchNorm_0", dense(variables, "first", x)[:20])


def test_a_layer_that_training_does_not_move_is_read_and_stays():
    model, variables, x = made(frozen=True)
    found = exact_statistics(model, variables, data(x, 24))
    before = variables["batch_stats"]["BatchNorm_0"]
    assert_identical(found["batch_stats"]["BatchNorm_0"], before)
    first = dense(variables, "first", x)
    hidden = normalized(variables, "BatchNorm_0", first, before["mean"], before["var"])
    check(found, "last", dense(variables, "second", np.tanh(3 * hidden)), rtol=1e-4)


@pytest.mark.quick("nnx")
@pytest.mark.parametrize("name", ["linen", "nnx", "cnn"])
def test_nothing_of_the_old_statistics_remains(name):
    chosen = setting(name)
    _, retain = chosen.sets(batch_size=16)
    found = exact_statistics(chosen.model, chosen.variables, retain, key=KEY)
    params, state = chosen.model.split(chosen.variables)
    other = jax.tree.map(lambda s: 3 * s + 1 if jnp.issubdtype(s.dtype, jnp.floating) else s, state)
    again = exact_statistics(chosen.model, chosen.model.join(params, other), retain, key=KEY)
    assert_close(chosen.model.split(again)[1], chosen.model.split(found)[1], rtol=1e-4)
    moved = mu.refresh_statistics(chosen.model, chosen.variables, retain, key=KEY, epochs=800)
    assert_close(*(chosen.model.split(v)[1] for v in (found, moved)), rtol=0.01, atol=0.01)


def test_what_cannot_be_refreshed_is_one_sentence_or_comes_back():
    model, variables, x = made()
    with pytest.raises(ValueError, match=r"sequential statistics.* found a stream") as error:
        exact_statistics(model, variables, list(data(x, 4)), sequential=True)
    assert is_one_sentence(str(error.value))
    with pytest.raises(ValueError, match="a batch without missing rows, found none") as error:
        exact_statistics(model, variables, data(x, 8).replace(weight=jnp.zeros(24)))
    assert is_one_sentence(str(error.value))
    raw = setting("raw")
    assert_identical(exact_statistics(raw.model, raw.variables, raw.data()), raw.variables)


LINEN = setting("linen")
SETS = LINEN.sets(batch_size=8)
TUNE = mu.finetune(LINEN.model, optax.sgd(0.1))


def test_a_refreshed_transform_changes_statistics_alone():
    plain = TUNE
    after, info = plain(KEY, LINEN.variables, *SETS)
    for mode in ("retain", "retain_sequential"):
        found, own = mu.refreshed(plain, mode)(KEY, LINEN.variables, *SETS)
        assert_identical(found["params"], after["params"])
        assert_identical(own._replace(effect=()), info._replace(effect=()))
        stats = exact_statistics(
            LINEN.model, after, SETS[1], key=None, sequential=mode != "retain"
        )["batch_stats"]
        assert_close(found["batch_stats"], stats, rtol=1e-4)
        assert not np.allclose(
            stats["BatchNorm_0"]["mean"], after["batch_stats"]["BatchNorm_0"]["mean"]
        )
    assert mu.refreshed(plain, "none") is plain
    assert mu.refreshed(mu.ssd(LINEN.model, 1.5)).words == "refreshed(ssd(1.5), 'retain')"


@pytest.mark.slow
def test_it_runs_masked_and_jitted():
    head = mu.masked(mu.refreshed(TUNE), lambda name: "Dense_1" in name)
    found, _ = head(KEY, LINEN.variables, *SETS)
    assert_identical(found["params"]["Dense_0"], LINEN.variables["params"]["Dense_0"])
    jitted, _ = jax.jit(head)(KEY, LINEN.variables, *SETS)
    assert_close(jitted, found)


@pytest.mark.slow
def test_it_runs_mapped_over_an_ensemble_and_chained():
    single = mu.refreshed(mu.ssd(LINEN.model, 1.3))
    found, _ = single(KEY, LINEN.variables, *SETS)
    both = stack([LINEN.variables, LINEN.init(jax.random.key(8))])
    keys = jnp.stack([KEY, KEY])
    many, _ = jax.vmap(single, in_axes=(0, 0, None, None))(keys, both, *SETS)
    assert_close(jax.tree.map(lambda x: x[0], many), found)
    chained, _ = mu.chain(single)(KEY, LINEN.variables, *SETS)
    assert jax.tree.structure(chained) == jax.tree.structure(found)


@pytest.mark.slow
def test_a_mesh_gives_the_same_statistics():
    mesh = mu.data_mesh(jax.devices()[:4])
    expected = exact_statistics(LINEN.model, LINEN.variables, SETS[1])
    found = exact_statistics(LINEN.model, LINEN.variables, mu.shard(SETS[1], mesh))
    assert_close(found, expected, rtol=1e-4)


def test_wrong_modes_and_chains_are_refused_in_one_sentence():
    plain = mu.ssd(LINEN.model, 1.3)
    with pytest.raises(ValueError, match="a mode among none, retain, retain_seq") as error:
        mu.refreshed(plain, "all")
    assert is_one_sentence(str(error.value))
    with pytest.raises(TypeError, match="found a chain: refresh its last member") as error:
        mu.refreshed(mu.chain(plain))
    assert is_one_sentence(str(error.value))
