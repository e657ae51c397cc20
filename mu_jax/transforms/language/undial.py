"""UNDIAL: distillation from the model itself with the true tokens made unlikely."""

from __future__ import annotations

from typing import Any

import jax
import optax

from mu_jax.data.checks import check_range
from mu_jax.loops.gradients import Term
from mu_jax.model import Model
from mu_jax.objectives import distillation
from mu_jax.objectives.pairing import Rows
from mu_jax.transforms._shared.pairing import Recipe, unlearn_pairs
from mu_jax.transforms._shared.transform import Unlearn, method

PyTree = Any
_DEFAULT = Recipe(retain_term="none")


@method
def undial(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    beta: jax.Array | float = 10.0,
    recipe: Recipe = _DEFAULT,
) -> Unlearn:
    """Unlearning by self-distillation with adjusted logits.

    `gamma mean_t CE(softmax(r_t - beta onehot(y_t)), p_t) + alpha l_retain` over the scored tokens,
    with the logits r of the model before unlearning: the student is to say what the model would
    have said without the true token. The target is fixed, so more steps do not overshoot. It fails
    where several tokens of the vocabulary spell the true one: little is forgotten then.

    Args:
      model: a language model with logits [B, T, V] and the loss
        `mu.token_losses.TokenCrossEntropy()`.
      optimizer: any optax optimizer, from a fresh state.
      beta: how much the logit of the true token is lowered, may be traced.
      recipe: the retain term, the weights and the length of the fit, see `mu.PairingRecipe`.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; the key shuffles and draws;
      `info.details` is a `FitInfo`.

    Raises:
      TypeError: targets that are no `mu.data.TokenTargets`.
      ValueError: rows of two lengths; a recipe with negative weights.

    Cost: `epochs` passes over the forget set, each with one more forward pass of the model before
    unlearning, whose parameters stay in memory.

    Differences from the reference program (`locuslab/open-unlearning`):
      1. The mean is over scored tokens. There it is over all positions, and where nothing is scored
         the label -100 indexes the vocabulary and lowers the logit of an unrelated token.

    References:
      Y. R. Dong, H. Lin, M. Belkin, R. Huerta, I. Vulic. UNDIAL: Self-Distillation with Adjusted
      Logits for Robust Unlearning in Large Language Models. NAACL 2025.

    Example:
      >>> import jax, jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: w[x], mu.token_losses.TokenCrossEntropy())
      >>> tokens = jnp.array([[0, 1], [2, 3]])
      >>> targets = mu.data.TokenTargets(tokens, jnp.array([[0.0, 1.0], [0.0, 1.0]]))
      >>> forget, retain = mu.split(mu.batches(tokens, targets, batch_size=1), [0])
      >>> start = mu.Variables(3.0 * jnp.eye(4)[jnp.array([1, 0, 3, 2])])
      >>> unlearn = mu.undial(model, optax.sgd(1.0))
      >>> unlearned, _ = unlearn(jax.random.key(0), start, forget, retain)
      >>> found = jax.nn.softmax(unlearned.params)[jnp.array([0, 2]), jnp.array([1, 3])]
      >>> bool(found[0] < 0.4), bool(found[1] > 0.8)
      (True, True)
    """

    check_range(0, beta=beta)
    return unlearn_pairs(model, optimizer, recipe, _term, {"beta": beta}, reads_reference=True)


def _term(rows: Rows, numbers: dict[str, jax.Array]) -> Term:
    return distillation.undial(
        rows.logits, rows.reference, rows.targets, rows.weight, beta=numbers["beta"]
    )
