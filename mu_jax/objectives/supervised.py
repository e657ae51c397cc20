"""The supervised loss as an objective, descended or ascended."""

from __future__ import annotations

import functools

from mu_jax.loops.fit import Objective, Term
from mu_jax.loops.labels import counted
from mu_jax.losses import weighted_sum
from mu_jax.model import Model


@functools.lru_cache(maxsize=64)
def supervised(model: Model, *, sign: float = 1.0, training_mode: bool = False) -> Objective:
    """`sign * sum_i w_i l_i / sum_i w_i` over a batch.

    Args:
      model: the model with its per-example loss.
      sign: 1 to descend, -1 to ascend.
      training_mode: batch statistics of the batch, moved running statistics, dropout. Default:
        inference mode, where statistics do not move.

    Returns:
      An `Objective` with the one term `loss`.
    """

    def objective(variables, batch, frozen, key):
        del frozen
        if training_mode:
            outputs, variables = model.apply_train(variables, batch.inputs, key)
        else:
            outputs = model.apply(variables, batch.inputs)
        batch = counted(model, batch)
        losses = model.per_example(outputs, batch)
        return {"loss": Term(weighted_sum(losses, batch.weight), batch.weight.sum(), sign)}, (
            variables
        )

    return objective
