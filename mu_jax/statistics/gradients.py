"""The mean gradient of the loss, streamed."""

from __future__ import annotations

import jax

from mu_jax._tracing import cached
from mu_jax.loops.labels import counted
from mu_jax.losses import total_weight, weighted_sum
from mu_jax.model import Model
from mu_jax.statistics.accumulator import Statistic


@cached(maxsize=64)
def mean_gradient(model: Model) -> Statistic:
    """The mean gradient of the loss over a set of examples, in inference mode.

    `g = sum_i w_i grad l_i / sum_i w_i`. The gradient of the sum is accumulated, so a short last
    batch, padding and uneven shards weigh what they should.

    Args:
      model: the model; its `loss` is used, statistics frozen, dropout off.

    Returns:
      A `Statistic` whose value is shaped like the parameters.

    Cost: one forward and backward pass per example; memory of one gradient.
    """

    def terms(variables, batch):
        batch = counted(model, batch)
        params, state = model.split(variables)

        def total(params):
            outputs = model.for_loss(params, state, batch.inputs)
            return weighted_sum(model.per_example(outputs, batch), batch.weight)

        return jax.grad(total)(params), total_weight(batch.weight)

    return Statistic(terms, model.params, "mean gradient")
