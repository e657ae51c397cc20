"""Relearning: how many steps of training bring the forgotten examples back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from mu_jax import losses
from mu_jax.data.batches import Batch, Batches, in_memory
from mu_jax.evaluation.accuracy import as_float
from mu_jax.loops.fit import fit
from mu_jax.loops.gradients import Terms, plain
from mu_jax.model import Model
from mu_jax.objectives.modes import InEitherMode
from mu_jax.objectives.supervised import supervised
from mu_jax.probes._metrics import Metric, mean_metric

PyTree = Any
Direction = Literal["rise", "fall"]


def correctness(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """1 where the largest logit is the label's, else 0; NaN where a logit is NaN, f32[B]."""
    found = (jnp.argmax(logits, -1) == labels).astype(jnp.float32)
    return jnp.where(jnp.isnan(logits).any(-1), jnp.nan, found)  # argmax takes NaN for the largest


def absolute_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """`|f - t|`, f32[B]; with several outputs the root of their mean squared error."""
    return jnp.sqrt(losses.squared_error(outputs, targets))


def relearning_curve(
    model: Model,
    optimizer: optax.GradientTransformation,
    variables: PyTree,
    relearn_on: Batches | Iterable[Batch],
    evaluate_on: Any,
    *,
    key: jax.Array,
    epochs: int = 10,
    steps: int | None = None,
    batch_size: int | None = 256,
    metric: Metric = correctness,
    training_mode: bool = True,
) -> jax.Array:
    """The metric on the forget set before training, and after every step of it.

    Entry t is `sum_i w_i metric_i(theta_t) / sum_i w_i` over `evaluate_on`, in inference mode,
    where theta_t are the variables after t optimizer steps on `relearn_on`. A copy is trained: the
    given variables stay as they are. The key drives the order of the examples, so models that are
    compared with one key see the same batches; take at least five keys (`jax.vmap` over them).

    Args:
      model: the model.
      optimizer: from a fresh state; the published one is `optax.adam(1e-3)`. One that reads the
        value of the objective (a line search) is given the metric instead.
      variables: the unlearned model, or the retrained one.
      relearn_on: the full training set (published), or the forget set alone.
      evaluate_on: forget examples to evaluate, better not those of `relearn_on`; kept in memory.
      key: a PRNG key.
      epochs: passes over `relearn_on`, at most 10 as published. steps: number of steps instead.
      batch_size: 256 as published; None for an iterable of batches.
      metric: `(outputs, targets) -> f32[B]`, such as `correctness` or `absolute_error`; pass the
        same object again to reuse its compilation.
      training_mode: move batch statistics and use dropout, as training does.

    Returns:
      f32[steps + 1].

    Raises:
      ValueError: no examples to evaluate, or a metric that is not one number per example.

    Cost: that of `mu.fit`, and one forward pass over `evaluate_on` per step.

    Example:
      >>> import mu_jax as mu
      >>> data = mu.batches(jnp.eye(4), jnp.array([0, 1, 0, 1]), batch_size=2)
      >>> forget, retain = mu.split(data, [3])
      >>> predict = lambda w, state, x: x @ w
      >>> model = mu.from_function(predict, optax.softmax_cross_entropy_with_integer_labels)
      >>> unlearned = mu.Variables(jnp.zeros((4, 2)).at[3, 0].set(0.3))
      >>> curves = jax.vmap(lambda key: relearning_curve(
      ...     model, optax.sgd(0.5), unlearned, data, forget, key=key, steps=4))(
      ...         jax.random.split(jax.random.key(0), 5))
      >>> times = relearn_time(curves, relearn_target(1.0))
      >>> curves[0].tolist(), float(median_relearn_time(times).steps)
      ([0.0, 0.0, 0.0, 1.0, 1.0], 3.0)

    References:
      V. Chundawat, A. Tarun, M. Mandal, M. Kankanhalli. Zero-Shot Machine Unlearning. IEEE
      Transactions on Information Forensics and Security 2023.
    """
    return relearn(
        model,
        optimizer,
        variables,
        relearn_on,
        evaluate_on,
        key=key,
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        metric=metric,
        training_mode=training_mode,
    ).curve


class Relearned(NamedTuple):
    """Result of `relearn`. variables: after the last step. curve: f32[steps + 1]."""

    variables: PyTree
    curve: jax.Array


def relearn(
    model: Model,
    optimizer: optax.GradientTransformation,
    variables: PyTree,
    relearn_on: Batches | Iterable[Batch],
    evaluate_on: Any,
    *,
    key: jax.Array,
    epochs: int = 10,
    steps: int | None = None,
    batch_size: int | None = 256,
    metric: Metric = correctness,
    training_mode: bool = True,
) -> Relearned:
    """`relearning_curve`, and the variables behind its last step.

    What is too dear to measure at every step, such as the exposure of secrets, is then measured
    once. Language models are relearned on a part of what was forgotten and measured on the rest
    (`mu.scoring.language.Relearning`).

    Args, Raises, Cost: as `relearning_curve`.

    Returns:
      `Relearned`.
    """
    examples = in_memory(evaluate_on)
    objective = _Recorded(model, metric, training_mode)
    state, info = fit(
        model,
        objective,
        optimizer,
        variables,
        relearn_on,
        key=key,
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        frozen={"evaluation": examples},
        gradients=_report_metric,
    )
    last = mean_metric(model, metric, state.variables, examples)
    return Relearned(state.variables, jnp.append(info.loss, last.sum / last.weight))


@dataclasses.dataclass(frozen=True)
class _Recorded(InEitherMode):
    """The supervised loss, and beside it the metric on other examples, without a gradient."""

    model: Model
    metric: Metric
    training_mode: bool

    def __call__(
        self, variables: PyTree, batch: Batch, frozen: dict[str, PyTree], key: jax.Array
    ) -> tuple[Terms, PyTree]:
        loss = supervised(self.model, training_mode=self.training_mode)
        found, moved = loss(variables, batch, {}, key)
        fixed = jax.lax.stop_gradient(variables)
        metric = mean_metric(self.model, self.metric, fixed, frozen["evaluation"])
        return {**found, "metric": metric}, moved


def _report_metric(terms, params, batch):
    """`plain`, but what a fit records as its loss is the metric alone."""
    grads, found, aux = plain(terms, params, batch)
    return grads, {"metric": found["metric"]}, aux


class RelearnTime(NamedTuple):
    """When a relearning curve reached its target.

    Attributes:
      steps: optimizer steps, f32[...]; the number trained where the target was not reached, NaN
        where the metric broke down before.
      reached: bool[...].
    """

    steps: jax.Array
    reached: jax.Array


def relearn_target(
    original: ArrayLike, *, alpha: float = 0.05, direction: Direction = "rise"
) -> jax.Array:
    """What relearning has to reach: `(1 - alpha) original`, or `(1 + alpha) original` of an error.

    Args:
      original: the original model's metric on the same examples.
      alpha: relative tolerance, 5 % as published; 10 % is also in use.
      direction: "rise" for an accuracy, "fall" for an error.

    Example:
      >>> float(relearn_target(0.5, alpha=0.25)), float(relearn_target(2.0, direction="fall"))
      (0.375, 2.0999999046325684)
    """
    sign = 1 if _rises(direction) else -1
    return (1 - sign * alpha) * as_float(original)


def relearn_time(
    curve: ArrayLike, target: ArrayLike, *, direction: Direction = "rise"
) -> RelearnTime:
    """The first step at which a relearning curve is at its target or beyond.

    Args:
      curve: f32[..., steps + 1], see `relearning_curve`.
      target: f32[...], see `relearn_target`; missing it by a rounding error counts as reaching.
      direction: "rise" for an accuracy, "fall" for an error.

    Returns:
      `RelearnTime`.

    Differences from the reference program:
      1. A model that is at the target before any training takes 0 steps, not 1.
      2. A run that ends short of the target says so.

    Example:
      >>> relearn_time([[0.0, 0.5, 0.9, 0.8], [0.0, 0.1, 0.2, 0.3]], 0.75)
      RelearnTime(steps=Array([2., 3.], dtype=float32), reached=Array([ True, False], dtype=bool))
    """
    curve, target = as_float(curve), as_float(target)[..., None]
    slack = 4 * jnp.finfo(curve.dtype).eps * jnp.abs(target)
    met = curve >= target - slack if _rises(direction) else curve <= target + slack
    reached = met.any(-1)
    steps = jnp.where(reached, met.argmax(-1), curve.shape[-1] - 1).astype(curve.dtype)
    before = jnp.arange(curve.shape[-1]) <= steps[..., None]
    broken = (jnp.isnan(curve) & before).any(-1)
    return RelearnTime(jnp.where(broken, jnp.nan, steps), reached & ~broken)


def median_relearn_time(times: RelearnTime) -> RelearnTime:
    """The median over the last axis, of runs with different keys.

    Runs that did not reach the target count as later than all that did, so the median is exact as
    long as it lies among the latter. A run that broke down makes it NaN.

    Args:
      times: from curves [..., keys, steps + 1]; at least five keys are advised, an odd number.

    Example:
      >>> times = RelearnTime(jnp.array([3.0, 10.0, 4.0]), jnp.array([True, False, True]))
      >>> median_relearn_time(times)
      RelearnTime(steps=Array(4., dtype=float32), reached=Array(True, dtype=bool))
    """
    late = jnp.where(times.reached | jnp.isnan(times.steps), times.steps, jnp.inf)
    ordered, count = jnp.sort(late, -1), late.shape[-1]
    median = (ordered[..., (count - 1) // 2] + ordered[..., count // 2]) / 2
    median = jnp.where(jnp.isnan(late).any(-1), jnp.nan, median)
    reached = jnp.isfinite(median)
    return RelearnTime(jnp.where(jnp.isinf(median), times.steps.max(-1), median), reached)


class AnamnesisIndex(NamedTuple):
    """The anamnesis index and what it is worth.

    Attributes:
      value: f32[...]; NaN where nothing can be said.
      is_exact: both models reached the target.
      is_lower_bound: the unlearned model did not, so the index is at least `value`.
      is_upper_bound: the retrained model did not, so the index is at most `value`.
    """

    value: jax.Array
    is_exact: jax.Array
    is_lower_bound: jax.Array
    is_upper_bound: jax.Array

    def messages(self) -> list[str]:
        """Sentences on what the index does not say; empty if it is exact."""
        sentences = {
            "is_lower_bound": "The unlearned model did not relearn: the index is a lower bound.",
            "is_upper_bound": "The retrained model did not relearn: the index is an upper bound.",
        }
        found = [text for name, text in sentences.items() if np.any(getattr(self, name))]
        if np.any(np.isnan(self.value)):
            found.append(
                "There is no index: neither model relearned, a relearning broke down, or the "
                "retrained model was at the target from the start."
            )
        return found


def anamnesis_index(unlearned: RelearnTime, retrained: RelearnTime) -> AnamnesisIndex:
    """Anamnesis index, `AIN = relearn time of the unlearned / of the retrained model`.

    1 is ideal; far below 1 information is left; above 1 the model forgets more than retraining
    does. Every approximate method that starts from the original weights is far below 1.

    Args:
      unlearned, retrained: of one target, relearned on copies with the same keys, optimizer and
        number of steps; see `relearn_time`, `median_relearn_time`.

    Returns:
      `AnamnesisIndex`; NaN where both models fell short of the target, a relearning broke down, or
      the retrained model had nothing to relearn (usual for a random forget set).

    Differences from the reference program:
      1. A run that ended short of its target gives a bound that says so; there its number of steps
         stands for the time, or the fraction becomes 1.

    Example:
      >>> yes, no = jnp.array(True), jnp.array(False)
      >>> index = anamnesis_index(RelearnTime(5.0, yes), RelearnTime(20.0, no))
      >>> float(index.value), bool(index.is_upper_bound), index.messages()
      (0.25, True, ['The retrained model did not relearn: the index is an upper bound.'])

    References:
      V. Chundawat, A. Tarun, M. Mandal, M. Kankanhalli. Zero-Shot Machine Unlearning. IEEE
      Transactions on Information Forensics and Security 2023.
    """
    steps, others = as_float(unlearned.steps), as_float(retrained.steps)
    known = (unlearned.reached | retrained.reached) & (others > 0) & ~jnp.isnan(steps)
    return AnamnesisIndex(
        value=jnp.where(known, steps / jnp.where(known, others, 1), jnp.nan),
        is_exact=known & unlearned.reached & retrained.reached,
        is_lower_bound=known & ~unlearned.reached,
        is_upper_bound=known & ~retrained.reached,
    )


def _rises(direction: Direction) -> bool:
    if direction not in ("rise", "fall"):
        raise ValueError(
            f'expected direction "rise" or "fall", found "{direction}": an accuracy rises, an '
            "error falls"
        )
    return direction == "rise"
