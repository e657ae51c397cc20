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

    Minimizes `mean_i l_i` over the retain set, from the given variables. It fails where nothing
    pushes the forget set out: what the model says of it stays where retained examples are like it,
    or where the rate is small. At the rate of training it is a partial retraining, and costs as
    much.

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

    Cost: `epochs` passes over the retain set; memory of one gradient and one optimizer state.

    Differences from published programs (`OPTML-Group/Unlearn-Sparse`, `meghdadk/SCRUB`):
      1. Inference mode by default; training mode there, in part.
      2. No penalty on the distance from the start, which the second adds for small models.

    References:
      A. Golatkar, A. Achille, S. Soatto. Eternal Sunshine of the Spotless Net: Selective Forgetting
      in Deep Networks. CVPR 2020.

    Example:
      >>> import jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
      >>> inputs = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
      >>> data = mu.batches(inputs, jnp.array([1.0, 2.0, 9.0]), batch_size=3)
      >>> forget, retain = mu.split(data, [2])
      >>> unlearn = mu.finetune(model, optax.sgd(0.2), epochs=50)
      >>> start = mu.Variables(jnp.array([3.0, 4.0]))  # the last example weighs on both
      >>> unlearn(jax.random.key(0), start, forget, retain)[0].params.round(1).tolist()
      [1.0, 2.0]
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
