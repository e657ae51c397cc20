"""Objectives that weigh each token: WGA, SatImp, CE-U, and the margin of PDU."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mu_jax.data.tokens import TokenTargets
from mu_jax.loops.gradients import Term
from mu_jax.objectives.token_terms import token_term
from mu_jax.token_losses import log_probabilities, predicted, scored, scored_nll

Number = jax.Array | float


def wga(logits: jax.Array, targets: TokenTargets, weight: jax.Array, *, beta: Number) -> Term:
    """Weighted ascent: `-sum w_t n_t / count`, where `w_t = p_t^beta` has no gradient.

    A token that is already unlikely pushes no further.

    Args:
      logits: [B, T, V]. targets: of the rows. weight: f32[B], of the rows.
      beta: 0 is gradient ascent.
    """
    nll, mask = scored_nll(logits, targets)
    return token_term(jax.lax.stop_gradient(jnp.exp(-beta * nll)) * nll, mask, weight, -1.0)


def satimp(
    logits: jax.Array, targets: TokenTargets, weight: jax.Array, *, beta1: Number, beta2: Number
) -> Term:
    """Ascent weighted by saturation and importance, `w_t = p_t^beta1 (1 - p_t)^beta2`.

    Args:
      logits, targets, weight: as for `wga`.
      beta1: how little unlikely tokens weigh. beta2: how little certain ones do.
    """
    nll, mask = scored_nll(logits, targets)
    likely = jnp.exp(-nll)
    share = jax.lax.stop_gradient(likely**beta1 * (1 - likely) ** beta2)
    return token_term(share * nll, mask, weight, -1.0)


def ce_u(logits: jax.Array, targets: TokenTargets, weight: jax.Array, *, skip: int = 1) -> Term:
    """Cross-entropy to the model's own prediction without the true token.

    `CE(q, p)` with `q_v = p_v / (1 - p_y)` for v other than y and 0 for y; q has no gradient.

    Args:
      logits: [B, T, V]. targets: of the rows. weight: f32[B], of the rows.
      skip: scored tokens at the beginning of each row that are left out.
    """
    mask = scored(targets)
    mask = jnp.where(jnp.cumsum(mask != 0, axis=1) > skip, mask, 0)
    found = log_probabilities(logits)
    true = true_token(targets, mask, found.shape[-1])
    others = jnp.where(true, -jnp.inf, found)
    wanted = jax.lax.stop_gradient(jax.nn.softmax(others))
    values = -jnp.where(wanted > 0, wanted * found, 0).sum(axis=-1)
    return token_term(predicted(values), mask, weight)


def flatness(
    logits: jax.Array, targets: TokenTargets, weight: jax.Array, *, shifted: bool = True
) -> Term:
    """The forget term of PDU, `mean (max_v z_v - mean_v z_v)^2`: 0 where all tokens are alike.

    Args:
      logits: [B, T, V]. targets: of the rows. weight: f32[B], of the rows.
      shifted: the positions that predict the scored tokens; False for the positions of these
        tokens, as in the program, for reproduction.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    values = jnp.square(logits.max(axis=-1) - logits.mean(axis=-1))
    if shifted:
        return token_term(predicted(values), scored(targets), weight)
    return token_term(values, targets.mask, weight)


def true_token(targets: TokenTargets, mask: jax.Array, words: int) -> jax.Array:
    """Which token is the true one at the position that predicts it, bool[B, T, V]."""
    wanted = jnp.roll(jnp.where(mask == 0, 0, targets.tokens), -1, axis=1)
    return wanted[..., None] == jnp.arange(words)
