"""The objectives of CodeEraser: secrets up, their context down, the rest as it was."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax.data.batches import is_concrete
from mu_jax.data.tokens import TokenTargets
from mu_jax.loops.gradients import Terms
from mu_jax.objectives.token_terms import token_term
from mu_jax.projected import Outputs
from mu_jax.token_losses import scored, scored_nll, token_kl

Number = jax.Array | float


def erase(
    logits: Outputs,
    reference: Outputs,
    targets: TokenTargets,
    weight: jax.Array,
    *,
    gamma: Number,
    strength: Number,
) -> Terms:
    """The forget step of CodeEraser: `-l_S + gamma l_C - lambda K_S`.

    `l_S` and `l_C` are the mean losses of the scored tokens of secrets and of their context, `K_S`
    is the mean of `KL(reference || model)` over the tokens of secrets. What is not scored matters
    for none.

    Args:
      logits, reference: [B, T, V], or `Projected`, of the model and of the reference model.
      targets: of the rows, with `secret`. weight: f32[B], of the rows.
      gamma: weight of the context. strength: lambda.

    Returns:
      The terms `secret`, `context` and `divergence`.

    Raises:
      ValueError: targets that mark no secrets.
    """
    _check_marked(targets)
    nll, mask = scored_nll(logits, targets)
    secret = jnp.where(targets.secret != 0, mask, 0)
    divergence = token_kl(logits, jax.lax.stop_gradient(reference))
    return {
        "secret": token_term(nll, secret, weight, -1.0),
        "context": token_term(nll, jnp.where(secret == 0, mask, 0), weight, gamma),
        "divergence": token_term(divergence, secret, weight, -strength),
    }


def keep(
    logits: Outputs,
    reference: Outputs,
    targets: TokenTargets,
    weight: jax.Array,
    *,
    strength: Number,
) -> Terms:
    """The retain step of CodeEraser: `lambda alpha` times the mean `KL(reference || model)`.

    Args:
      logits, reference, targets, weight: as for `erase`; no secrets are read.
      strength: `lambda alpha`.

    Returns:
      The term `retain`.
    """
    divergence = token_kl(logits, jax.lax.stop_gradient(reference))
    return {"retain": token_term(divergence, scored(targets), weight, strength)}


def check_secrets(examples: Any) -> None:
    """Refuse rows of tokens in which no scored token belongs to a secret, where that can be seen.

    Args:
      examples: `Batches` with `TokenTargets`; a stream is not read for it.

    Raises:
      ValueError: no marks, or none at a scored token.
    """
    targets = getattr(examples, "targets", None)
    if not isinstance(targets, TokenTargets):
        return
    _check_marked(targets)
    arrays = (targets.mask, targets.secret, examples.weight)
    if not all(is_concrete(x) and getattr(x, "is_fully_addressable", True) for x in arrays):
        return
    mask, secret, weight = map(np.asarray, arrays)
    some = (mask != 0) & (secret != 0) & (weight[:, None] > 0)
    if not some[:, 1:].any():
        raise ValueError(
            f"expected secrets among the scored tokens, found none in {len(mask)} rows: give 1 in "
            "secret, and in mask, where a token belongs to a secret"
        )


def _check_marked(targets: TokenTargets) -> None:
    if not hasattr(targets.secret, "shape"):
        raise ValueError(
            "expected targets that mark the tokens of secrets, found none: give "
            "TokenTargets(tokens, mask, secret), with 1 in secret where a token is of one"
        )
