"""NPO: negative preference optimization of rows of tokens."""

from __future__ import annotations

from typing import Any

import jax
import optax

from mu_jax.data.checks import check_range
from mu_jax.loops.gradients import Term
from mu_jax.model import Model
from mu_jax.objectives import preference
from mu_jax.objectives.pairing import Rows
from mu_jax.transforms._shared.pairing import Recipe, unlearn_pairs
from mu_jax.transforms._shared.transform import Unlearn, method

PyTree = Any
_DEFAULT = Recipe()


@method
def npo(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    beta: jax.Array | float = 0.1,
    documents: int = 1,
    recipe: Recipe = _DEFAULT,
) -> Unlearn:
    """Negative preference optimization: ascent that fades as a sequence is forgotten.

    With the summed loss L of the scored tokens of a sequence, before (ref) and now,
    `-(gamma 2/beta) mean_forget log sigmoid(beta (L_i - L_i,ref)) + alpha l_retain`. At the start
    the gradient is that of gradient ascent; the weight of a sequence then falls from 1 to 0, so
    that the loss has a bound. The reference is one number for each sequence: `reference` of the
    targets, as `mu.objectives.reference_nll` computes it, or else computed here once, from the
    given variables. No second model is in memory, unless the retain term is a divergence.

    It fails where beta is too large for sums over long texts (nothing is forgotten), and where
    whole texts are scored that share much with the retained ones: score secrets alone. A few steps
    on some forgotten examples bring others back.

    Args:
      model: a language model with logits [B, T, V] and the loss
        `mu.token_losses.TokenCrossEntropy()`.
      optimizer: any optax optimizer, from a fresh state.
      beta: inverse temperature of a sum over tokens, may be traced; 0.1 as in the publication.
      documents: the most documents in a packed row to forget, whose inputs are then
        `mu.data.Tokens`; 1: each row is one document.
      recipe: the retain term, the weights and the length of the fit, see `mu.PairingRecipe`.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; the key shuffles and draws;
      `info.details` is a `FitInfo`.

    Raises:
      TypeError: targets that are no `mu.data.TokenTargets`.
      ValueError: rows of two lengths; a recipe with negative weights.

    Cost: one forward pass over the forget set for the reference, and `epochs` passes over it, each
    with as many retained rows; memory of one gradient and one optimizer state, and with a
    divergence as the retain term of the parameters once more.

    Differences from the reference program (`locuslab/open-unlearning`):
      1. The reference scores are computed once; there a second model computes them in every step.
      2. Means are over the whole batch, whatever the devices; there over each device's part.
      3. A sequence without scored tokens is in no mean; there it adds a constant.

    References:
      R. Zhang, L. Lin, Y. Bai, S. Mei. Negative Preference Optimization: From Catastrophic Collapse
      to Effective Unlearning. COLM 2024.

    Example:
      >>> import jax, jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: w[x], mu.token_losses.TokenCrossEntropy())
      >>> tokens = jnp.array([[0, 1], [2, 3]])
      >>> targets = mu.data.TokenTargets(tokens, jnp.array([[0.0, 1.0], [0.0, 1.0]]))
      >>> forget, retain = mu.split(mu.batches(tokens, targets, batch_size=1), [0])
      >>> start = mu.Variables(3.0 * jnp.eye(4)[jnp.array([1, 0, 3, 2])])
      >>> unlearn = mu.npo(model, optax.sgd(1.0))
      >>> unlearned, _ = unlearn(jax.random.key(0), start, forget, retain)
      >>> found = jax.nn.softmax(unlearned.params)[jnp.array([0, 2]), jnp.array([1, 3])]
      >>> bool(found[0] < 0.4), bool(found[1] > 0.8)
      (True, True)
    """

    check_range(0, beta=beta)
    return unlearn_pairs(
        model, optimizer, recipe, _term, {"beta": beta}, documents=documents, keeps_scores=True
    )


def _term(rows: Rows, numbers: dict[str, jax.Array]) -> Term:
    return preference.npo(
        rows.logits,
        rows.targets,
        rows.weight,
        beta=numbers["beta"],
        segment=rows.segment,
        documents=rows.documents,
    )
