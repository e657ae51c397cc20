"""Losses of rows of tokens: of every token, of a row or document, and of both models' tokens.

The logits at `t` predict the token at `t + 1`. That shift is made in one place, `predicted`: every
array f32[B, T] of this file says in column t what the model said of the token in column t, and
column 0, which nothing predicts, is 0. Masks and segments of a row thus fit as they are.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from mu_jax._at_once import wide
from mu_jax.data.tokens import TokenTargets
from mu_jax.projected import Outputs, at_positions

PyTree = Any
Direction = Literal["forward", "reverse"]


def predicted(values: jax.Array) -> jax.Array:
    """Values of the positions that predict as values of the tokens that are predicted.

    Args:
      values: f32[B, T], one number for each position; that of the last predicts nothing here.

    Returns:
      f32[B, T], column t being that of position t - 1, and column 0 being 0.
    """
    return jnp.pad(values[:, :-1], ((0, 0), (1, 0)))


def log_probabilities(logits: jax.Array) -> jax.Array:
    """`log softmax` over the vocabulary, in float32 or wider: f32[..., V]."""
    return jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))


def token_nll(logits: Outputs, tokens: jax.Array) -> jax.Array:
    """Negative log-likelihood of every token, `-log softmax(z_{t-1})[x_t]`, f32[B, T].

    Args:
      logits: [B, T, V] of any float type, or `Projected`.
      tokens: i32[B, T]. A token outside the vocabulary has the loss and the gradient NaN, so that
        nothing silently takes it for another one.

    Returns:
      f32[B, T] in the columns of the tokens; column 0 is 0.

    Example:
      >>> logits = jnp.log(jnp.array([[[0.5, 0.5], [0.75, 0.25]]]))
      >>> token_nll(logits, jnp.array([[0, 1]])) / jnp.log(2)
      Array([[0., 1.]], dtype=float32)
    """
    needed = jnp.broadcast_to(jnp.arange(tokens.shape[1]) < tokens.shape[1] - 1, tokens.shape)
    return predicted(at_positions(_nll, logits, following(tokens), needed))


def following(tokens: jax.Array) -> jax.Array:
    """The token that each position predicts, i32[B, T]; that of the last is nobody's business."""
    return jnp.roll(tokens, -1, axis=1)


def _nll(logits: jax.Array, wanted: jax.Array, needed: jax.Array) -> jax.Array:
    """The loss of the wanted token at each position; NaN where the vocabulary lacks it."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    wanted = wide(wanted)
    known = (wanted >= 0) & (wanted < logits.shape[-1])
    place = jnp.where(known, wanted, 0)[..., None]
    chosen = jnp.take_along_axis(logits, place, axis=-1)[..., 0]
    losses = jax.nn.logsumexp(logits, axis=-1) - chosen
    return losses * jnp.where(known | ~needed, 1, jnp.nan).astype(losses.dtype)


def token_kl(logits: Outputs, reference: Outputs, *, direction: Direction = "forward") -> jax.Array:
    """Divergence of the two predictions of every token, f32[B, T]; column 0 is 0.

    Args:
      logits, reference: [B, T, V], or `Projected`, of the model and of the reference model.
      direction: `forward`: `KL(reference || model)`; `reverse`: `KL(model || reference)`.

    Example:
      >>> logits = jnp.log(jnp.array([[[0.5, 0.5], [0.5, 0.5]]]))
      >>> sure = jnp.array([[[0.0, -jnp.inf], [0.0, 0.0]]])
      >>> token_kl(logits, sure) / jnp.log(2)
      Array([[0., 1.]], dtype=float32)
    """
    return predicted(position_kl(logits, reference, direction=direction))


def position_kl(
    logits: Outputs, reference: Outputs, *, direction: Direction = "forward"
) -> jax.Array:
    """The same of every position, the last one and those of the prompt included, f32[B, T]."""
    return at_positions(functools.partial(_divergence, direction), logits, reference)


def _divergence(direction: Direction, logits: jax.Array, reference: jax.Array) -> jax.Array:
    found, aim = log_probabilities(logits), log_probabilities(reference)
    if direction == "reverse":
        found, aim = aim, found
    some = aim > -jnp.inf
    return jnp.where(some, jnp.exp(aim) * (jnp.where(some, aim, 0) - found), 0).sum(-1)


def scored(targets: TokenTargets) -> jax.Array:
    """Which tokens are scored, f32[B, T]: the mask, without column 0."""
    check_targets(targets)
    mask = targets.mask
    return jnp.where(jnp.arange(mask.shape[1]) > 0, mask, 0)


def scored_nll(logits: Outputs, targets: TokenTargets) -> tuple[jax.Array, jax.Array]:
    """The loss of every token, 0 where the token is not scored, and the mask, f32[B, T] each.

    What is not scored may be any integer, such as a label of -100.
    """
    mask = scored(targets)
    tokens = jnp.where(mask == 0, 0, targets.tokens)
    return jnp.where(mask == 0, 0, token_nll(logits, tokens)), mask


def sequence_sums(
    values: jax.Array, segment: jax.Array | None = None, documents: int = 1
) -> jax.Array:
    """Sums over the tokens of a row, f32[B], or of each document of packed rows, f32[B, S].

    Args:
      values: f32[B, T].
      segment: i32[B, T], number of the document of each token from 1, 0 for padding; None for rows.
      documents: S, the most documents in a row.
    """
    if segment is None:
        return values.sum(axis=1)
    mine = segment[..., None] == 1 + jnp.arange(documents)
    return jnp.where(mine, values[..., None], 0).sum(axis=1)


def sequence_nll(
    logits: Outputs,
    targets: TokenTargets,
    segment: jax.Array | None = None,
    documents: int = 1,
) -> tuple[jax.Array, jax.Array]:
    """Summed loss and number of the scored tokens of each row, or of each document.

    Args:
      logits: [B, T, V], or `Projected`. targets: of the rows.
      segment, documents: as `sequence_sums`.

    Returns:
      `sum_t m_t n_t` and `sum_t m_t`, f32[B] each, or f32[B, S] of packed rows.
    """
    nll, mask = scored_nll(logits, targets)
    wide = mask.astype(nll.dtype)
    return tuple(sequence_sums(x, segment, documents) for x in (wide * nll, wide))  # type: ignore


@dataclasses.dataclass(frozen=True)
class TokenCrossEntropy:
    """Mean loss of the scored tokens of each row, the loss of a language model.

    `l_i = sum_t m_it n_it / sum_t m_it` with the losses n of `token_nll` and the mask m of
    `TokenTargets`; 0 for a row without scored tokens. As the loss of a `Model` a row has the weight
    of `counts`, the number of its scored tokens: every mean over rows is then a mean over tokens,
    however tokens are divided into rows, batches, parts and devices.

    Example:
      >>> from mu_jax.data.tokens import TokenTargets
      >>> tokens, mask = jnp.array([[0, 1, 1], [0, 1, 0]]), jnp.array([[0.0, 1, 1], [0, 1, 0]])
      >>> loss = TokenCrossEntropy()
      >>> loss(jnp.zeros((2, 3, 4)), TokenTargets(tokens, mask)) / jnp.log(4)
      Array([1., 1.], dtype=float32)
      >>> loss.counts(TokenTargets(tokens, mask))
      Array([2., 1.], dtype=float32)
    """

    takes_projected: ClassVar[bool] = True

    def __call__(self, outputs: Outputs, targets: TokenTargets) -> jax.Array:
        """Losses f32[B] of logits [B, T, V], or of `Projected`."""
        total, count = sequence_nll(outputs, targets)
        return total / jnp.where(count == 0, 1, count)

    def counts(self, targets: TokenTargets) -> jax.Array:
        """The number of scored tokens of each row, f32[B]."""
        return scored(targets).sum(axis=1)


def check_targets(targets: Any) -> None:
    """Refuse targets that do not say which tokens are scored.

    Raises:
      TypeError: anything but `TokenTargets`.
    """
    if not isinstance(targets, TokenTargets):
        raise TypeError(
            f"expected TokenTargets, which say what is scored of a row of tokens, found "
            f"{type(targets).__name__}: give mu.data.TokenTargets(tokens, mask) as targets"
        )


def segments(inputs: PyTree, documents: int) -> jax.Array | None:
    """The segments of rows that hold several documents; None where each row is one."""
    return inputs.segment if documents > 1 else None
