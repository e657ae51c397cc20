"""Retraining from scratch on the retain set: the reference of every metric."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

from mu_jax.loops.fit import fit
from mu_jax.loops.gradients import Gradients
from mu_jax.loops.labels import check_labels
from mu_jax.loops.update_masks import started_anew
from mu_jax.model import Model
from mu_jax.objectives.supervised import supervised
from mu_jax.transforms._shared.transform import Unlearn, method, report_fit

PyTree = Any


@method
def retrain(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    init: Callable[[jax.Array], PyTree],
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int | None = None,
    training_mode: bool = True,
    gradients: Gradients | None = None,
) -> Unlearn:
    """Train a new model on the retain set, with the recipe of the original.

    Minimizes `mean_i l_i` over the retain set from a fresh start. Everything is initialized again,
    parameters and batch statistics; some published "retrain" rows reset the last layer only and are
    warm starts.

    It fails to be exact where something else has seen the forget set: constants of a normalization,
    a vocabulary, a pretrained start, hyper-parameters that were chosen on it.

    Args:
      model: the model.
      optimizer: the optimizer of the original training, with its schedule.
      init: `key -> variables`, fresh ones in the form of the model's own variables.
      epochs: passes over the retain set. steps: number of steps instead.
      batch_size: examples per step; default that of the set.
      training_mode: move batch statistics and use dropout; default True, as in training.
      gradients: how to take the gradient, see `mu.fit`.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; the key initializes and
      shuffles; the given variables and the forget set are not read. `info.details` is a `FitInfo`.

    Cost: `epochs` passes over the retain set; memory of one gradient and one optimizer state.

    Differences from published programs (`if-loops/selective-synaptic-dampening`):
      1. Every leaf is initialized; there the layers that own a reset, which is the last one alone.

    References:
      Y. Cao, J. Yang. Towards Making Systems Forget with Machine Unlearning. IEEE Symposium on
      Security and Privacy 2015.

    Example:
      >>> import jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
      >>> data = mu.batches(jnp.eye(3), jnp.array([1.0, 2.0, 3.0]), batch_size=3)
      >>> forget, retain = mu.split(data, [2])
      >>> unlearn = mu.retrain(
      ...     model, optax.sgd(0.5), init=lambda key: mu.Variables(jnp.zeros(3)), epochs=30)
      >>> trained = mu.Variables(jnp.array([1.0, 2.0, 3.0]))
      >>> unlearn(jax.random.key(0), trained, forget, retain)[0].params.round(2).tolist()
      [1.0, 2.0, 0.0]
    """

    def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):
        check_labels(model, variables, retain=retain)
        own_key = jax.random.fold_in(key, 0)
        fresh = started_anew(model, variables, init, own_key)
        result = fit(
            model,
            supervised(model, training_mode=training_mode),
            optimizer,
            fresh,
            retain,
            key=jax.random.fold_in(key, 1),
            epochs=epochs,
            steps=steps,
            batch_size=batch_size,
            gradients=gradients,
        )
        return report_fit(model, variables, result, (forget, retain))

    return unlearn
