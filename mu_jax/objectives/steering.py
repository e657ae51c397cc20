"""Objectives on hidden states: the two terms of RMU."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from mu_jax.data.tokens import TokenTargets
from mu_jax.loops.gradients import Term
from mu_jax.objectives.token_terms import Scale, sequence_term, token_term
from mu_jax.token_losses import check_targets

Positions = Literal["scored", "all"]


def steering(
    hidden: jax.Array,
    wanted: jax.Array,
    targets: TokenTargets,
    weight: jax.Array,
    *,
    positions: Positions = "scored",
    scale: Scale = 1.0,
) -> Term:
    """Mean squared distance of hidden states from wanted ones.

    Args:
      hidden: [B, T, d].
      wanted: [d], a control vector for all positions, or [B, T, d], the states of a reference.
      targets: of the rows. weight: f32[B], of the rows.
      positions: `scored`: the positions of the scored tokens, a mean over each row and then over
        the rows. `all`: the plain mean over all positions, padding included.
      scale: of the term.
    """
    kind = jnp.promote_types(hidden.dtype, jnp.float32)
    wanted = jax.lax.stop_gradient(wanted).astype(kind)
    apart = jnp.square(hidden.astype(kind) - wanted).mean(axis=-1)
    if positions == "all":
        return token_term(apart, jnp.ones_like(apart), weight, scale)
    check_targets(targets)
    mask = jnp.asarray(targets.mask, kind)
    count = mask.sum(axis=1)
    rows = (jnp.where(mask == 0, 0, apart) * mask).sum(axis=1) / jnp.where(count == 0, 1, count)
    return sequence_term(rows, count, weight, scale)


def control_vector(
    key: jax.Array, width: int, scale: jax.Array | float, dtype: jnp.dtype | type = jnp.float32
) -> jax.Array:
    """`c r / |r|` with r uniform in [0, 1): a direction of the positive orthant, f32[d].

    Args:
      key: a PRNG key. width: d. scale: c, its length. dtype: of the result.
    """
    drawn = jax.random.uniform(key, (width,), dtype)
    return scale * drawn / jnp.linalg.norm(drawn)
