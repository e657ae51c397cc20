"""Terms of objectives on rows of tokens: means over tokens, over sequences, and retain terms."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mu_jax.data.tokens import TokenTargets
from mu_jax.loops.gradients import Term
from mu_jax.losses import total_weight, weighted_sum
from mu_jax.projected import Outputs
from mu_jax.token_losses import scored_nll

Scale = jax.Array | float


def token_term(values: jax.Array, mask: jax.Array, weight: jax.Array, scale: Scale = 1.0) -> Term:
    """`sum_it w_i m_it v_it / sum_it w_i m_it`, the mean over the tokens of all rows.

    Args:
      values: f32[B, T], ignored where the mask is 0. mask: f32[B, T]. weight: f32[B], of the rows.
      scale: of the term.
    """
    mask = jnp.asarray(mask, values.dtype)
    rows = (jnp.where(mask == 0, 0, values) * mask).sum(axis=1)
    return Term(weighted_sum(rows, weight), weighted_sum(mask.sum(axis=1), weight), scale)


def sequence_term(
    values: jax.Array, count: jax.Array, weight: jax.Array, scale: Scale = 1.0
) -> Term:
    """The mean over sequences, of which one without scored tokens is none.

    Args:
      values: f32[B] of rows, or f32[B, S] of the documents of packed rows.
      count: of the same shape, the number of scored tokens. weight: f32[B], of the rows.
      scale: of the term.
    """
    each = weight.reshape(-1, *(1,) * (values.ndim - 1)) * (count != 0)
    return Term(weighted_sum(values, each), total_weight(each), scale)


def token_cross_entropy(
    logits: Outputs, targets: TokenTargets, weight: jax.Array, scale: Scale = 1.0
) -> Term:
    """The mean loss of the scored tokens; with scale -1 the objective of gradient ascent.

    Args:
      logits: [B, T, V], or `Projected`. targets: of the rows. weight: f32[B], of the rows.
      scale: of the term.

    Example:
      >>> targets = TokenTargets(jnp.array([[0, 1]]), jnp.array([[0.0, 1.0]]))
      >>> term = token_cross_entropy(jnp.zeros((1, 2, 2)), targets, jnp.ones(1))
      >>> term.sum / term.weight / jnp.log(2)
      Array(1., dtype=float32)
    """
    return token_term(*scored_nll(logits, targets), weight, scale)
