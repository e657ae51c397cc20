"""SatImp: ascent in which tokens weigh by saturation and importance."""

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
_DEFAULT = Recipe(gamma=0.1, epochs=5)


@method
def satimp(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    beta1: jax.Array | float = 5.0,
    beta2: jax.Array | float = 1.0,
    recipe: Recipe = _DEFAULT,
) -> Unlearn:
    """Ascent by saturation and importance: `-gamma sum_t w_t n_t / count + alpha l_retain`.

    `w_t = p_t^beta1 (1 - p_t)^beta2` without a gradient: tokens that are unlearned (p near 0) and
    tokens that are certain (p near 1, such as the rest of a word) weigh little. It fails on a text
    that the model knows by heart: p is near 1 everywhere, and its forget term starts at almost 0.

    Args:
      model: a language model with logits [B, T, V] and the loss
        `mu.token_losses.TokenCrossEntropy()`.
      optimizer: any optax optimizer, from a fresh state.
      beta1: how little unlikely tokens weigh, may be traced. beta2: how little certain ones do.
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
      P. Yang, Q. Wang, Z. Huang, T. Liu, C. Zhang, B. Han. Exploring Criteria of Loss Reweighting
      to Enhance LLM Unlearning. ICML 2025.

    Example:
      >>> import jax, jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: w[x], mu.token_losses.TokenCrossEntropy())
      >>> tokens = jnp.array([[0, 1], [2, 3]])
      >>> targets = mu.data.TokenTargets(tokens, jnp.array([[0.0, 1.0], [0.0, 1.0]]))
      >>> forget, retain = mu.split(mu.batches(tokens, targets, batch_size=1), [0])
      >>> start = mu.Variables(3.0 * jnp.eye(4)[jnp.array([1, 0, 3, 2])])
      >>> unlearn = mu.satimp(model, optax.sgd(400.0))
      >>> unlearned, _ = unlearn(jax.random.key(0), start, forget, retain)
      >>> found = jax.nn.softmax(unlearned.params)[jnp.array([0, 2]), jnp.array([1, 3])]
      >>> bool(found[0] < 0.4), bool(found[1] > 0.8)
      (True, True)
    """

    check_range(0, beta1=beta1, beta2=beta2)
    return unlearn_pairs(model, optimizer, recipe, _term, {"beta1": beta1, "beta2": beta2})


def _term(rows: Rows, numbers: dict[str, jax.Array]) -> Term:
    return weighted.satimp(
        rows.logits, rows.targets, rows.weight, beta1=numbers["beta1"], beta2=numbers["beta2"]
    )
