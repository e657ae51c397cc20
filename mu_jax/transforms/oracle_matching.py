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

    A bound on what matching can reach, not a method: it needs the retrained models. Do not score it
    with the oracles it was fitted to.

    Args:
      model: the model, with outputs f32[B, K].
      optimizer: from a fresh state.
      oracles: variables of J retrained models, stacked on a leading axis, or a list of them.
      recipe: the matching pool and the fit, see `mu.transforms.matching.Recipe`.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; `info.details` is a `FitInfo`.

    Cost: J forward passes over the pool, and `epochs` passes over it.

    References:
      K. Georgiev, R. Rinberg, S. M. Park, S. Garg, A. Ilyas, A. Madry, S. Neel.
      Attribute-to-Delete: Machine Unlearning via Datamodel Matching. ICLR 2025.
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
