"""Matching given outputs: the objective of oracle matching and of datamodel matching."""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from mu_jax.loops.fit import Objective, Term
from mu_jax.losses import softmax_divergence, weighted_sum
from mu_jax.model import Model

Distance = Literal["squared", "kl"]


@functools.lru_cache(maxsize=64)
def matching(
    model: Model,
    *,
    distance: Distance = "squared",
    training_mode: bool = False,
    proximity: float = 0.0,
) -> Objective:
    """Distance of the outputs to `batch.targets`, which are outputs themselves, f32[B, K].

    `squared`: `sum_i w_i mean_c (f_c(x_i) - h_c(x_i))^2 / sum_i w_i`, the mean over classes as in
    the released code (the paper writes the sum). `kl`: `KL(softmax h || softmax f)`, which differs
    from the cross-entropy to the targets by a constant. Classes that both rule out, by a logit of
    minus infinity, are in neither.

    Args:
      model: the model; its loss is not used.
      distance: see above.
      training_mode: batch statistics of the batch, moved running statistics, dropout.
      proximity: adds `proximity ||theta - theta_0||^2`, with theta_0 from `frozen["start"]`.

    Returns:
      An `Objective` with the terms `match` and, if asked for, `proximity`.
    """

    def objective(variables, batch, frozen, key):
        if training_mode:
            outputs, variables = model.apply_train(variables, batch.inputs, key)
        else:
            outputs = model.apply(variables, batch.inputs)
        distances = _DISTANCES[distance](outputs, batch.targets)
        terms = {"match": Term(weighted_sum(distances, batch.weight), batch.weight.sum())}
        if proximity:
            moved = optax.tree.sub(model.params(variables), frozen["start"])
            squared = optax.tree.norm(moved, squared=True)
            terms["proximity"] = Term(squared, jnp.ones(()), proximity)
        return terms, variables

    return objective


def _squared(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    some = (outputs > -jnp.inf) | (targets > -jnp.inf)
    errors = jnp.square(jnp.where(some, jnp.where(some, outputs, 0) - targets, 0))
    rows = outputs.shape[0]
    return errors.reshape(rows, -1).sum(axis=1) / some.reshape(rows, -1).sum(axis=1)


_DISTANCES = {"squared": _squared, "kl": softmax_divergence}
