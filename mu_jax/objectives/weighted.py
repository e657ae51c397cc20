"""Objectives that weigh each token: WGA, SatImp, CE-U, and the margin of PDU."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mu_jax.data.tokens import TokenTargets
from mu_jax.loops.gradients import Term
from mu_jax.objectives.token_terms import token_term
from mu_jax.projected import Outputs, at_positions
from mu_jax.token_losses import following, log_probabilities, predicted, scored, scored_nll

Number = jax.Array | float


def wga(logits: Outputs, targets: TokenTargets, weight: jax.Array, *, beta: Number) -> Term:
    """Weighted ascent: `-sum w_t n_t / count`, where `w_t = p_t^beta` has no gradient.

    A token that is already unlikely pushes no further.

    Args:
      logits: [B, T, V], or `Projected`. targets: of the rows. weight: f32[B], of the rows.
      beta: 0 is gradient ascent.
    """
    nll, mask = scored_nll(logits, targets)
    return token_term(jax.lax.stop_gradient(jnp.exp(-beta * nll)) * nll, mask, weight, -1.0)


def satimp(
    logits: Outputs, targets: TokenTargets, weight: jax.Array, *, beta1: Number, beta2: Number
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


def ce_u(logits: Outputs, targets: TokenTargets, weight: jax.Array, *, skip: int = 1) -> Term:
    """Cross-entropy to the model's own prediction without the true token.

    `CE(q, p)` with `q_v = p_v / (1 - p_y)` for v other than y and 0 for y; q has no gradient.

    Args:
      logits: [B, T, V], or `Projected`. targets: of the rows. weight: f32[B], of the rows.
      skip: scored tokens at the beginning of each row that are left out.
    """
    mask = scored(targets)
    mask = jnp.where(jnp.cumsum(mask != 0, axis=1) > skip, mask, 0)
    values = at_positions(_to_the_others, logits, true_tokens(targets, mask))
    return token_term(predicted(values), mask, weight)


def _to_the_others(logits: jax.Array, true: jax.Array) -> jax.Array:
    found = log_probabilities(logits)
    others = jnp.where(is_token(true, found.shape[-1]), -jnp.inf, found)
    wanted = jax.lax.stop_gradient(jax.nn.softmax(others))
    return -jnp.where(wanted > 0, wanted * found, 0).sum(axis=-1)


def flatness(
    logits: Outputs, targets: TokenTargets, weight: jax.Array, *, shifted: bool = True
) -> Term:
    """The forget term of PDU, `mean (max_v z_v - mean_v z_v)^2`: 0 where all tokens are alike.

    Args:
      logits: [B, T, V], or `Projected`. targets: of the rows. weight: f32[B], of the rows.
      shifted: the positions that predict the scored tokens; False for the positions of these
        tokens, as in the program, for reproduction.
    """
    values = at_positions(_height, logits)
    if shifted:
        return token_term(predicted(values), scored(targets), weight)
    return token_term(values, targets.mask, weight)


def _height(logits: jax.Array) -> jax.Array:
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return jnp.square(logits.max(axis=-1) - logits.mean(axis=-1))


def true_tokens(targets: TokenTargets, mask: jax.Array) -> jax.Array:
    """The token that each position is to predict, i32[B, T]; 0 where it is not scored."""
    return following(jnp.where(mask == 0, 0, targets.tokens))


def is_token(tokens: jax.Array, words: int) -> jax.Array:
    """Which word of the vocabulary is the token of a position, bool[B, T, V]."""
    return tokens[..., None] == jnp.arange(words)
