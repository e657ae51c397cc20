"""Gates of O3: from the score of an input to the share of the adapters that it gets."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from mu_jax.data.batches import is_concrete

Array = jax.Array


class SoftGate(NamedTuple):
    """Two normal distributions of equal share, of scores that a request has; by `fit_soft_gate`.

    Attributes:
      first, second: f32[], their means. deviation: f32[], of both.
    """

    first: Array
    second: Array
    deviation: Array


def fit_soft_gate(train_scores: Array, test_scores: Array) -> SoftGate:
    """The gate of one request.

    Args:
      train_scores: f32[n], of the examples that the scorer was fitted to.
      test_scores: f32[m], of further inputs of the same kind; their deviation is that of both.

    Raises:
      ValueError: test scores that are all the same, or not finite.
    """
    first, second = jnp.asarray(train_scores), jnp.asarray(test_scores)
    gate = SoftGate(first.mean(), second.mean(), second.std())
    if is_concrete(gate.deviation) and not (
        np.isfinite(np.asarray(gate)).all() and gate.deviation > 0
    ):
        raise ValueError(
            f"expected finite scores that differ, found mean {float(gate.second):.4g} and "
            f"deviation {float(gate.deviation):.4g}: score more inputs of this kind"
        )
    return gate


def soft_weight(
    gate: SoftGate, scores: Array, *, sharpness: Array | float = 10.0, offset: Array | float = 2.0
) -> Array:
    """`w = sigmoid(10 (1 - |F(s) - F(2 x0 - s)|) - 2)`, f32[m], from 0.12 far away to 0.9997 at x0.

    F is the distribution function of both normal distributions together, x0 the middle of their
    means: a score on either side of x0 lowers the weight.

    Args:
      gate: of a request. scores: f32[m].
      sharpness, offset: 10 and 2 as published, may be traced.

    Example:
      >>> gate = fit_soft_gate(jnp.array([-1.0, 1.0]), jnp.array([-1.0, 1.0]))
      >>> soft_weight(gate, jnp.array([0.0, -9.0])).round(2)
      Array([1.  , 0.12], dtype=float32)
    """
    middle = (gate.first + gate.second) / 2

    def below(x: Array) -> Array:
        first, second = (norm.cdf(x, m, gate.deviation) for m in (gate.first, gate.second))
        return (first + second) / 2

    apart = jnp.abs(below(scores) - below(2 * middle - scores))
    return jax.nn.sigmoid(sharpness * (1 - apart) - offset)


def hard_weight(weight: Array) -> Array:
    """The published program's map of soft weights: 1.2 above 0.9, w in (0.3, 0.4], else 0.

    Example:
      >>> hard_weight(jnp.array([0.95, 0.9, 0.35, 0.3, 0.1]))
      Array([1.2 , 0.  , 0.35, 0.  , 0.  ], dtype=float32)
    """
    weight = jnp.asarray(weight)
    low = jnp.where((weight > 0.3) & (weight <= 0.4), weight, 0)
    return jnp.where(weight > 0.9, 1.2, low).astype(weight.dtype)


def over_requests(weights: Array) -> Array:
    """The largest weight of all requests, f32[m], of weights f32[requests, m]."""
    return jnp.max(jnp.asarray(weights), axis=0)
