"""Influence scores against gradients of single examples and the inverse as a matrix, in float64."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mu_jax as mu
from mu_jax.attribution import influence_scores
from mu_jax.statistics.curvature import kronecker_factors

N, TARGETS, CLASSES = 7, 5, 3
WEIGHT = np.array([1, 0.5, 0, 1, 2, 1, 1])


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


class Net(nn.Module):
    """A convolution, a scale, a dense layer, and a table of embeddings."""

    @nn.compact
    def __call__(self, x):
        image, word = x
        h = nn.tanh(nn.Conv(3, (2, 2), param_dtype=float)(image))
        h = nn.LayerNorm(param_dtype=float)(h).mean((1, 2)) + nn.Embed(4, 3, param_dtype=float)(
            word
        )
        return nn.Dense(CLASSES, param_dtype=float)(h)


@functools.cache
def case():
    rng = np.random.default_rng(0)

    def some(count):
        inputs = rng.normal(size=(count, 3, 3, 2)), rng.integers(0, 4, count)
        return inputs, rng.integers(0, CLASSES, count)

    (inputs, labels), (others, wanted) = some(N), some(TARGETS)
    data = mu.batches(inputs, labels, batch_size=3, weight=WEIGHT)
    model = mu.from_linen(Net(), mu.losses.cross_entropy)
    variables = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape)), Net().init(jax.random.key(0), inputs)
    )
    factors = kronecker_factors(model, variables, data)
    return model, variables, factors, data, mu.batches(others, wanted, batch_size=2)


def gradients(model, variables, data, measure):
    params, state = model.split(variables)
    flat, unravel = jax.flatten_util.ravel_pytree(params)

    @jax.jit
    def gradient(row, label):
        def value(flat):
            logits = model.predict(unravel(flat), state, jax.tree.map(lambda x: x[None], row))[0]
            log_p = jax.nn.log_softmax(logits)[label]
            return -(log_p - jnp.log1p(-jnp.exp(log_p))) if measure == "margin" else -log_p

        return jax.grad(value)(flat)

    rows = [jax.tree.map(lambda x, i=i: x[i], data.inputs) for i in range(data.num_examples)]
    return np.stack([gradient(row, int(y)) for row, y in zip(rows, data.targets)])


def expected(of):
    model, variables, factors, data, targets = case()
    flat, unravel = jax.flatten_util.ravel_pytree(model.params(variables))
    inverse = factors.inverse(0.2)
    matrix = np.stack(
        [jax.flatten_util.ravel_pytree(inverse(unravel(e)))[0] for e in jnp.eye(flat.size)]
    )
    own, theirs = (
        gradients(model, variables, data, "loss"),
        gradients(model, variables, targets, of),
    )
    return WEIGHT[:, None] * (own @ matrix @ theirs.T)


@pytest.mark.slow
@pytest.mark.quick("margin")
@pytest.mark.parametrize("of", ["loss", "margin"])
def test_scores_are_inner_products_in_the_inverse(of):
    found = influence_scores(*case(), damping=0.2, of=of)
    np.testing.assert_allclose(found, expected(of), rtol=1e-9, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
def test_meshes_and_batches_do_not_matter(kind):
    model, variables, factors, data, targets = case()
    mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,), devices=jax.devices()[:2])
    sharded = mu.shard(data.replace(batch_size=4), mesh), mu.shard(targets, mesh)
    for given in (sharded, (data.replace(batch_size=7), targets.replace(batch_size=5))):
        found = influence_scores(model, variables, factors, *given, damping=0.2)
        np.testing.assert_allclose(found, expected("loss"), rtol=1e-9, atol=1e-11)


def test_bad_inputs_are_refused():
    model, variables, factors, data, targets = case()
    other = jax.tree.map(lambda x: 2 * x, variables)
    with pytest.raises(ValueError, match="expected a statistic of these variables"):
        influence_scores(model, other, factors, data, targets)
    with pytest.raises(ValueError, match="expected a measure among loss, margin, found 'logit'"):
        influence_scores(model, variables, factors, data, targets, of="logit")
    with pytest.raises(ValueError, match="expected targets as Batches, found list"):
        influence_scores(model, variables, factors, data, list(targets))
    with pytest.raises(ValueError, match="expected damping >= 0"):
        influence_scores(model, variables, factors, data, targets, damping=-1.0)
