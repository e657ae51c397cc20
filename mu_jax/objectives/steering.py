"""Objectives on hidden states: the two terms of RMU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax.data.batches import as_ids, is_concrete
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
      wanted: [d], a control vector for all positions; [B, 1, d], one for each row; or [B, T, d],
        the states of a reference.
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


class Topics(NamedTuple):
    """Which topic each example belongs to.

    Attributes:
      ids: of the examples, sorted, i32[n]. number: of their topics, from 0, i32[n].
    """

    ids: jax.Array
    number: jax.Array

    def of(self, index: jax.Array) -> jax.Array:
        """The numbers of the topics of examples, i32[B]; any number for ids of none."""
        place = jnp.searchsorted(self.ids, index)
        return self.number.at[place].get(mode="clip")


def topics_of(topics: Sequence[Any], examples: Any) -> Topics:
    """The topics of examples, one for each.

    Args:
      topics: the example ids of each topic. examples: the ids of all examples, None if not known.

    Raises:
      ValueError: an empty topic; an example in two topics, or in none where that can be seen.
    """
    known = all(map(is_concrete, topics))
    xp: Any = np if known else jnp
    ids = [xp.asarray(topic).ravel() for topic in topics]
    for number, topic in enumerate(ids):
        if not topic.size:
            raise ValueError(
                f"expected at least one example in every topic, found none in topic {number}: "
                "leave it out"
            )
        as_ids(topic)
    joined = xp.concatenate([topic.astype(np.int32) for topic in ids])
    numbers = np.repeat(np.arange(len(ids), dtype=np.int32), [len(topic) for topic in ids])
    order = xp.argsort(joined, stable=True)
    joined = joined[order]
    if known:
        _check_once(joined, examples)
    return Topics(jnp.asarray(joined), jnp.asarray(xp.asarray(numbers)[order]))


def _check_once(ids: np.ndarray, examples: Any) -> None:
    """Refuse sorted ids of topics that hold an example twice, or not at all."""
    twice = ids[1:][ids[1:] == ids[:-1]]
    if twice.size:
        raise ValueError(
            f"expected every example in one topic, found id {twice[0]} twice: give it to one"
        )
    if examples is not None and is_concrete(examples):
        left = np.setdiff1d(np.asarray(examples), ids)
        if left.size:
            raise ValueError(
                f"expected every example to forget in a topic, found {left.size} in none (first "
                f"id {left[0]}): give their ids to a topic"
            )
