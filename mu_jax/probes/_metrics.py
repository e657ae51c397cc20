"""A number of every example, averaged over a set: what the probes measure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mu_jax import losses
from mu_jax._tracing import cached
from mu_jax.loops.gradients import Term
from mu_jax.loops.scan import fold
from mu_jax.mesh.shards import on_automatic_axes
from mu_jax.model import Model

PyTree = Any
Metric = Callable[[PyTree, PyTree], jax.Array]


def mean_metric(model: Model, metric: Metric, variables: PyTree, examples: Any) -> Term:
    """The sum of the metric over the examples, and their weight, in one pass."""
    zero = jnp.zeros((), float)
    return Term(*fold(_metric_sums(model, metric), (zero, zero), examples, variables))


@cached(maxsize=64)
def _metric_sums(model: Model, metric: Metric) -> Callable:
    def step(sums, batch, variables):
        values = metric(model.apply(variables, batch.inputs), batch.targets)
        if values.shape != batch.weight.shape:
            raise ValueError(
                f"expected one number per example, shape {batch.weight.shape}, found shape "
                f"{values.shape}: give a metric that does not reduce over the batch"
            )
        added = losses.weighted_sum(values.astype(float), batch.weight)
        return sums[0] + added, sums[1] + losses.total_weight(batch.weight)

    def step_anywhere(sums, batch, variables):
        return on_automatic_axes(step, sums, batch, variables, like=sums)

    return step_anywhere
