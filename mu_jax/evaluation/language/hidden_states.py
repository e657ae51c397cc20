"""From hidden states and parameters: likelihood displacement, and what concept vectors keep."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from mu_jax._at_once import as_array
from mu_jax.evaluation.accuracy import as_float


def ches(
    preferred: ArrayLike,
    preferred_mask: ArrayLike,
    dispreferred: ArrayLike,
    dispreferred_mask: ArrayLike,
    *,
    normalized: bool = False,
) -> jax.Array:
    """CHES: how far training on a preference will lower the likelihood of both answers.

    With `s` the sum of the hidden states that predict the tokens of an answer,

        `<s+, s-> - ||s+||^2`, normalized `<s+, s-> / (|y+| |y-|) - ||s+||^2 / |y+|^2`.

    Higher means more displacement: leave out the pairs with the highest scores.

    Args:
        preferred, dispreferred: float `[B, T, d]` and `[B, T', d]`, outputs of the last block of
            the prompt with either answer.
        preferred_mask, dispreferred_mask: `[B, T]` and `[B, T']`, positive at the tokens of the
            answer, which the states one column before predict.
        normalized: divide by the lengths of the answers.

    Returns:
        f32 `[B]`; normalized, NaN for an answer without tokens.

    Raises:
        ValueError: shapes disagree, or an answer that starts in column 0.

    Cost:
        One pass over the states; two forward passes of the model for them.

    Differences from the published programs:
        1. Padding is told by the masks; they use padded lengths, which is wrong with padding on
           the right.
        2. Every token of the answer counts: one program drops the last, another keeps one more.

    Reference:
        Razin, Malladi, Bhaskar, Chen, Arora, Hanin, "Unintentional Unalignment: Likelihood
        Displacement in Direct Preference Optimization", ICLR 2025.
    """
    sides = []
    for states, mask in ((preferred, preferred_mask), (dispreferred, dispreferred_mask)):
        states, mask = as_float(states), as_float(mask)
        if states.ndim != 3 or mask.shape != states.shape[:2] or mask.shape[1] < 2:
            raise ValueError(
                f"expected states [B, T, d] and a mask [B, T] with T > 1, found {states.shape} and "
                f"{mask.shape}: give the states and the answer's mask of the same rows"
            )
        sides += [states, mask]
    if sides[0].shape[0] != sides[2].shape[0] or sides[0].shape[2] != sides[2].shape[2]:
        raise ValueError(
            f"expected as many pairs and one width on both sides, found {sides[0].shape} and "
            f"{sides[2].shape}: give both answers of each prompt, of one model"
        )
    return _ches(*sides, normalized)


@functools.partial(jax.jit, static_argnums=4)
def _ches(
    preferred: jax.Array, wins: jax.Array, dispreferred: jax.Array, loses: jax.Array, normal: bool
) -> jax.Array:
    better, chosen = _answer(preferred, wins)
    worse, refused = _answer(dispreferred, loses)
    if normal:
        better, worse = better / chosen[:, None], worse / refused[:, None]
    return jnp.sum(better * worse, -1) - jnp.sum(jnp.square(better), -1)


def _answer(states: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sum of the states that predict the answer, and the number of its tokens."""
    chosen = mask[:, 1:] > 0
    total = jnp.sum(jnp.where(chosen[..., None], states[:, :-1], 0), 1)
    return total, jnp.sum(chosen, 1).astype(states.dtype)


class ConceptChanges(NamedTuple):
    """Result of `concept_changes`, of every column: f32 `[m]`, and the columns by their change.

    cosine: of the column before and after; NaN for a column of zeros. distance: their L2 distance.
    overlap: Jaccard index of the sets of top tokens that both write. order: i32 `[m]`, columns,
    the lowest cosine first.
    """

    cosine: jax.Array
    distance: jax.Array
    overlap: jax.Array
    order: jax.Array


def concept_changes(
    before: ArrayLike, after: ArrayLike, unembedding: ArrayLike, *, top: int = 200
) -> ConceptChanges:
    """What unlearning left of concept vectors, the columns of an MLP's down-projection.

    With v and w a column before and after and E the output embedding: `cos(v, w)`, `||v - w||_2`,
    and `|A & B| / |A | B|` of the `top` tokens with the largest `E v` and `E w`. All columns are
    measured, so that no concept need be known beforehand. Behavior may change while the vectors
    stay, and an unlearned concept is then one attack away. Direction: closer to retrain, whose
    columns match only if both were fine-tuned from one model.

    Args:
        before, after: float `[m, d]`, one row for each column of the projection.
        unembedding: float `[V, d]`.
        top: number of tokens, 200 as published; at most V.

    Returns:
        `ConceptChanges`.

    Raises:
        ValueError: shapes disagree, or more top tokens than the vocabulary has.

    Cost:
        Two products `[V, d]` a column, one block of columns at a time, and their largest entries.

    Example:
        >>> import numpy as np
        >>> found = concept_changes(np.eye(2), np.eye(2)[::-1], np.eye(2), top=1)
        >>> found.cosine.tolist(), found.overlap.tolist()
        ([0.0, 0.0], [0.0, 0.0])

    Reference:
        Hong, Yu, Yang, Ravfogel, Geva, "Intrinsic Evaluation of Unlearning Using Parametric
        Knowledge Traces", 2024.
    """
    before, after, unembedding = as_float(before), as_float(after), as_float(unembedding)
    if before.ndim != 2 or after.shape != before.shape or unembedding.shape[1:] != before.shape[1:]:
        raise ValueError(
            "expected columns [m, d] before and after and an embedding [V, d], found "
            f"{before.shape}, {after.shape} and {unembedding.shape}: transpose the projection if "
            "its columns are not rows here"
        )
    if not 0 < top <= unembedding.shape[0]:
        raise ValueError(
            f"expected between 1 and {unembedding.shape[0]} top tokens, found {top}: the "
            "vocabulary has no more"
        )
    return _concept_changes(before, after, unembedding, top)


@functools.partial(jax.jit, static_argnums=3)
def _concept_changes(
    before: jax.Array, after: jax.Array, unembedding: jax.Array, top: int
) -> ConceptChanges:
    norms = jnp.linalg.norm(before, axis=-1) * jnp.linalg.norm(after, axis=-1)
    cosine = jnp.sum(before * after, -1) / norms
    distance = jnp.linalg.norm(before - after, axis=-1)

    def overlap(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        old, new = (jax.lax.top_k(unembedding @ column, top)[1] for column in pair)
        held = jnp.zeros(unembedding.shape[0], bool).at[old].set(True)
        common = jnp.sum(held[new])
        return common / (2 * top - common).astype(before.dtype)

    shares = jax.lax.map(overlap, (before, after), batch_size=16)
    return ConceptChanges(cosine, distance, shares, as_array(jnp.argsort(cosine)))
