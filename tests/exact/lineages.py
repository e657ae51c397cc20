"""Lineages of exact unlearning for tests: data, protocols, and comparisons bit by bit."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from small_models import setting
from trees import assert_identical

import mu_jax as mu

KEY = jax.random.key(3)
SHARDS, SLICES, ROWS = 4, 3, 48


def places(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shard and slice by the id itself: four rows in each slice."""
    return ids % SHARDS, ids // SHARDS % SLICES


def ids_in(shard: int, *slices: int) -> list[int]:
    return [k for k in range(ROWS) if k % SHARDS == shard and k // SHARDS % SLICES in slices]


@functools.cache
def data(rows: int = ROWS) -> mu.Batches:
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(rows, 5)).astype(np.float32)
    targets = (inputs[:, 0] > 0).astype(np.int32) + (inputs[:, 1] > 0)
    return mu.batches(inputs, targets, batch_size=4)


ADAM = optax.adam(optax.exponential_decay(3e-2, 5, 0.9))


def sisa(**options: Any) -> mu.exact.SISA:
    """Batch normalization, dropout and Adam with a schedule: all that a checkpoint has to hold."""
    own = setting("linen")
    given = dict(shards=SHARDS, slices=SLICES, epochs=2, batch_size=4, placement=places)
    return mu.exact.sisa(own.model, ADAM, init=own.init, **given | options)


def predict(params: Any, state: Any, inputs: jax.Array) -> jax.Array:
    for name in ("block_1", "block_10", "block_11"):
        inputs = inputs + jnp.tanh(inputs @ params[name]["kernel"] + params[name]["bias"])
    return inputs @ params["head"]["kernel"] + params["head"]["bias"]


NETWORK = mu.from_function(predict, optax.softmax_cross_entropy_with_integer_labels)
LAYERS = ("block_11", "block_10", "block_1")


@functools.cache
def base() -> mu.Variables:
    draw = np.random.default_rng(1)

    def layer(width):
        return {
            "kernel": jnp.asarray(draw.normal(size=(5, width)) / 3, jnp.float32),
            "bias": jnp.zeros(width),
        }

    return mu.Variables({name: layer(5) for name in LAYERS} | {"head": layer(3)})


def s3t(**options: Any) -> mu.exact.S3T:
    given = dict(shards=SHARDS, epochs=2, batch_size=4, rank=2, placement=places)
    given |= {"layers": LAYERS, "head": "head"}
    return mu.exact.s3t(NETWORK, ADAM, **given | options)


def without(*forget: int) -> tuple[mu.Batches, mu.Batches]:
    return mu.split(data(), list(forget))


def requests(protocol: Any, variables: Any, *asked: list[int]) -> tuple[Any, Any, mu.Batches]:
    """Variables, info and retain set after requests one after another."""
    left, info = data(), None
    for forget_ids in asked:
        forget, left = mu.split(left, forget_ids)
        variables, info = protocol.unlearn(None, variables, forget, left)
    return variables, info, left


def assert_same_bits(found: Any, expected: Any) -> None:
    """Two lineages agree bit by bit in all that they are."""
    assert_identical(found, expected)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
