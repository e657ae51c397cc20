"""What every teacher-forced metric is computed from: a few numbers of each token of a row."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mu_jax._at_once import as_array, holds, wide
from mu_jax.evaluation.accuracy import as_float, is_concrete
from mu_jax.projected import Projected, at_positions


class Targets(Protocol):
    """What is scored: `tokens` i32[B, T] and `mask` [B, T], as `data.tokens.TokenTargets`."""

    @property
    def tokens(self) -> ArrayLike:
        """The tokens of the rows."""

    @property
    def mask(self) -> ArrayLike:
        """Positive where a token is scored."""


class TokenStatistics(NamedTuple):
    """What a model says of each token, from the tokens before it: each f32 `[..., T]`.

    Column t is of the token in column t, which the logits of column t - 1 predict. Where nothing is
    scored all fields are 0, whatever the model gave there. Wider than f32 if the logits are.

    nll: negative log-likelihood of the token, nats.
    hit: 1 where the token has the largest logit, of equal ones the lowest id; else 0.
    mean, variance: of `log p(v)` over the vocabulary, v drawn from p.
    mask: 1 where the token is scored, else 0.
    """

    nll: jax.Array
    hit: jax.Array
    mean: jax.Array
    variance: jax.Array
    mask: jax.Array


def token_statistics(logits: ArrayLike | Projected, targets: Targets) -> TokenStatistics:
    """The numbers of each scored token that all teacher-forced metrics are functions of.

    With `log p = log_softmax(logits[t - 1])` in float32 or wider and y the token in column t,

        `nll = -log p(y)`, `hit = [argmax_v p(v) = y]`,
        `mean = sum_v p(v) log p(v)`, `variance = sum_v p(v) (log p(v) - mean)^2`.

    Args:
        logits: float `[..., B, T, V]`; leading axes are models. Those at t predict the token at
            t + 1, so the last column is not read. `Projected`: logits that are never there as a
            whole.
        targets: `TokenTargets`, or anything with `tokens` i32`[B, T]` and `mask` `[B, T]`, positive
            where a token is scored: never in column 0, nor at the first token of a packed document.
            Every scored token counts once, whatever its weight in training.

    Returns:
        `TokenStatistics`, arrays `[..., B, T]`. NaN logits give NaN where a token is scored.

    Raises:
        ValueError: shapes disagree, a scored token in column 0, or one outside the vocabulary.

    Cost:
        Two passes over the logits, one array of their size in float32; of `Projected` ones, a few
        arrays `[B, chunk, V]`.

    Example:
        >>> from typing import NamedTuple
        >>> class Row(NamedTuple):
        ...     tokens: np.ndarray
        ...     mask: np.ndarray
        >>> row = Row(np.array([[1, 0, 1]]), np.array([[0.0, 1.0, 1.0]]))
        >>> found = token_statistics(np.array([[[1.0, 1.0], [0.0, 2.0], [9.0, 9.0]]]), row)
        >>> [round(nats, 4) for nats in found.nll[0].tolist()], found.hit[0].tolist()
        ([0.0, 0.6931, 0.1269], [0.0, 1.0, 1.0])
    """
    tokens, mask = wide(as_array(targets.tokens)), as_array(targets.mask)
    if isinstance(logits, Projected):
        return _of_projected(logits, tokens, mask)
    logits = as_float(logits)
    if logits.ndim < 3 or tokens.shape != logits.shape[-3:-1] or mask.shape != tokens.shape:
        raise ValueError(
            "expected logits [..., B, T, V], tokens [B, T] and a mask [B, T], found "
            f"{logits.shape}, {tokens.shape} and {mask.shape}: give the targets of the same rows"
        )
    if is_concrete(tokens, mask):
        _check_scored(tokens, mask, logits.shape[-1])
    return _statistics(logits, tokens, mask)


def _check_scored(tokens: jax.Array, mask: jax.Array, vocabulary: int) -> None:
    if holds(lambda xp, w: xp.any(w[:, 0] > 0), mask):
        raise ValueError(
            "expected a mask that is 0 in column 0, found a scored token there: nothing predicts "
            "the first token of a row, so leave it unscored"
        )
    if holds(lambda xp, y, w: xp.any((w > 0) & ((y < 0) | (y >= vocabulary))), tokens, mask):
        raise ValueError(
            f"expected scored tokens in [0, {vocabulary}), found {_extremes(tokens, mask)}: use "
            "the tokenizer of this model, and mark unscored tokens in the mask"
        )


def _extremes(tokens: jax.Array, mask: jax.Array) -> str:
    scored = np.asarray(tokens)[np.asarray(mask) > 0]
    return f"{scored.min()} to {scored.max()}"


def _of_projected(outputs: Projected, tokens: jax.Array, mask: jax.Array) -> TokenStatistics:
    if tokens.shape != outputs.hidden.shape[:2] or mask.shape != tokens.shape:
        raise ValueError(
            "expected hidden states [B, T, d], tokens [B, T] and a mask [B, T], found "
            f"{outputs.hidden.shape}, {tokens.shape} and {mask.shape}: give the targets of the "
            "same rows"
        )
    if is_concrete(tokens, mask):
        first = outputs.with_hidden(outputs.hidden[:, :1])
        _check_scored(tokens, mask, jax.eval_shape(lambda x: x.logits, first).shape[-1])
    return _statistics(outputs, tokens, mask)


@jax.jit
def _statistics(
    outputs: jax.Array | Projected, tokens: jax.Array, mask: jax.Array
) -> TokenStatistics:
    if isinstance(outputs, Projected):
        predicting: Any = outputs.with_hidden(outputs.hidden[:, :-1])
    else:
        predicting = outputs[..., :-1, :]
    return _masked(at_positions(_of_tokens, predicting, _wanted(tokens, mask)), mask)


def _wanted(tokens: jax.Array, mask: jax.Array) -> jax.Array:
    """The tokens that are predicted, `[B, T - 1]`; id 0 where nothing is scored."""
    return jnp.where(mask[:, 1:] > 0, tokens[:, 1:], 0)


def _of_tokens(logits: jax.Array, tokens: jax.Array) -> tuple[jax.Array, ...]:
    """nll, hit, mean and variance of tokens `[..., T]` under logits `[..., T, V]`."""
    log_p = jax.nn.log_softmax(logits)
    tokens = jnp.broadcast_to(tokens, log_p.shape[:-1])
    nll = -jnp.take_along_axis(log_p, tokens[..., None], -1)[..., 0]
    hit = jnp.where(jnp.isnan(nll), nll, (jnp.argmax(logits, -1) == tokens).astype(nll.dtype))
    p = jnp.exp(log_p)
    log_p = jnp.where(p > 0, log_p, 0)  # 0 log 0 = 0
    mean = jnp.sum(p * log_p, -1)
    return nll, hit, mean, jnp.sum(p * jnp.square(log_p - mean[..., None]), -1)


def _masked(found: tuple[jax.Array, ...], mask: jax.Array) -> TokenStatistics:
    """Statistics with a first column, and 0 where nothing is scored."""
    first = [(0, 0)] * (found[0].ndim - 1) + [(1, 0)]
    everything = (*found, jnp.ones_like(found[0]))
    return TokenStatistics(*(jnp.pad(jnp.where(mask[:, 1:] > 0, x, 0), first) for x in everything))


def token_statistics_from_hidden(
    hidden: ArrayLike, unembedding: ArrayLike, targets: Targets, *, chunk: int = 128
) -> TokenStatistics:
    """`token_statistics` of the logits `hidden @ unembedding.T`, which are never there as a whole.

    Args:
        hidden: float `[B, T, d]`, what the last layer norm gives.
        unembedding: float `[V, d]`, of the head; the embedding, where both are tied.
        targets: as `token_statistics`.
        chunk: number of columns whose logits are there at a time.

    Returns:
        `TokenStatistics`, arrays `[B, T]`.

    Raises:
        ValueError: shapes disagree, or as `token_statistics`.

    Cost:
        One product with the head; a few arrays `[B, chunk, V]` in float32 in place of `[B, T, V]`.

    Example:
        >>> from typing import NamedTuple
        >>> class Row(NamedTuple):
        ...     tokens: np.ndarray
        ...     mask: np.ndarray
        >>> row = Row(np.array([[1, 0, 1]]), np.array([[0.0, 1.0, 1.0]]))
        >>> hidden = np.array([[[1.0, 1.0], [0.0, 2.0], [9.0, 9.0]]])
        >>> found = token_statistics_from_hidden(hidden, np.eye(2), row, chunk=1)
        >>> [round(nats, 4) for nats in found.nll[0].tolist()]
        [0.0, 0.6931, 0.1269]
    """
    hidden, unembedding = as_array(hidden), as_array(unembedding)
    tokens, mask = wide(as_array(targets.tokens)), as_array(targets.mask)
    if (
        hidden.ndim != 3
        or unembedding.shape[1:] != hidden.shape[2:]
        or tokens.shape != hidden.shape[:2]
        or mask.shape != tokens.shape
        or chunk < 1
    ):
        raise ValueError(
            "expected hidden states [B, T, d], a head [V, d], tokens and a mask [B, T] and a chunk "
            f"of at least 1, found {hidden.shape}, {unembedding.shape}, {tokens.shape}, "
            f"{mask.shape} and {chunk}: transpose the head if its columns are tokens"
        )
    return token_statistics(Projected(hidden, unembedding, _unembedded, chunk), targets)


def _unembedded(table: jax.Array, hidden: jax.Array) -> jax.Array:
    wide = jnp.promote_types(jnp.promote_types(hidden.dtype, table.dtype), jnp.float32)
    return jnp.einsum("btd,vd->btv", hidden, table, preferred_element_type=wide)


def per_document(
    statistics: TokenStatistics, segment: ArrayLike, documents: int
) -> TokenStatistics:
    """The statistics of packed rows, document by document: metrics of them are `[..., B, S]`.

    Args:
        statistics: arrays `[..., B, T]`.
        segment: i32`[B, T]`, number of its document in the row, from 1; 0 is padding.
        documents: S, the most documents in a row.

    Returns:
        `TokenStatistics` that broadcast to `[..., B, S, T]`: only the mask has an axis of
        documents. A row with fewer than S has no token in the others, of which metrics are NaN.

    Raises:
        ValueError: shapes disagree, or a row of more than S documents.

    Example:
        >>> ones = np.ones((1, 4))
        >>> whole = TokenStatistics(np.array([[0.0, 1.0, 0.0, 3.0]]), ones, ones, ones, ones)
        >>> found = per_document(whole, np.array([[1, 1, 2, 2]]), 2)
        >>> np.sum(found.nll * found.mask, -1).tolist()
        [[1.0, 3.0]]
    """
    segment = as_array(segment)
    if segment.shape != statistics.mask.shape[-2:]:
        raise ValueError(
            f"expected segments of the same rows, shape {statistics.mask.shape[-2:]}, found "
            f"{segment.shape}: give the segments of the inputs"
        )
    if is_concrete(segment) and holds(lambda xp, s: xp.any(s > documents), segment):
        raise ValueError(
            f"expected at most {documents} documents in a row, found {int(segment.max())}: raise "
            "`documents`"
        )
    own = segment[:, None, :] == np.arange(1, documents + 1)[:, None]
    wide = TokenStatistics(*(as_array(x)[..., None, :] for x in statistics))
    return wide._replace(mask=jnp.where(own, wide.mask, 0))


def restricted(statistics: TokenStatistics, mask: ArrayLike) -> TokenStatistics:
    """The statistics of the scored tokens that a second mask `[..., T]` marks, such as a secret."""
    both = as_array(statistics.mask)
    return statistics._replace(mask=jnp.where(as_array(mask) > 0, both, jnp.zeros_like(both)))
