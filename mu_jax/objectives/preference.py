"""Preference objectives on rows of tokens: NPO, SimNPO and DPO, as functions of logits."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mu_jax.data.tokens import Preference, TokenTargets
from mu_jax.loops.gradients import Term
from mu_jax.objectives.token_terms import sequence_term
from mu_jax.projected import Outputs
from mu_jax.token_losses import sequence_nll

Number = jax.Array | float


def npo(
    logits: Outputs,
    targets: TokenTargets,
    weight: jax.Array,
    *,
    beta: Number,
    segment: jax.Array | None = None,
    documents: int = 1,
) -> Term:
    """Negative preference: `-(2/beta) mean_i log sigmoid(beta (L_i - L_i,ref))`.

    L is the summed loss of the scored tokens of a sequence, a row or a document of a packed row.
    The gradient is that of `-mean_i W_i L_i` with `W_i = 2 sigmoid(-beta (L_i - L_i,ref))`: ascent
    that fades as a sequence is forgotten. It is bounded below by 0, and (2/beta) log 2 where the
    model is the reference.

    Args:
      logits: [B, T, V], or `Projected`.
      targets: of the rows, with `reference` f32[B], or f32[B, S] of packed rows.
      weight: f32[B], of the rows.
      beta: inverse temperature of a sum over tokens.
      segment: i32[B, T] of packed rows. documents: S, the most documents in a row.

    Raises:
      ValueError: targets without a reference, or with one of another shape.
    """
    nll, count = sequence_nll(logits, targets, segment, documents)
    margin = nll - reference_of(targets, nll.shape)
    return sequence_term(_preferred(beta, margin), count, weight)


def simnpo(
    logits: Outputs,
    targets: TokenTargets,
    weight: jax.Array,
    *,
    beta: Number,
    delta: Number = 0.0,
    segment: jax.Array | None = None,
    documents: int = 1,
) -> Term:
    """NPO without a reference: `-(2/beta) mean_i log sigmoid(beta (L_i / |y_i| - delta))`.

    Args:
      logits, targets, weight, segment, documents: as for `npo`; no reference is read.
      beta: inverse temperature of a mean over tokens. delta: margin, in nats a token.
    """
    nll, count = sequence_nll(logits, targets, segment, documents)
    margin = nll / jnp.where(count == 0, 1, count) - delta
    return sequence_term(_preferred(beta, margin), count, weight)


def dpo(
    logits: Preference,
    targets: Preference,
    weight: jax.Array,
    *,
    beta: Number,
    segment: Preference | None = None,
    documents: int = 1,
) -> Term:
    """`-(2/beta) mean_i log sigmoid(beta [(L_l - L_l,ref) - (L_w - L_w,ref)]_i)`.

    Args:
      logits: [B, T, V], or `Projected`, of winner and loser.
      targets: `TokenTargets` of winner and loser, each with a `reference`.
      weight: f32[B], of the pairs.
      beta: inverse temperature of a sum over tokens.
      segment, documents: as for `npo`; document s of the one row answers that of the other.

    Raises:
      ValueError: targets without a reference, or with one of another shape.
    """

    def moved(z: Any, y: TokenTargets, s: Any) -> tuple[jax.Array, jax.Array]:
        nll, count = sequence_nll(z, y, s, documents)
        return nll - reference_of(y, nll.shape), count

    parts = segment or Preference(None, None)
    (winner, first), (loser, second) = map(moved, logits, targets, parts)
    return sequence_term(_preferred(beta, loser - winner), first * second, weight)


def reference_of(targets: TokenTargets, shape: tuple[int, ...]) -> jax.Array:
    """What the reference model said of every sequence.

    Raises:
      ValueError: nothing, or scores of another shape.
    """
    found = jnp.shape(targets.reference) if hasattr(targets.reference, "shape") else None
    if found != shape:
        raise ValueError(
            f"expected a reference of shape {shape}, one number for each sequence, found "
            f"{'none' if found is None else found}: compute it with mu.objectives.reference_nll "
            "for as many documents in a row"
        )
    return targets.reference


def _preferred(beta: Number, margin: jax.Array) -> jax.Array:
    return -2 / beta * jax.nn.log_sigmoid(beta * margin)
