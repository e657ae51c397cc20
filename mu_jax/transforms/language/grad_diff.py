"""GradDiff: ascend on tokens to forget, descend on drawn retained ones."""

from __future__ import annotations

from typing import Any

import jax
import optax

from mu_jax.loops.gradients import Term
from mu_jax.model import Model
from mu_jax.objectives import token_terms
from mu_jax.objectives.pairing import Rows
from mu_jax.transforms._shared.pairing import Recipe, unlearn_pairs
from mu_jax.transforms._shared.transform import Unlearn, method

PyTree = Any
_DEFAULT = Recipe()


@method
def grad_diff(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    recipe: Recipe = _DEFAULT,
) -> Unlearn:
    """Gradient difference: `-gamma CE(forget) + alpha l_retain`, with means over tokens.

    The baseline of language unlearning. It fails by collapse, since its forget term has no bound:
    the model first loses the rows to forget, then all text, and their probability falls far below
    that of a model that never saw them, which tells them apart. Keep the steps few, and compare
    with retraining.
    `mu.gradient_ascent` is the case without a retain term. `mu.neg_grad_plus` has the same two
    terms, weighted by the sizes of the sets, over both sets shuffled together, with a cap; here the
    forget set makes the epoch, and retained rows are drawn beside it.

    Args:
      model: a language model with logits [B, T, V] and the loss
        `mu.token_losses.TokenCrossEntropy()`.
      optimizer: any optax optimizer, from a fresh state.
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
      1. Means are over the tokens of the whole batch, whatever the devices; there over each
         device's part.
      2. The retain term `kl` is a mean over scored tokens; there over all positions (`kl_all`).

    References:
      B. Liu, Q. Liu, P. Stone. Continual Learning and Private Unlearning. CoLLAs 2022.
      P. Maini, Z. Feng, A. Schwarzschild, Z. C. Lipton, J. Z. Kolter. TOFU: A Task of Fictitious
      Unlearning for LLMs. COLM 2024.

    Example:
      >>> import jax, jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: w[x], mu.token_losses.TokenCrossEntropy())
      >>> tokens = jnp.array([[0, 1], [2, 3]])
      >>> targets = mu.data.TokenTargets(tokens, jnp.array([[0.0, 1.0], [0.0, 1.0]]))
      >>> forget, retain = mu.split(mu.batches(tokens, targets, batch_size=1), [0])
      >>> start = mu.Variables(3.0 * jnp.eye(4)[jnp.array([1, 0, 3, 2])])
      >>> unlearn = mu.grad_diff(model, optax.sgd(1.0))
      >>> unlearned, _ = unlearn(jax.random.key(0), start, forget, retain)
      >>> found = jax.nn.softmax(unlearned.params)[jnp.array([0, 2]), jnp.array([1, 3])]
      >>> bool(found[0] < 0.4), bool(found[1] > 0.8)
      (True, True)
    """

    return unlearn_pairs(model, optimizer, recipe, _term, {})


def _term(rows: Rows, numbers: dict[str, jax.Array]) -> Term:
    del numbers
    return token_terms.token_cross_entropy(rows.logits, rows.targets, rows.weight, -1.0)
