"""Exact per-example importance beside one plain gradient over the same rows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import mu_jax as mu
from benchmarks import torch_networks
from benchmarks.timing import in_turn, table
from mu_jax import models

GRADIENT, OURS = "gradient", "per-example importance"


class TransformerBlock(nn.Module):
    """Pre-norm attention and perceptron, then the mean over tokens and a linear head."""

    heads: int = 4

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        width = inputs.shape[-1]
        attention = nn.MultiHeadDotProductAttention(self.heads, deterministic=True)
        x = inputs + attention(nn.LayerNorm()(inputs))
        hidden = nn.gelu(nn.Dense(4 * width)(nn.LayerNorm()(x)))
        x = x + nn.Dense(width)(hidden)
        return nn.Dense(10)(nn.LayerNorm()(x).mean(axis=1))


class Case(NamedTuple):
    """A network, the shape of its batch, and how dear importance may be."""

    title: str
    module: nn.Module
    shape: tuple[int, ...]
    goal: float
    torch: str | None = None


CASES = [
    Case("MLP 64-512-512-10, 256 rows", models.MLP((512, 512), 10), (256, 64), 1.3, "mlp"),
    Case("Transformer block, 64 rows of 16 x 64", TransformerBlock(), (64, 16, 64), 1.3, "block"),
    Case("Transformer block, 32 rows of 64 x 128", TransformerBlock(), (32, 64, 128), 1.3, "block"),
    Case(
        "CNN of 3 convolutions with BatchNorm, 64 rows of 16 x 16 x 3",
        models.CNN(num_outputs=10),
        (64, 16, 16, 3),
        2.0,
        "cnn",
    ),
]


def run(case: Case) -> str:
    """Measure one network; returns the lines of its table."""
    rng = np.random.RandomState(0)
    inputs = rng.normal(size=case.shape).astype(np.float32)
    targets = rng.randint(0, 10, case.shape[0]).astype(np.int32)
    batch = next(iter(mu.batches(inputs, targets, batch_size=len(inputs))))
    variables = case.module.init(jax.random.key(0), inputs[:1])
    model = mu.from_linen(case.module, mu.losses.cross_entropy)
    alternatives = {
        GRADIENT: one_batch(mu.statistics.mean_gradient(model), variables, batch),
        OURS: one_batch(mu.statistics.importance(model), variables, batch),
        "vmap(grad), squared and summed": materialized(model, variables, batch),
    }
    if case.torch and torch_networks.AVAILABLE:
        alternatives |= torch_networks.alternatives(case.torch, inputs, targets)
    times = in_turn(alternatives)
    return table(case.title, times, GRADIENT, {OURS: case.goal})


def one_batch(statistic: mu.Statistic, variables: Any, batch: mu.Batch) -> Callable[[], Any]:
    """One update of a statistic, compiled."""
    update = jax.jit(statistic.update)
    acc = statistic.init(variables)
    return lambda: update(acc, variables, batch)


def materialized(model: mu.Model, variables: Any, batch: mu.Batch) -> Callable[[], Any]:
    """The usual way: one gradient per example, squared and summed."""

    def loss(params, state, x, y):
        return model.loss(model.predict(params, state, x[None]), y[None])[0]

    @jax.jit
    def squares(variables, batch):
        params, state = model.split(variables)
        each = functools.partial(jax.grad(loss), params, state)
        gradients = jax.vmap(each)(batch.inputs, batch.targets)
        return jax.tree.map(lambda g: jnp.sum(g * g, axis=0), gradients)

    return lambda: squares(variables, batch)
