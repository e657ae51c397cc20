"""Gradient ascent on the forget set."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mu_jax.data.batches import Batch
from mu_jax.data.checks import check_range
from mu_jax.loops.fit import Objective, fit
from mu_jax.loops.gradients import Gradients, Term, Terms
from mu_jax.loops.labels import check_labels
from mu_jax.losses import total_weight, weighted_sum
from mu_jax.model import Model
from mu_jax.objectives.modes import InEitherMode
from mu_jax.objectives.supervised import row_losses, supervised
from mu_jax.transforms._shared.transform import Unlearn, method, number, report_fit

PyTree = Any


@method
def gradient_ascent(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int | None = None,
    training_mode: bool = False,
    gradients: Gradients | None = None,
    cap: jax.Array | float | None = None,
) -> Unlearn:
    """Raise the loss of the forget set, step by step.

    Minimizes `-mean_i l_i` over the forget set. It fails for want of a target: each example over-
    or undershoots at a different time, and too many steps destroy the model. Keep the steps few,
    and compare with retraining. With a cap it ascends on `mean_i min(l_i, cap)`: an example that
    has reached the cap pushes no further.

    Args:
      model: the model.
      optimizer: any optax optimizer, from a fresh state; it descends on the negative loss.
      epochs: passes over the forget set. steps: number of steps instead.
      batch_size: examples per step; default that of the set.
      training_mode: move batch statistics and use dropout; default inference mode.
      gradients: how to take the gradient, see `mu.fit`.
      cap: loss of an example that is high enough, may be traced; default none. A regression's loss
        has no bound: take the mean loss of the best constant prediction.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; the key shuffles;
      `info.details` is a `FitInfo` of the negative loss. The retain set is not read.

    Cost: `epochs` passes over the forget set; memory of one gradient and one optimizer state.

    Differences from published programs (`OPTML-Group/Unlearn-Sparse`):
      1. Inference mode by default. There batch statistics move, to those of the forget set.
      2. The cap is of this library.

    References:
      A. Golatkar, A. Achille, S. Soatto. Eternal Sunshine of the Spotless Net: Selective Forgetting
      in Deep Networks. CVPR 2020.

    Example:
      >>> import jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)
      >>> data = mu.batches(jnp.eye(3), jnp.arange(3), batch_size=3)
      >>> forget, retain = mu.split(data, [2])
      >>> unlearn = mu.gradient_ascent(model, optax.sgd(1.0), epochs=20, cap=2.0)
      >>> unlearned, _ = unlearn(jax.random.key(0), mu.Variables(3 * jnp.eye(3)), forget, retain)
      >>> [f"{x:.1f}" for x in model.losses(unlearned, data.at(0))]  # it stays behind the cap
      ['0.1', '0.1', '2.6']
    """

    check_range(-math.inf, cap=cap)

    def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):
        check_labels(model, variables, forget=forget)
        objective: Objective = supervised(model, sign=-1.0, training_mode=training_mode)
        frozen = {}
        if cap is not None:
            objective, frozen = _Capped(model, training_mode), {"cap": number(cap, jnp.float32)}
        result = fit(
            model,
            objective,
            optimizer,
            variables,
            forget,
            key=key,
            epochs=epochs,
            steps=steps,
            batch_size=batch_size,
            gradients=gradients,
            frozen=frozen,
        )
        return report_fit(model, variables, result, (forget, retain))

    return unlearn


@dataclasses.dataclass(frozen=True)
class _Capped(InEitherMode):
    """`-mean_i min(l_i, cap)`, with the cap from `frozen`."""

    model: Model
    training_mode: bool

    @property
    def bounded(self) -> bool:
        return True

    def __call__(
        self, variables: PyTree, batch: Batch, frozen: dict[str, PyTree], key: jax.Array
    ) -> tuple[Terms, PyTree]:
        losses, weight, variables = row_losses(
            self.model, variables, batch, training=self.training_mode, key=key
        )
        capped = jnp.minimum(losses, frozen["cap"])
        term = Term(weighted_sum(capped, weight), total_weight(weight), -1.0)
        return {"loss": term}, variables
