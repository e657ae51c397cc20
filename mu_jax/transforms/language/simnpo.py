"""SimNPO: negative preference by the mean loss of a sequence, without a reference."""

from __future__ import annotations

import math
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
_DEFAULT = Recipe(gamma=0.125)


@method
def simnpo(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    beta: jax.Array | float = 4.5,
    delta: jax.Array | float = 0.0,
    documents: int = 1,
    recipe: Recipe = _DEFAULT,
) -> Unlearn:
    """Simple negative preference optimization: NPO by mean losses, without a reference.

    `-(gamma 2/beta) mean_forget log sigmoid(beta (L_i / |y_i| - delta)) + alpha l_retain`, with the
    mean loss of the scored tokens of a sequence. Long and short answers weigh alike.

    It fails silently: where the mean loss of a sequence is above about 1 nat, its gradient is
    almost 0 for beta 4.5, and nothing moves. Published forget qualities have not been reproduced.

    | published setting (TOFU) | beta | gamma | learning rate |
    |---|---|---|---|
    | forget 5 % | 2.5 | 0.1375 | 1e-5 |
    | forget 10 % | 4.5 | 0.125 | 1e-5 |

    Args:
      model: a language model with logits [B, T, V] and the loss
        `mu.token_losses.TokenCrossEntropy()`.
      optimizer: any optax optimizer, from a fresh state.
      beta: inverse temperature of a mean over tokens, may be traced; see the table.
      delta: margin in nats a token, may be traced.
      documents: the most documents in a packed row to forget, whose inputs are then
        `mu.data.Tokens`; 1: each row is one document.
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

    Differences from the reference program (`OPTML-Group/Unlearn-Simple`):
      1. The length is the number of scored tokens; there a scored token in column 0 is counted,
         though nothing predicts it.
      2. Means are over the whole batch, whatever the devices.

    References:
      C. Fan, J. Liu, L. Lin, J. Jia, R. Zhang, S. Mei, S. Liu. Simplicity Prevails: Rethinking
      Negative Preference Optimization for LLM Unlearning. 2024.

    Example:
      >>> import jax, jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: w[x], mu.token_losses.TokenCrossEntropy())
      >>> tokens = jnp.array([[0, 1], [2, 3]])
      >>> targets = mu.data.TokenTargets(tokens, jnp.array([[0.0, 1.0], [0.0, 1.0]]))
      >>> forget, retain = mu.split(mu.batches(tokens, targets, batch_size=1), [0])
      >>> start = mu.Variables(3.0 * jnp.eye(4)[jnp.array([1, 0, 3, 2])])
      >>> unlearn = mu.simnpo(model, optax.sgd(8.0), beta=1.0)
      >>> unlearned, _ = unlearn(jax.random.key(0), start, forget, retain)
      >>> found = jax.nn.softmax(unlearned.params)[jnp.array([0, 2]), jnp.array([1, 3])]
      >>> bool(found[0] < 0.4), bool(found[1] > 0.8)
      (True, True)
    """

    check_range(0, beta=beta)
    check_range(-math.inf, delta=delta)
    return unlearn_pairs(
        model, optimizer, recipe, _term, {"beta": beta, "delta": delta}, documents=documents
    )


def _term(rows: Rows, numbers: dict[str, jax.Array]) -> Term:
    return preference.simnpo(
        rows.logits,
        rows.targets,
        rows.weight,
        beta=numbers["beta"],
        delta=numbers["delta"],
        segment=rows.segment,
        documents=rows.documents,
    )
