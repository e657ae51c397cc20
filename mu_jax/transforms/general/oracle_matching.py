"""Oracle matching: fine-tune to the outputs of models retrained without the forget set."""

from __future__ import annotations

from typing import Any

import jax
import optax

from mu_jax import _at_once as at_once
from mu_jax._tracing import cached
from mu_jax.data.batches import Batches
from mu_jax.loops.predict import RowFunction, map_rows, unweighted
from mu_jax.model import Model
from mu_jax.transforms._shared.matching import RELEASED, Recipe, match
from mu_jax.transforms._shared.structured import check_one_output
from mu_jax.transforms._shared.transform import Unlearn, method

PyTree = Any


@method
def oracle_matching(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    oracles: PyTree,
    recipe: Recipe = RELEASED,
) -> Unlearn:
    """Fit the mean outputs of oracles: what datamodel matching aims at, with the oracles known.

    Minimizes `mean_i |f(x_i) - h(x_i)|^2 / K`, `h(x) = mean_j f_j(x)` over J oracles, on the forget
    set and a sample of the retain set. A bound on what matching can reach, not a method: it needs
    the retrained models. Do not score it with the oracles it was fitted to.

    It fails on retained examples that are not in the sample: matching the outputs of other models
    undoes what was fitted to them. Draw more.

    Args:
      model: the model, with outputs f32[B, K].
      optimizer: from a fresh state.
      oracles: variables of J retrained models, stacked on a leading axis, or a list of them.
      recipe: the matching pool and the fit, see `mu.transforms.matching.Recipe`.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; `info.details` is a `FitInfo`.

    Cost: J forward passes over the pool, and `epochs` passes over it; memory of the targets, f32[n,
    K], one gradient and one optimizer state.

    Differences from the released code:
      1. Inference mode and shuffling by default, see `Recipe`.
      2. The retain sample follows the key; there it is the same for every start.
      3. All oracles that are given count; there some are drawn, in the order of a folder.

    References:
      K. Georgiev, R. Rinberg, S. M. Park, S. Garg, A. Ilyas, A. Madry, S. Neel.
      Attribute-to-Delete: Machine Unlearning via Datamodel Matching. ICLR 2025.

    Example:
      >>> import jax, jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)
      >>> data = mu.batches(jnp.eye(3), jnp.arange(3), batch_size=3)
      >>> forget, retain = mu.split(data, [2])
      >>> oracles = mu.Variables(jnp.stack([jnp.diag(jnp.array([4.0, 4.0, x])) for x in (-3, 1)]))
      >>> unlearn = mu.oracle_matching(
      ...     model, optax.sgd(1.0), oracles=oracles, recipe=mu.MatchingRecipe(epochs=50))
      >>> unlearned, _ = unlearn(jax.random.key(0), mu.Variables(4 * jnp.eye(3)), forget, retain)
      >>> jnp.diag(unlearned.params).round(1).tolist()  # the mean of the oracles
      [4.0, 4.0, -1.0]
    """

    recipe.check()
    if isinstance(oracles, list) or type(oracles) is tuple:  # `Variables` are a tuple as well
        oracles = at_once.stacked(oracles)

    def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):
        def targets(pool: Batches) -> jax.Array:
            check_one_output(model, variables, pool, "oracle matching")
            return map_rows(_mean_outputs(model), unweighted(pool), oracles)

        return match(model, optimizer, recipe, targets, key, variables, (forget, retain))

    return unlearn


@cached(maxsize=64)
def _mean_outputs(model: Model) -> RowFunction:
    def rows(batch, oracles):
        return jax.lax.map(lambda one: model.apply(one, batch.inputs), oracles).mean(axis=0)

    return rows
