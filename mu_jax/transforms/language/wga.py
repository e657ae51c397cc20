"""WGA: ascent in which each token weighs by its own probability."""

from __future__ import annotations

from typing import Any

import jax
import optax

from mu_jax.data.checks import check_range
from mu_jax.loops.gradients import Term
from mu_jax.model import Model
from mu_jax.objectives import weighted
from mu_jax.objectives.pairing import Rows
from mu_jax.transforms._shared.pairing import Recipe, unlearn_pairs
from mu_jax.transforms._shared.transform import Unlearn, method

PyTree = Any
_DEFAULT = Recipe(epochs=5)


@method
def wga(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    beta: jax.Array | float = 1.0,
    recipe: Recipe = _DEFAULT,
) -> Unlearn:
    """Weighted gradient ascent: `-gamma sum_t p_t^beta n_t / count + alpha l_retain`.

    p and n are the probability and the loss of a scored token; the weight has no gradient. Tokens
    that are already unlikely push no further, so the collapse of plain ascent comes later. It fails
    by collapse all the same where steps are many: the forget term has no reference to stop at.

    Args:
      model: a language model with logits [B, T, V] and the loss
        `mu.token_losses.TokenCrossEntropy()`.
      optimizer: any optax optimizer, from a fresh state.
      beta: power of the probability, may be traced; 0 is gradient ascent, 1 that of the program.
      recipe: the retain term, the weights and the length of the fit, see `mu.PairingRecipe`.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; the key shuffles and draws;
      `info.details` is a `FitInfo`.

    Raises:
      TypeError: targets that are no `mu.data.TokenTargets`.
      ValueError: rows of two lengths; a recipe with negative weights.

    Cost: `epochs` passes over the forget set, each with as many retained rows; memory of one
    gradient and one optimizer state, and with a divergence as the retain term of the parameters
    once more.

    Differences from the reference program (`locuslab/open-unlearning`):
      1. Means are over the tokens of the whole batch, whatever the devices.

    References:
      Q. Wang, J. P. Zhou, Z. Zhou, S. Shin, B. Han, K. Q. Weinberger. Rethinking LLM Unlearning
      Objectives: A Gradient Perspective and Go Beyond. ICLR 2025.

    Example:
      >>> import jax, jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: w[x], mu.token_losses.TokenCrossEntropy())
      >>> tokens = jnp.array([[0, 1], [2, 3]])
      >>> targets = mu.data.TokenTargets(tokens, jnp.array([[0.0, 1.0], [0.0, 1.0]]))
      >>> forget, retain = mu.split(mu.batches(tokens, targets, batch_size=1), [0])
      >>> start = mu.Variables(3.0 * jnp.eye(4)[jnp.array([1, 0, 3, 2])])
      >>> unlearn = mu.wga(model, optax.sgd(2.0))
      >>> unlearned, _ = unlearn(jax.random.key(0), start, forget, retain)
      >>> found = jax.nn.softmax(unlearned.params)[jnp.array([0, 2]), jnp.array([1, 3])]
      >>> bool(found[0] < 0.4), bool(found[1] > 0.8)
      (True, True)
    """

    check_range(0, beta=beta)
    return unlearn_pairs(model, optimizer, recipe, _term, {"beta": beta})


def _term(rows: Rows, numbers: dict[str, jax.Array]) -> Term:
    return weighted.wga(rows.logits, rows.targets, rows.weight, beta=numbers["beta"])
