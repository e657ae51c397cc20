"""Boundary shrink: the forgotten rows get the class across their nearest decision boundary."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mu_jax._tracing import cached
from mu_jax.data.batches import Batch
from mu_jax.data.checks import check_counts, check_range
from mu_jax.loops.fit import FitInfo, fit
from mu_jax.loops.gradients import Gradients
from mu_jax.loops.labels import check_labels, counted
from mu_jax.losses import total_weight, weighted_sum
from mu_jax.model import Model
from mu_jax.objectives.boundary import Attack, nearest, shrink
from mu_jax.statistics import collect
from mu_jax.statistics.accumulator import SumOf
from mu_jax.transforms._shared.transform import Unlearn, method, number, passes, report

PyTree = Any


class BoundaryShrinkInfo(NamedTuple):
    """What boundary shrink did.

    Attributes:
      fit: the fit of the forget set to the nearest classes.
      crossed: share of the forget set whose attack succeeded, so that its new label is not its own,
        f32[]. The others are trained on their own label.
      outside: share of the forget set with inputs outside the bounds, f32[]; 0 without bounds.
    """

    fit: FitInfo
    crossed: jax.Array
    outside: jax.Array

    def messages(self) -> list[str]:
        """Sentences on a fit that diverged, attacks that failed, and inputs of other units."""
        found = self.fit.messages()
        if np.any(np.asarray(self.crossed) < 0.5):
            found.append(
                f"The attack moved {np.min(self.crossed):.0%} of the forget set into another "
                "class, and the others are trained on their own: raise epsilon."
            )
        if np.any(np.asarray(self.outside) > 0):
            found.append(
                f"{np.max(self.outside):.0%} of the forget set have inputs outside clip: give "
                "clip and epsilon in the units of the inputs, or clip=None."
            )
        return found


@method
def boundary_shrink(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    epsilon: jax.Array | float = 0.1,
    epochs: int = 10,
    attack_steps: int = 1,
    clip: tuple[Any, Any] | None = (0.0, 1.0),
    levels: int | None = 255,
    weighted: bool = False,
    curvature_weight: jax.Array | float = 0.0,
    batch_size: int | None = None,
    training_mode: bool = False,
    gradients: Gradients | None = None,
) -> Unlearn:
    """Boundary unlearning by shrinking: what is forgotten becomes its nearest other class.

    With the original model f0 and its loss l,

    1. `x' = round_255(clip(x + epsilon sign(grad_x l(f0(x), y)), 0, 1))`, in inference mode, and
       `y~ = argmax f0(x')`, the class across the nearest boundary. (It is y where the attack fails:
       `info.details.crossed` is the share of the others.)
    2. `min mean_i l(f(x_i), y~_i)` over the forget set. The retain set is not read.

    Two variants of the program: weights `3 sigmoid(5 (p_2 - p_1 - 1/2))` with the two largest
    probabilities of `f0(x')`, and a term `curvature_weight |c(f0) - c(f)|` over the rows of a
    batch, where `c_i = |grad_x L(x_i + z_i) - grad_x L(x_i)|` at the true label, L the mean of the
    batch and z a step of length 0.9 along the sign of the gradient.

    Args:
      model: a classifier with outputs f32[B, C] and integer labels, of floating-point inputs.
      optimizer: from a fresh state; SGD at 1e-5 with momentum 0.9 as published, at which little
        moves: search the rate upwards.
      epsilon: length of the attack in every coordinate, 0.1 as published, for pixels in [0, 1]; may
        be traced. A number, or an array that fits the inputs: `epsilon / std` for channels that
        were divided by `std`.
      epochs: passes over the forget set, 10 as published.
      attack_steps: number of steps of the attack, each of `epsilon / attack_steps`; 1 as published.
      clip: the least and the greatest value of an input, numbers or arrays that fit the inputs.
        Default: (0, 1), for pixels that the model itself normalizes. None: no bounds, no rounding.
      levels: attacked inputs are rounded to so many parts of the range, 255 as published; None
        does not round.
      weighted: the weights of the program's variant. curvature_weight: of its other variant,
        0.7 there; may be traced. Both are off by default.
      batch_size: examples per step, 64 as published; default that of the set.
      training_mode: move batch statistics and use dropout; default inference mode.
      gradients: how to take the gradient, see `mu.fit`.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; the key shuffles;
      `info.details` is a `BoundaryShrinkInfo`.

    Raises:
      ValueError: a negative epsilon; bounds in the wrong order; no classification, or labels that
        are no class of the model. TypeError: inputs that are no floats.

    Cost: `epochs` passes over the forget set, each with one forward and backward pass and one
    forward pass more of the original model, and one such pass to count; memory of a second set of
    variables. With `curvature_weight` about five passes more.

    It fails where the attack does: classes far apart need a larger epsilon. Features of what is
    forgotten stay, and so does accuracy on it where the optimizer moves little.

    Differences from the reference programs (`TY-LEE-KR/Boundary-Unlearning-Code`, and
    `OPTML-Group/Unlearn-Saliency`, whose results are the same):
      1. Inputs are attacked in their own units, by `clip` and `epsilon`. The first program undoes a
         normalization by constants that are not those of its loader.
      2. Any inputs; there images of three channels.
      3. `levels` is read; there attacked inputs are always rounded.
      4. Inference mode by default.
      5. The derivative of the curvature term at distance 0, the first step, is 0; there NaN, or the
         direction of rounding.

    References:
      M. Chen, W. Gao, G. Liu, K. Peng, C. Wang. Boundary Unlearning: Rapid Forgetting of Deep
      Networks via Shifting the Decision Boundary. CVPR 2023.

    Example:
      >>> import mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)
      >>> data = mu.batches(jnp.array([[1.0, 0.9, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
      ...                   jnp.arange(3), batch_size=3)
      >>> unlearn = mu.boundary_shrink(model, optax.sgd(0.5), epochs=20)
      >>> start = mu.Variables(4 * jnp.eye(3))
      >>> unlearned, info = unlearn(jax.random.key(0), start, *mu.split(data, [0]))
      >>> model.apply(unlearned, data.inputs).argmax(1).tolist(), float(info.details.crossed)
      ([1, 1, 2], 1.0)
    """
    _check(epsilon, attack_steps, clip, levels, curvature_weight)
    attack = Attack(attack_steps, clip is not None, levels)
    curved = not (isinstance(curvature_weight, int | float) and curvature_weight == 0)

    def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):
        check_labels(model, variables, forget=forget)
        numbers = _numbers(epsilon, clip, curvature_weight)
        tried = collect(_tried(model, attack), (variables, numbers), forget)
        state, info = fit(
            model,
            shrink(model, attack, weighted, curved, training_mode),
            optimizer,
            variables,
            forget,
            key=key,
            epochs=epochs,
            batch_size=batch_size,
            frozen={"original": variables, "numbers": numbers},
            gradients=gradients,
        )
        share = tried.value
        return report(
            model,
            variables,
            state.variables,
            (forget, retain),
            steps=state.step,
            example_passes=passes(tried.weight, info.examples),
            details=BoundaryShrinkInfo(info, share["crossed"], share["outside"]),
        )

    return unlearn


def _check(epsilon: Any, steps: int, clip: Any, levels: int | None, curvature: Any) -> None:
    check_range(epsilon=epsilon, curvature_weight=curvature)
    check_counts(1, attack_steps=steps, levels=levels)
    if clip is None or any(isinstance(bound, jax.core.Tracer) for bound in clip):
        return
    low, high = clip
    if not np.all(np.asarray(low) < np.asarray(high)):
        raise ValueError(
            f"expected clip as (low, high) with low < high, found {clip}: give the least and the "
            "greatest value of an input, or None"
        )


def _numbers(epsilon: Any, clip: Any, curvature: Any) -> dict[str, jax.Array]:
    wide = jax.dtypes.canonicalize_dtype(float)
    low, high = (0.0, 0.0) if clip is None else clip
    given = {"epsilon": epsilon, "low": low, "high": high, "curvature": curvature}
    return {
        name: number(x, wide) if np.ndim(x) == 0 else jnp.asarray(x, wide)
        for name, x in given.items()
    }


@cached(maxsize=64)
def _tried(model: Model, attack: Attack) -> SumOf:
    """Shares of the rows that an attack moves into another class, and that lie out of bounds."""

    def terms(given: tuple[PyTree, dict], batch: Batch) -> tuple[PyTree, jax.Array]:
        variables, numbers = given
        batch = counted(model, batch)
        labels = nearest(model, variables, batch, attack, numbers).labels
        outside = jnp.zeros(len(labels), bool)
        if attack.clips:
            outside = _outside(batch.inputs, numbers)
        flags = {"crossed": labels != batch.targets, "outside": outside}
        sums = {name: weighted_sum(x.astype(float), batch.weight) for name, x in flags.items()}
        return sums, total_weight(batch.weight)

    def like(given: tuple[PyTree, dict]) -> PyTree:
        return dict.fromkeys(("crossed", "outside"), jnp.zeros(()))

    return SumOf(terms, lambda given: model.params(given[0]), "shares of attacked rows", like=like)


def _outside(inputs: PyTree, numbers: dict[str, jax.Array]) -> jax.Array:
    def of(x: jax.Array) -> jax.Array:
        low, high = (numbers[name].astype(x.dtype) for name in ("low", "high"))
        return ((x < low) | (x > high)).reshape(len(x), -1).any(1)

    return functools.reduce(jnp.logical_or, map(of, jax.tree.leaves(inputs)))
