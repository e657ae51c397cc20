"""Datamodel matching (DMM): fine-tune to the outputs that attribution predicts without the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from mu_jax._at_once import elementwise
from mu_jax.data.batches import Batches
from mu_jax.data.checks import check_range
from mu_jax.loops.predict import outputs
from mu_jax.model import Model
from mu_jax.transforms._shared.matching import RELEASED, Recipe, match
from mu_jax.transforms._shared.transform import Unlearn, method

PyTree = Any
Function = Callable[[Model, PyTree, Batches, Batches], jax.Array]


class Attribution(Protocol):
    """What predicts effects: `mu.attribution.trak(...)`, `mu.attribution.ridge(...)`, ..."""

    def effect(self, forget: Batches, examples: Batches) -> jax.Array:
        """Summed effect of including the forget set on the outputs of examples, f32[n, K]."""


@method
def dmm(
    model: Model,
    attribution: Attribution | Function,
    optimizer: optax.GradientTransformation,
    *,
    multiplier: jax.Array | float = 1.0,
    recipe: Recipe = RELEASED,
) -> Unlearn:
    """Datamodel matching: `h(x) = f(x; theta_0) - multiplier * B(x)`, then fit f to h.

    `B(x)`, the rise of every output of x that the forget set caused, is predicted by attribution.
    The targets are computed once, with the frozen start, on the forget set and a sample of the
    retain set; each start has its own, so the spread of an ensemble is kept. A squared distance to
    fixed targets is stable: more steps do not overshoot, as ascent does.

    It fails where the attribution does: with a wrong scale outputs go half of the way or too far,
    and of a few examples that act strongly on one another the prediction itself is off. Retained
    examples outside the pool may drift: draw more of them.

    Args:
      model: the model, with outputs f32[B, K].
      attribution: what `mu.attribution` makes (`trak` with `weight_decay` predicts magnitudes,
        plain `trak` only ranks), or a function `(model, variables, forget, examples) -> f32[n, K]`:
        the summed effect of *including* the forget set, positive where it raises an output.
      optimizer: from a fresh state. The released code: `optax.adam` at 5e-4, times 0.95 after every
        epoch (`optax.exponential_decay` with `staircase=True`).
      multiplier: scale of the prediction, may be traced. Attributions of half-size subsets come out
        too large (about 0.9 in the paper), TRAK's have no scale at all: calibrate on another group.
      recipe: the matching pool and the fit, see `mu.transforms.matching.Recipe`.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; the key draws the pool and
      shuffles; `info.details` is a `FitInfo`.

    Raises:
      ValueError: an effect of another shape than the outputs of the pool.

    Cost: one forward pass over the pool, the attribution of its examples, and `epochs` passes over
    `forget_multiplier m + retain_multiplier m` examples; memory of the targets, f32[n, K], one
    gradient and one optimizer state.

    Differences from the released code:
      1. Inference mode and shuffling by default, see `Recipe`.
      2. The retain sample follows the key; there it is the same for every start.
      3. Sums over forget examples are in float32; there in float16.

    References:
      K. Georgiev, R. Rinberg, S. M. Park, S. Garg, A. Ilyas, A. Madry, S. Neel.
      Attribute-to-Delete: Machine Unlearning via Datamodel Matching. ICLR 2025.

    Example:
      >>> import jax, jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)
      >>> data = mu.batches(jnp.eye(4), jnp.array([0, 1, 0, 1]), batch_size=2)
      >>> forget, retain = mu.split(data, [2])
      >>> key, variables = jax.random.key(0), mu.Variables(0.1 * jnp.ones((4, 2)))
      >>> store = mu.attribution.trak(
      ...     model, [variables], data, key=key, dim=None, weight_decay=0.1)
      >>> recipe = mu.MatchingRecipe(epochs=50, batch_size=4)
      >>> unlearn = mu.dmm(model, store, optax.sgd(0.5), recipe=recipe)
      >>> unlearned, _ = unlearn(key, variables, forget, retain)
      >>> unlearned.params[2].round(2)
      Array([-0.45,  0.65], dtype=float32)
    """

    check_range(-math.inf, multiplier=multiplier)
    recipe.check()

    def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):
        def targets(pool: Batches) -> jax.Array:
            if hasattr(attribution, "effect"):
                effect = attribution.effect(forget, pool)
            else:
                effect = attribution(model, variables, forget, pool)
            known = outputs(model, variables, pool)
            if jnp.shape(effect) != known.shape:
                raise ValueError(
                    f"expected an effect of shape {known.shape}, one number for each output of "
                    f"each example, found {jnp.shape(effect)}: let the attribution give f32[n, K] "
                    "for the examples it is given"
                )
            return _without(known, effect, multiplier)

        return match(model, optimizer, recipe, targets, key, variables, (forget, retain))

    return unlearn


@elementwise
def _without(xp: Any, known: jax.Array, effect: jax.Array, multiplier: Any) -> jax.Array:
    del xp
    return known - multiplier * effect
