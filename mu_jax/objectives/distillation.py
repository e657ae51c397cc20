"""Objectives against a reference model's distribution: the KL retain term and UNDIAL."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from mu_jax.data.tokens import TokenTargets
from mu_jax.loops.gradients import Term
from mu_jax.objectives.token_terms import Scale, token_term
from mu_jax.objectives.weighted import is_token, true_tokens
from mu_jax.projected import Outputs, at_positions
from mu_jax.token_losses import (
    Direction,
    log_probabilities,
    position_kl,
    predicted,
    scored,
    token_kl,
)


def reference_kl(
    logits: Outputs,
    reference: Outputs,
    targets: TokenTargets,
    weight: jax.Array,
    *,
    direction: Direction = "forward",
    positions: Literal["scored", "all"] = "scored",
    scale: Scale = 1.0,
) -> Term:
    """Mean divergence from the reference model, 0 with gradient 0 where the two are one.

    Args:
      logits, reference: [B, T, V], or `Projected`, of the model and of the reference model.
      targets: of the rows. weight: f32[B], of the rows.
      direction: `forward`: `KL(reference || model)`; `reverse`: `KL(model || reference)`.
      positions: `scored`: those that predict scored tokens. `all`: every position of a row, prompt
        and padding included, as in open-unlearning.
      scale: of the term.
    """
    reference = jax.lax.stop_gradient(reference)
    if positions == "scored":
        values = token_kl(logits, reference, direction=direction)
        return token_term(values, scored(targets), weight, scale)
    values = position_kl(logits, reference, direction=direction)
    return token_term(values, jnp.ones_like(values), weight, scale)


def undial(
    logits: Outputs,
    reference: Outputs,
    targets: TokenTargets,
    weight: jax.Array,
    *,
    beta: jax.Array | float,
) -> Term:
    """Distillation from the reference with the true token's logit lowered by beta.

    `mean_t CE(softmax(r_t - beta onehot(y_t)), p_t)` over the scored tokens.

    Args:
      logits, reference: [B, T, V], or `Projected`. targets: of the rows. weight: f32[B].
      beta: how much the logit of the true token is lowered.
    """
    mask, reference = scored(targets), jax.lax.stop_gradient(reference)

    def distance(logits, reference, true):
        found = log_probabilities(logits)
        reference = reference.astype(found.dtype)
        wanted = jax.nn.softmax(reference - beta * is_token(true, found.shape[-1]))
        return -jnp.where(wanted > 0, wanted * found, 0).sum(axis=-1)

    values = at_positions(distance, logits, reference, true_tokens(targets, mask))
    return token_term(predicted(values), mask, weight)
