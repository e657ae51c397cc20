"""The streamed mean gradient against a loop over examples."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import mu_jax as mu
from mu_jax.losses import cross_entropy
from mu_jax.statistics import mean_gradient

N, WEIGHT = 11, np.array([1, 0.5, 2, 1, 0, 0.25, 3, 1, 1, 0.75, 1])


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Conv(3, (3, 3))(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(4)(nn.Dropout(0.5, deterministic=not train)(x.mean((1, 2))))


class NNX(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 3, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(3, 4, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        return self.head(self.drop(x.mean((1, 2))))


def linen_case():
    variables = Linen().init(jax.random.key(0), jnp.zeros((1, 4, 4, 2)))
    return mu.from_linen(Linen(), cross_entropy), variables


def nnx_case():
    net = NNX(nnx.Rngs(0))
    return mu.from_nnx(net, cross_entropy), nnx.state(net)


def raw_case():
    params = {"w": jnp.linspace(-1, 1, 128).reshape(32, 4), "scale": jnp.float32(1.5)}
    model = mu.from_function(
        lambda p, state, x: p["scale"] * x.reshape(-1, 32) @ p["w"], cross_entropy
    )
    return model, mu.Variables(params)


def data(batch_size=4, weight=WEIGHT):
    inputs = jax.random.normal(jax.random.key(1), (N, 4, 4, 2))
    return mu.batches(inputs, np.arange(N) % 4, batch_size=batch_size, weight=weight)


def by_hand(model, variables, batches):
    """The weighted mean over examples, one gradient each."""
    params, state = model.split(variables)

    @jax.jit
    def gradient(x, y):
        return jax.grad(lambda p: model.loss(model.predict(p, state, x), y)[0])(params)

    total = optax.tree.zeros_like(params)
    for i in range(batches.num_examples):
        grads = gradient(batches.inputs[i : i + 1], batches.targets[i : i + 1])
        total = optax.tree.add_scale(total, batches.weight[i], grads)
    return optax.tree.scale(1 / float(batches.weight.sum()), total)


def close(first, second, tolerance):
    first, second = jax.tree.leaves(first), jax.tree.leaves(second)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(np.asarray(b)).max())


@pytest.mark.quick("linen_case-4", "nnx_case-32")
@pytest.mark.parametrize("batch_size", [4, 32])
@pytest.mark.parametrize("make", [linen_case, nnx_case, raw_case])
def test_it_is_the_weighted_mean_of_the_gradients_of_examples(make, batch_size):
    model, variables = make()
    acc = mu.collect(mean_gradient(model), variables, data(batch_size))
    close(acc.value, by_hand(model, variables, data()), 1e-5)
    np.testing.assert_allclose(acc.weight, WEIGHT.sum(), rtol=1e-6)
    assert jax.tree.structure(acc.value) == jax.tree.structure(model.params(variables))


def test_in_float64_to_rounding():
    with jax.enable_x64(True):
        model, variables = raw_case()
        variables = jax.tree.map(lambda x: x.astype(jnp.float64), variables)
        batches = data().replace(inputs=data().inputs.astype(jnp.float64))
        acc = mu.collect(mean_gradient(model), variables, batches)
        close(acc.value, by_hand(model, variables, batches), 1e-13)


def test_it_is_the_gradient_of_the_mean_loss():
    model, variables = raw_case()

    def mean_loss(params):
        losses = model.loss(model.predict(params, (), data().inputs), data().targets)
        return losses @ data().weight / data().weight.sum()

    close(
        mu.collect(mean_gradient(model), variables, data()).value,
        jax.grad(mean_loss)(variables.params),
        1e-5,
    )


def test_an_example_of_weight_two_is_two_examples():
    model, variables = raw_case()
    twice = data(weight=None).take(np.array([*range(N), 3]))
    weight = np.ones(N)
    weight[3] = 2
    close(
        mu.collect(mean_gradient(model), variables, data(weight=weight)).value,
        mu.collect(mean_gradient(model), variables, twice).value,
        1e-6,
    )


def test_the_same_model_has_one_statistic():
    model, _ = raw_case()
    assert mean_gradient(model) is mean_gradient(model)
    assert mean_gradient(model).definition == "mean gradient"
