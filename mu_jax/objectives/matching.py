"""Matching given outputs: the objective of oracle matching and of datamodel matching."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from mu_jax.data.batches import Batch
from mu_jax.loops.gradients import Term, Terms
from mu_jax.losses import softmax_divergence, total_weight, weighted_sum
from mu_jax.model import Model
from mu_jax.objectives.modes import InEitherMode

PyTree = Any
Distance = Literal["squared", "kl"]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["proximity"],
    meta_fields=["model", "distance", "training_mode"],
)
@dataclasses.dataclass(frozen=True)
class matching(InEitherMode):
    """Distance of the outputs to `batch.targets`, which are outputs themselves, f32[B, K].

    `squared`: `sum_i w_i mean_c (f_c(x_i) - h_c(x_i))^2 / sum_i w_i`, the mean over classes as in
    the released code (the paper writes the sum). `kl`: `KL(softmax h || softmax f)`, which differs
    from the cross-entropy to the targets by a constant. Classes that both rule out, by a logit of
    minus infinity, are in neither.

    Args:
      model: the model; its loss is not used.
      distance: see above.
      training_mode: batch statistics of the batch, moved running statistics, dropout.
      proximity: scale of `||theta - theta_0||^2`, which is added where `frozen["start"]` gives
        theta_0; may be traced.

    Returns:
      An `Objective` with the terms `match` and, with a start, `proximity`.
    """

    model: Model
    _: dataclasses.KW_ONLY
    distance: Distance = "squared"
    training_mode: bool = False
    proximity: jax.Array | float = 0.0

    @property
    def bounded(self) -> bool:
        """True: distances, none of which is raised."""
        return True

    def __call__(
        self, variables: PyTree, batch: Batch, frozen: dict[str, PyTree], key: jax.Array
    ) -> tuple[Terms, PyTree]:
        """The terms, and the variables."""
        outputs, variables = self.model.forward(
            variables, batch.inputs, training=self.training_mode, key=key
        )
        distances = _DISTANCES[self.distance](outputs, batch.targets)
        terms = {"match": Term(weighted_sum(distances, batch.weight), total_weight(batch.weight))}
        if "start" in frozen:
            moved = optax.tree.sub(self.model.params(variables), frozen["start"])
            squared = optax.tree.norm(moved, squared=True)
            terms["proximity"] = Term(squared, jnp.ones(()), self.proximity)
        return terms, variables


def _squared(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    some = (outputs > -jnp.inf) | (targets > -jnp.inf)
    errors = jnp.square(jnp.where(some, jnp.where(some, outputs, 0) - targets, 0))
    rows = outputs.shape[0]
    return errors.reshape(rows, -1).sum(axis=1) / some.reshape(rows, -1).sum(axis=1)


_DISTANCES = {"squared": _squared, "kl": softmax_divergence}
