"""Datamodel matching (DMM): fine-tune to the outputs that attribution predicts without the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

from mu_jax.data import Batches
from mu_jax.model import Model
from mu_jax.outputs import outputs
from mu_jax.transforms.matching import Recipe, match
from mu_jax.transforms.transform import Transform

PyTree = Any
Attribution = Callable[[Model, PyTree, Batches, Batches], jax.Array]


def dmm(
    model: Model,
    attribution: Attribution,
    optimizer: optax.GradientTransformation,
    *,
    multiplier: jax.Array | float = 1.0,
    recipe: Recipe = Recipe(),
) -> Transform:
    """Datamodel matching: `h(x) = f(x; theta_0) - multiplier * B(x)`, then fit f to h.

    `B(x)`, the rise of every output of x that the forget set caused, is predicted by attribution.
    The targets are computed once, with the frozen start, on the forget set and a sample of the
    retain set; each start has its own, so the spread of an ensemble is kept. A squared distance to
    fixed targets is stable: more steps do not overshoot, as ascent does.

    Args:
      model: the model, with outputs f32[B, K].
      attribution: `(model, variables, forget, examples) -> f32[n, K]`, the summed effect of
        *including* the forget set, positive where it raises an output; made by `mu.attribution`.
      optimizer: from a fresh state. The released code: `optax.adam` at 5e-4, times 0.95 after every
        epoch (`optax.exponential_decay` with `staircase=True`).
      multiplier: scale of the prediction, may be traced. Attributions of half-size subsets come out
        too large (about 0.9 in the paper), TRAK's have no scale at all: calibrate on another group.
      recipe: the matching pool and the fit, see `mu.transforms.matching.Recipe`.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; the key draws the pool and
      shuffles; `info.details` is a `FitInfo`.

    Cost: one forward pass over the pool, the attribution of its examples, and `epochs` passes over
    `forget_multiplier m + retain_multiplier m` examples.

    Differences from the released code:
      1. Inference mode and shuffling by default, see `Recipe`.
      2. The retain sample follows the key; there it is the same for every start.
      3. Sums over forget examples are in float32; there in float16.

    References:
      K. Georgiev, R. Rinberg, S. M. Park, S. Garg, A. Ilyas, A. Madry, S. Neel. Attribute-to-Delete:
      Machine Unlearning via Datamodel Matching. ICLR 2025.
    """

    def unlearn(model: Model, key: jax.Array, variables: PyTree, forget: Any, retain: Any):
        def targets(pool: Batches) -> jax.Array:
            effect = attribution(model, variables, forget, pool)
            return outputs(model, variables, pool) - multiplier * effect

        return match(model, optimizer, recipe, targets, key, variables, (forget, retain))

    return Transform(model, unlearn)
