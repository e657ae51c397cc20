"""l1-sparse unlearning: fine-tuning that drives weights to zero at first."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mu_jax.data.batches import Batch
from mu_jax.data.checks import check_range
from mu_jax.loops.fit import fit, num_steps, with_batch_size
from mu_jax.loops.gradients import Gradients, Term, Terms
from mu_jax.loops.labels import check_labels
from mu_jax.model import Model
from mu_jax.objectives.modes import InEitherMode
from mu_jax.objectives.supervised import supervised
from mu_jax.transforms._shared.transform import Unlearn, method, number, report_fit

PyTree = Any
Schedule = Callable[[jax.Array], jax.Array | float]


def linear_decay(done: jax.Array) -> jax.Array:
    """`1 - done`: 1, 0.9, ..., 0.1 in ten epochs."""
    return 1 - done


@method
def l1_sparse(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    gamma: jax.Array | float = 5e-4,
    epochs: int = 10,
    schedule: Schedule = linear_decay,
    batch_size: int | None = None,
    training_mode: bool = False,
    gradients: Gradients | None = None,
) -> Unlearn:
    """Fine-tuning on the retain set with an l1 penalty on all weights, which fades.

    Minimizes `mean_i l_i + gamma_e sum_j |theta_j|` over the retain set, with
    `gamma_e = gamma (1 - e / E)` in epoch e = 0, ..., E - 1. Few weights stay large, and what the
    retain set does not hold up is lost. The derivative of `|theta_j|` at 0 is 0.

    It fails where gamma is too large: the retain set is lost before the penalty fades; and at a
    gamma that is too small it is fine-tuning. Weights become small, not zero; to keep zeros, prune
    first (`mu.magnitude_prune`).

    Args:
      model: the model, of any kind.
      optimizer: from a fresh state; published for CIFAR-10: SGD at 0.01 with momentum 0.9 and
        weight decay 5e-4.
      gamma: weight of the penalty, f32[]; 5e-4 as recalled from the paper (the program's 0.2 is of
        no use). May be traced.
      epochs: E, passes over the retain set, 10 as published.
      schedule: the share of gamma that is left once the share `e / E` of the epochs is done, such
        as `lambda done: 1.0` for a penalty that stays. Default: `linear_decay`.
      batch_size: examples per step; default that of the set.
      training_mode: move batch statistics and use dropout, as published; default inference mode.
      gradients: how to take the gradient, see `mu.fit`.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; the key shuffles;
      `info.details` is a `FitInfo`, whose losses have the penalty in them. The forget set is not
      read.

    Raises:
      ValueError: a gamma that is negative or not a number.

    Cost: `epochs` passes over the retain set, as fine-tuning; memory of one gradient and one
    optimizer state.

    Differences from the reference program (`OPTML-Group/Unlearn-Sparse`):
      1. Inference mode by default; training mode there.
      2. Its option of epochs without penalty is a schedule here, `lambda done: max(1 - done E /
         (E - n), 0)` for the last n of E epochs. As many as all epochs mean a penalty that stays in
         that program, and none in its copy for SalUn.
      3. A schedule that grows, there behind another option, is `lambda done: done`.

    References:
      J. Jia, J. Liu, P. Ram, Y. Yao, G. Liu, Y. Liu, P. Sharma, S. Liu. Model Sparsity Can
      Simplify Machine Unlearning. NeurIPS 2023.

    Example:
      >>> import mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
      >>> data = mu.batches(jnp.eye(2), jnp.array([3.0, 2.0]), batch_size=1)
      >>> forget, retain = mu.split(data, [1])
      >>> unlearn = mu.l1_sparse(model, optax.sgd(0.1), gamma=0.5, epochs=8)
      >>> start = mu.Variables(jnp.array([3.0, 2.0]))
      >>> unlearned, _ = unlearn(jax.random.key(0), start, forget, retain)
      >>> [f"{x:.1f}" for x in unlearned.params]  # what the retained example needs grows back
      ['2.9', '1.8']
    """

    check_range(gamma=gamma)

    def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):
        check_labels(model, variables, retain=retain)
        steps = num_steps(with_batch_size(retain, batch_size), epochs)
        result = fit(
            model,
            _Sparse(model, training_mode, schedule),
            optimizer,
            variables,
            retain,
            key=key,
            epochs=epochs,
            batch_size=batch_size,
            gradients=gradients,
            frozen={
                "gamma": number(gamma, float),
                "epochs": number(epochs, jnp.int32),
                "steps": number(steps, jnp.int32),
            },
        )
        return report_fit(model, variables, result, (forget, retain))

    return unlearn


@dataclasses.dataclass(frozen=True)
class _Sparse(InEitherMode):
    """The supervised loss, and the l1 norm of all parameters by the schedule."""

    model: Model
    training_mode: bool
    schedule: Schedule

    @property
    def bounded(self) -> bool:
        """Both terms are 0 or more."""
        return True

    def __call__(
        self, variables: PyTree, batch: Batch, frozen: dict[str, PyTree], key: jax.Array
    ) -> tuple[Terms, PyTree]:
        own = supervised(self.model, training_mode=self.training_mode)
        terms, moved = own(variables, batch, frozen, key)
        epochs = frozen["epochs"]
        epoch = frozen["step"] // (frozen["steps"] // jnp.maximum(epochs, 1))
        share = self.schedule(epoch / epochs)
        size = l1_norm(self.model.params(variables))
        return {**terms, "l1": Term(size, jnp.ones_like(size), frozen["gamma"] * share)}, moved


def l1_norm(params: PyTree) -> jax.Array:
    """`sum_j |theta_j|` over all leaves, f32[]; its derivative is the sign, 0 at 0.

    (The derivative of `jnp.abs` at 0 is 1, and that of `jnp.linalg.norm` of order 1 as well.)
    """

    def size(leaf):
        wide = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
        return (wide * jax.lax.stop_gradient(jnp.sign(wide))).sum()

    return functools.reduce(jnp.add, map(size, jax.tree.leaves(params)))
