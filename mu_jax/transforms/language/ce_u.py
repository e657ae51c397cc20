"""CE-U: cross-entropy to the model's own prediction without the true token."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import optax

from mu_jax.loops.gradients import Term
from mu_jax.model import Model
from mu_jax.objectives import weighted
from mu_jax.objectives.pairing import Rows
from mu_jax.transforms._shared.pairing import Recipe, unlearn_pairs
from mu_jax.transforms._shared.transform import Unlearn, method

PyTree = Any
_DEFAULT = Recipe(retain_term="none")


@method
def ce_u(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    skip: int = 1,
    recipe: Recipe = _DEFAULT,
) -> Unlearn:
    """Cross-entropy unlearning: `gamma mean_t CE(q_t, p_t) + alpha l_retain`.

    q is the prediction p itself with the true token removed, `q_v = p_v / (1 - p_y)`, and has no
    gradient. Where the model is certain, the gradient of the logit of the true token stays near 1,
    as for ascent; where the token is unlearned, it vanishes. It fails to keep the rest of the text,
    for which nothing speaks: give a recipe with a retain term where retained text is at hand.

    Args:
      model: a language model with logits [B, T, V] and the loss
        `mu.token_losses.TokenCrossEntropy()`.
      optimizer: any optax optimizer, from a fresh state.
      skip: scored tokens at the beginning of each row that are left out.
      recipe: the retain term, the weights and the length of the fit, see `mu.PairingRecipe`.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; the key shuffles and draws;
      `info.details` is a `FitInfo`.

    Raises:
      TypeError: targets that are no `mu.data.TokenTargets`.
      ValueError: rows of two lengths; a recipe with negative weights.

    Cost: `epochs` passes over the forget set; memory of one gradient and one optimizer state.

    Differences from the reference program (`locuslab/open-unlearning`):
      1. The true token gets exactly no mass in q, whatever the type of the logits.
      2. Means are over the tokens of the whole batch, whatever the devices.

    References:
      B. Yang. CE-U: Cross Entropy Unlearning. 2025.

    Example:
      >>> import jax, jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: w[x], mu.token_losses.TokenCrossEntropy())
      >>> tokens = jnp.array([[0, 1], [2, 3]])
      >>> targets = mu.data.TokenTargets(tokens, jnp.array([[0.0, 1.0], [0.0, 1.0]]))
      >>> forget, retain = mu.split(mu.batches(tokens, targets, batch_size=1), [0])
      >>> start = mu.Variables(3.0 * jnp.eye(4)[jnp.array([1, 0, 3, 2])])
      >>> unlearn = mu.ce_u(model, optax.sgd(1.0), skip=0)
      >>> unlearned, _ = unlearn(jax.random.key(0), start, forget, retain)
      >>> found = jax.nn.softmax(unlearned.params)[jnp.array([0, 2]), jnp.array([1, 3])]
      >>> bool(found[0] < 0.4), bool(found[1] > 0.8)
      (True, True)
    """

    return unlearn_pairs(model, optimizer, recipe, _Term(skip), {})


@dataclasses.dataclass(frozen=True)
class _Term:
    skip: int

    def __call__(self, rows: Rows, numbers: dict[str, jax.Array]) -> Term:
        del numbers
        return weighted.ce_u(rows.logits, rows.targets, rows.weight, skip=self.skip)
