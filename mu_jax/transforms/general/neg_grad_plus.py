"""NegGrad+: descend on the retain set while ascending on the forget set."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mu_jax.data.batches import Batch, Batches
from mu_jax.data.checks import check_range
from mu_jax.data.forget_retain import Data, marked_mix, readable
from mu_jax.loops.fit import fit
from mu_jax.loops.gradients import Gradients, Term, Terms
from mu_jax.loops.labels import check_labels, weights
from mu_jax.loops.predict import all_targets
from mu_jax.losses import total_weight, weighted_sum
from mu_jax.mesh.shards import reduction
from mu_jax.model import Model
from mu_jax.objectives.modes import InEitherMode
from mu_jax.objectives.supervised import row_losses
from mu_jax.transforms._shared.transform import Unlearn, method, report_fit

PyTree = Any


@method
def neg_grad_plus(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    forget_weight: jax.Array | float = 0.05,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int | None = None,
    training_mode: bool = False,
    gradients: Gradients | None = None,
    cap: jax.Array | float | None = None,
) -> Unlearn:
    """Lower the loss of the retain set and raise that of the forget set, in one objective.

    `(1 - a) mean_retain l_i - a mean_forget l_i`: fine-tuning for a = 0, gradient ascent for a = 1.
    Both sets are shuffled together, and the parts of a batch are weighted so that its value is, on
    average, that of the whole sets, however few there are to forget. The second part has no bound,
    unless there is a cap: `mean_forget min(l_i, cap)`.

    It fails where a is too large or the fit too long: the loss of the forget set then rises beyond
    that of a retrained model, which tells the forgotten examples from others, and what resembles
    them goes too.

    Args:
      model: the model, a classifier or a regression.
      optimizer: any optax optimizer, from a fresh state; `optax.sgd(0.01)` in the reference
        program.
      forget_weight: a, which is `1 - beta` of the publication, may be traced. The reference program
        has 0.05 and, for larger models, 0.0001; 1/2 (at twice the rate) is advanced NegGrad.
      epochs: passes over both sets, 10 or 5 in the reference program. steps: number of steps
        instead.
      batch_size: examples per step; default that of the retain set.
      training_mode: move batch statistics and use dropout; default inference mode.
      gradients: how to take the gradient, see `mu.fit`; `per_term` sees `retain` and `forget`.
      cap: loss of an example to forget that is high enough, may be traced; default none. For a
        regression take the mean loss of the best constant prediction.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; the key shuffles;
      `info.details` is a `FitInfo` of the objective. Two streams are read batch by batch; of other
      iterables both sets are read into memory.

    Cost: `epochs` passes over both sets; memory of one gradient and one optimizer state.

    Differences from the reference program (`meghdadk/SCRUB`):
      1. An epoch reads every example once; there it reads each batch to retain once, beside one to
         forget, which are repeated in a fixed order.
      2. No penalty on the distance from the start, which the program adds for small models.

    References:
      M. Kurmanji, P. Triantafillou, J. Hayes, E. Triantafillou. Towards Unbounded Machine
      Unlearning. NeurIPS 2023.

    Example:
      >>> import mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, mu.losses.absolute_error)
      >>> data = mu.batches(jnp.eye(3), jnp.array([1.0, 2.0, 3.0]), batch_size=3)
      >>> forget, retain = mu.split(data, [2])
      >>> unlearn = mu.neg_grad_plus(model, optax.sgd(0.1), forget_weight=0.5, epochs=80)
      >>> start = mu.Variables(jnp.array([0.0, 0.0, 2.9]))
      >>> unlearned, _ = unlearn(jax.random.key(0), start, forget, retain)
      >>> unlearned.params.round(1)
      Array([ 1. ,  2. , -1.1], dtype=float32)
    """

    check_range(0, 1, forget_weight=forget_weight)
    check_range(-math.inf, cap=cap)

    def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):
        forget_set, retain_set = readable(forget, retain)
        check_labels(model, variables, forget=forget, retain=retain)
        sizes = _weight(model, forget_set), _weight(model, retain_set)
        result = fit(
            model,
            _Contrast(model, training_mode, cap is not None),
            optimizer,
            variables,
            marked_mix(forget_set, retain_set),
            key=key,
            epochs=epochs,
            steps=steps,
            batch_size=batch_size,
            gradients=gradients,
            frozen=_scales(sizes, forget_weight, jnp.inf if cap is None else cap),
        )
        return report_fit(model, variables, result, (forget, retain))

    return unlearn


def _weight(model: Model, examples: Data) -> jax.Array | np.ndarray:
    """The weights of a set; the labels of a stream are read if some may be ignored."""
    if isinstance(examples, Batches):
        return weights(model, examples.targets, examples.weight)
    ones: Any = np.ones(examples.num_examples, np.float32)
    return weights(model, all_targets(examples) if hasattr(model.loss, "counts") else (), ones)


@reduction
def _scales(xp, weights, forget_weight, cap) -> dict[str, jax.Array]:
    wide = jax.dtypes.canonicalize_dtype(float)
    n_forget, n_retain = (weight.sum(dtype=wide) for weight in weights)
    return {
        "retain": (1 - forget_weight) * (n_forget + n_retain) / n_retain,
        "forget": -forget_weight * (n_forget + n_retain) / n_forget,
        "cap": xp.asarray(cap, wide),
    }


@dataclasses.dataclass(frozen=True)
class _Contrast(InEitherMode):
    """The terms of the rows to retain and of those to forget, weighted by `frozen`."""

    model: Model
    training_mode: bool
    is_capped: bool

    @property
    def bounded(self) -> bool | None:
        return True if self.is_capped else None

    def __call__(
        self, variables: PyTree, batch: Batch, frozen: dict[str, PyTree], key: jax.Array
    ) -> tuple[Terms, PyTree]:
        labels, forget = batch.targets
        batch = batch._replace(targets=labels)
        losses, weight, variables = row_losses(
            self.model, variables, batch, training=self.training_mode, key=key
        )
        to_retain, to_forget = (jnp.where(rows, weight, 0) for rows in (~forget, forget))
        total, capped = total_weight(weight), jnp.minimum(losses, frozen["cap"])
        return {
            "retain": Term(weighted_sum(losses, to_retain), total, frozen["retain"]),
            "forget": Term(weighted_sum(capped, to_forget), total, frozen["forget"]),
        }, variables
