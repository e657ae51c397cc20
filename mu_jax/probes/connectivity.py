"""Linear mode connectivity: whether a barrier lies between two models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mu_jax import _progress
from mu_jax.data.batches import Batch, Batches
from mu_jax.data.checks import check_counts
from mu_jax.evaluation.accuracy import as_float
from mu_jax.loops.exact_statistics import exact_statistics
from mu_jax.mesh.shards import on_automatic_axes
from mu_jax.model import Model
from mu_jax.probes._metrics import Metric, mean_metric

PyTree = Any


class Connectivity(NamedTuple):
    """The error along the line between two models.

    Attributes:
      shares: of the second model, from 0 to 1, f32[points].
      errors: mean error there, f32[points].
      barrier: see `barrier`, f32[].
    """

    shares: jax.Array
    errors: jax.Array
    barrier: jax.Array


def linear_mode_connectivity(
    model: Model,
    first: PyTree,
    second: PyTree,
    examples: Batches | Iterable[Batch],
    *,
    points: int = 11,
    metric: Metric | None = None,
    refresh: Batches | None = None,
) -> Connectivity:
    """The error of `(1 - t) first + t second` for t from 0 to 1, and its barrier.

    Two models of one basin have none. Between the original model and an unlearned one on the
    forget set, a line without a barrier says that the way back is downhill all along: what was
    forgotten is cheap to relearn. Between two retrained models it says how much two seeds differ.

    Args:
      model: the model.
      first, second: variables of one structure.
      examples: what the error is measured on.
      points: on the line, with both ends; 11 published.
      metric: `(outputs, targets) -> f32[B]`, lower is better; default the model's loss. A
        classification error is `lambda outputs, labels: outputs.argmax(-1) != labels`.
      refresh: examples, of which the batch statistics at every point are taken anew, see
        `mu.loops.exact_statistics`. By default they are interpolated as the parameters are, which
        makes a barrier of its own.

    Returns:
      `Connectivity`.

    Raises:
      ValueError: fewer than three points; variables of different structures or shapes.

    Cost: one forward pass over the examples for each point, and one over those to refresh.

    References:
      J. Frankle, G. K. Dziugaite, D. M. Roy, M. Carbin. Linear Mode Connectivity and the Lottery
      Ticket Hypothesis. ICML 2020.
      Y. Zhou, Y. Yang, A. Chang, M. W. Mahoney. A Three-regime Model of Network Pruning. ICML 2023.

    Example:
      >>> import mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: w * x, lambda z, y: (z**2 - y) ** 2)
      >>> data = mu.batches(jnp.ones(2), jnp.ones(2), batch_size=2)
      >>> ends = mu.Variables(jnp.array(-1.0)), mu.Variables(jnp.array(1.0))
      >>> found = linear_mode_connectivity(model, *ends, data)  # two minima of (w^2 - 1)^2
      >>> round(float(found.barrier), 4), round(float(found.errors[5]), 4)
      (1.0, 1.0)
    """
    check_counts(3, points=points)
    _check_alike(first, second)
    shares = np.linspace(0, 1, points, dtype=np.float32)
    errors = []
    for share in _progress.each(shares, "path", "point"):
        between = on_automatic_axes(_between, first, second, jnp.asarray(share), like=first)
        if refresh is not None:
            between = exact_statistics(model, between, refresh)
        found = mean_metric(model, metric or model.loss, between, examples)
        errors.append(found.sum / found.weight)
    return Connectivity(jnp.asarray(shares), jnp.stack(errors), barrier(jnp.stack(errors)))


def barrier(errors: ArrayLike) -> jax.Array:
    """The height of an error above the line between its ends, `max_t E(t) - (1 - t) E(0) - t E(1)`.

    It is 0 or more, since the ends themselves lie on the line; where both have one error it is the
    maximum less that error.

    Args:
      errors: f32[..., points], at equal distances.

    Returns:
      f32[...].

    Raises:
      ValueError: fewer than three points.

    Differences from the definition of Frankle and others: the line between both ends stands where
    theirs has the mean of both, which calls the larger of two unequal ends a barrier.

    Example:
      >>> [round(float(barrier(errors)), 2) for errors in ([0.1, 0.6, 0.3], [0.0, 0.5, 1.0])]
      [0.4, 0.0]
    """
    errors = as_float(errors)
    if errors.ndim == 0 or errors.shape[-1] < 3:
        raise ValueError(
            f"expected errors [..., points] of three points or more, found shape {errors.shape}: "
            "measure between the ends too"
        )
    share = jnp.linspace(0, 1, errors.shape[-1], dtype=errors.dtype)
    line = (1 - share) * errors[..., :1] + share * errors[..., -1:]
    return jnp.max(errors - line, axis=-1)


def _between(first: PyTree, second: PyTree, share: jax.Array) -> PyTree:
    def leaf(a, b):
        if not jnp.issubdtype(a.dtype, jnp.floating):
            return a
        wide = jnp.promote_types(a.dtype, jnp.float32)
        at = share.astype(wide)
        return ((1 - at) * a.astype(wide) + at * b.astype(wide)).astype(a.dtype)

    return jax.tree.map(leaf, first, second)


def _check_alike(first: PyTree, second: PyTree) -> None:
    trees = (first, second)
    kinds = [jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree) for tree in trees]
    if kinds[0] != kinds[1]:
        raise ValueError(
            "expected variables of one structure at both ends of the line, found others: give two "
            "models of one architecture"
        )
