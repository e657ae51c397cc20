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

PyTree = Any


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["sign"], meta_fields=["model", "training_mode"]
)
@dataclasses.dataclass(frozen=True)
class supervised:
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
        outputs, variables = self.model.forward(
            variables, batch.inputs, training=self.training_mode, key=key
        )
        batch = counted(self.model, batch)
        losses = self.model.per_example(outputs, batch)
        term = Term(weighted_sum(losses, batch.weight), total_weight(batch.weight), self.sign)
        return {"loss": term}, variables
