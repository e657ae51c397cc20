"""The supervised loss as an objective, descended or ascended."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax

from mu_jax.data.batches import Batch
from mu_jax.loops.gradients import Term, Terms
from mu_jax.loops.labels import counted
from mu_jax.losses import total_weight, weighted_sum
from mu_jax.model import Model
from mu_jax.objectives.modes import InEitherMode

PyTree = Any


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["sign"], meta_fields=["model", "training_mode"]
)
@dataclasses.dataclass(frozen=True)
class supervised(InEitherMode):
    """`sign * sum_i w_i l_i / sum_i w_i` over a batch.

    Args:
      model: the model with its per-example loss.
      sign: 1 to descend, -1 to ascend; may be traced.
      training_mode: batch statistics of the batch, moved running statistics, dropout. Default:
        inference mode, where statistics do not move.

    Returns:
      An `Objective` with the one term `loss`.
    """

    model: Model
    _: dataclasses.KW_ONLY
    sign: jax.Array | float = 1.0
    training_mode: bool = False

    def __call__(
        self, variables: PyTree, batch: Batch, frozen: dict[str, PyTree], key: jax.Array
    ) -> tuple[Terms, PyTree]:
        """The term, and the variables."""
        losses, weight, variables = row_losses(
            self.model, variables, batch, training=self.training_mode, key=key
        )
        term = Term(weighted_sum(losses, weight), total_weight(weight), self.sign)
        return {"loss": term}, variables


def row_losses(
    model: Model, variables: PyTree, batch: Batch, *, training: bool, key: jax.Array | None
) -> tuple[jax.Array, jax.Array, PyTree]:
    """The losses of a batch in either mode, for an objective that weighs them itself.

    Args:
      model: the model. variables: of the model. batch: of its inputs and targets.
      training: training mode rather than inference mode. key: of dropout, in training mode.

    Returns:
      The losses f32[B]; their weights f32[B], 0 where the loss ignores the label; the variables,
      whose statistics have moved in training mode.

    Example:
      >>> import jax.numpy as jnp
      >>> import mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x * w, mu.losses.absolute_error)
      >>> data = mu.batches(jnp.ones(2), jnp.array([3.0, 5.0]), batch_size=2)
      >>> start = mu.Variables(jnp.array(1.0))
      >>> row_losses(model, start, data.at(0), training=False, key=None)[0].tolist()
      [2.0, 4.0]
    """
    outputs, variables = model.forward(
        variables, batch.inputs, training=training, key=key, for_loss=True
    )
    batch = counted(model, batch)
    return model.per_example(outputs, batch), batch.weight, variables
