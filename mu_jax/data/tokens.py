"""Rows of tokens: what a decoder reads, and what is scored of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax


class Tokens(NamedTuple):
    """Inputs of a language model: rows of tokens, each with one document or several packed ones.

    Attributes:
      tokens: i32[B, T], ids in the vocabulary.
      position: i32[B, T], place in its document, from 0.
      segment: i32[B, T], number of its document in the row, from 1; 0 is padding. A token sees
        earlier tokens of its own document alone.
    """

    tokens: jax.Array
    position: jax.Array
    segment: jax.Array


class TokenTargets(NamedTuple):
    """What is scored of rows of tokens.

    The logits at `t` predict the token at `t + 1`, so the token in column 0 and the first token of
    a packed document are never scored.

    Attributes:
      tokens: i32[B, T], the tokens of the inputs.
      mask: f32[B, T], 1 where a token is scored: of an answer, or of a whole text.
      secret: f32[B, T], 1 where a scored token belongs to a secret; `()` without secrets.
      reference: what a reference model said of the row, `()` if nothing: f32[B], the summed
        negative log-likelihood of its scored tokens, or f32[B, S] of packed documents.
    """

    tokens: jax.Array
    mask: jax.Array
    secret: Any = ()
    reference: Any = ()


class Preference(NamedTuple):
    """Two answers to each prompt, as inputs or as targets; both have rows of one length.

    Attributes:
      winner: `Tokens` or `TokenTargets` of the answer to prefer, such as "I do not know".
      loser: the same of the answer to forget.
    """

    winner: Any
    loser: Any


def parts_of(tree: Any) -> list[Any]:
    """Winner and loser of a `Preference`, or the one thing that stands for a row."""
    return list(tree) if isinstance(tree, Preference) else [tree]


def like_parts(tree: Any, parts: list[Any]) -> Any:
    """The inverse of `parts_of`: other parts in the form of `tree`."""
    return Preference(*parts) if isinstance(tree, Preference) else parts[0]
