"""Fine-tuning on the retain set: the simplest row of every table."""

from __future__ import annotations

from typing import Any

import jax
import optax

from mu_jax.loops.fit import fit
from mu_jax.loops.gradients import Gradients
from mu_jax.loops.labels import check_labels
from mu_jax.model import Model
from mu_jax.objectives.supervised import supervised
from mu_jax.transforms._shared.transform import Unlearn, method, report_fit

PyTree = Any


@method
def finetune(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int | None = None,
    training_mode: bool = False,
    gradients: Gradients | None = None,
) -> Unlearn:
    """Continue training on the retain set and hope that the forget set fades.

    Args:
      model: the model.
      optimizer: any optax optimizer, from a fresh state.
      epochs: passes over the retain set. steps: number of steps instead.
      batch_size: examples per step; default that of the set.
      training_mode: move batch statistics and use dropout; default inference mode.
      gradients: how to take the gradient, see `mu.fit`.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; the key shuffles;
      `info.details` is a `FitInfo`. The forget set is not read.

    Cost: `epochs` passes over the retain set.
    """

    def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):
        check_labels(model, variables, retain=retain)
        objective = supervised(model, training_mode=training_mode)
        result = fit(
            model,
            objective,
            optimizer,
            variables,
            retain,
            key=key,
            epochs=epochs,
            steps=steps,
            batch_size=batch_size,
            gradients=gradients,
        )
        return report_fit(model, variables, result, (forget, retain))

    return unlearn
