"""Exact per-example importance beside one plain gradient over the same rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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


class Problem(NamedTuple):
    """A model with random parameters and one batch of its data."""

    model: mu.Model
    variables: Any
    batch: mu.Batch


def classifier(module: nn.Module, *shape: int) -> Problem:
    """A network with ten classes on inputs of a shape."""
    rng = np.random.RandomState(0)
    inputs = rng.normal(size=shape).astype(np.float32)
    targets = rng.randint(0, 10, shape[0]).astype(np.int32)
    batch = next(iter(mu.batches(inputs, targets, batch_size=len(inputs))))
    variables = module.init(jax.random.key(0), inputs[:1])
    return Problem(mu.from_linen(module, mu.losses.cross_entropy), variables, batch)


def next_token(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """The mean loss of the tokens of each row behind the first."""
    values = jax.nn.log_softmax(logits[:, :-1])
    return -jnp.take_along_axis(values, tokens[:, 1:, None], axis=2)[..., 0].mean(axis=1)


def language_model(vocabulary: int, width: int, rows: int, length: int) -> Problem:
    """A decoder of four scanned blocks whose head is its table of embeddings."""
    config = models.DecoderConfig(
        "llama",
        vocab_size=vocabulary,
        width=width,
        depth=4,
        num_heads=4,
        num_kv_heads=4,
        head_dim=width // 4,
        mlp_width=11 * width // 4,
        max_positions=length,
        tied_head=True,
    )
    decoder = models.Decoder(config, scan_layers=True)
    tokens = np.random.RandomState(0).randint(0, vocabulary, (rows, length)).astype(np.int32)
    batch = next(iter(mu.batches(tokens, tokens, batch_size=rows)))
    return Problem(decoder.model(next_token), decoder.init(jax.random.key(0)), batch)


class Case(NamedTuple):
    """A problem, and how dear importance may be."""

    title: str
    problem: Callable[[], Problem]
    goal: float
    torch: str | None = None


MLP, BLOCK, CNN = models.MLP((512, 512), 10), TransformerBlock(), models.CNN(num_outputs=10)
CASES = [
    Case("MLP 64-512-512-10, 256 rows", partial(classifier, MLP, 256, 64), 1.3, "mlp"),
    Case(
        "Transformer block, 64 rows of 16 x 64",
        partial(classifier, BLOCK, 64, 16, 64),
        1.3,
        "block",
    ),
    Case(
        "Transformer block, 32 rows of 64 x 128",
        partial(classifier, BLOCK, 32, 64, 128),
        1.3,
        "block",
    ),
    Case(
        "CNN of 3 convolutions with BatchNorm, 64 rows of 16 x 16 x 3",
        partial(classifier, CNN, 64, 16, 16, 3),
        2.0,
        "cnn",
    ),
    Case(
        "Tied decoder, 4 blocks of width 128, 2,048 words, 8 rows of 64",
        partial(language_model, 2048, 128, 8, 64),
        1.3,
    ),
    Case(
        "Tied decoder, 4 blocks of width 64, 32,768 words, 8 rows of 16",
        partial(language_model, 32768, 64, 8, 16),
        1.3,
    ),
]


def run(case: Case) -> str:
    """Measure one network; returns the lines of its table."""
    model, variables, batch = case.problem()
    alternatives = {
        GRADIENT: one_batch(mu.statistics.mean_gradient(model), variables, batch),
        OURS: one_batch(mu.statistics.importance(model), variables, batch),
        "vmap(grad), squared and summed": materialized(model, variables, batch),
    }
    if case.torch and torch_networks.AVAILABLE:
        data = np.asarray(batch.inputs), np.asarray(batch.targets)
        alternatives |= torch_networks.alternatives(case.torch, *data)
    times = in_turn(alternatives, repeats=25)
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
        each = partial(jax.grad(loss), params, state)
        gradients = jax.vmap(each)(batch.inputs, batch.targets)
        return jax.tree.map(lambda g: jnp.sum(g * g, axis=0), gradients)

    return lambda: squares(variables, batch)
