"""Sequences of tokens of any lengths, with what is scored of them and who owns them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mu_jax.data.id_table import IdTable
from mu_jax.datasets.language.templates import Script, Span
from mu_jax.datasets.language.tokenizer import Tokenizer, require_end


class Tokenized(NamedTuple):
    """One text as tokens.

    Attributes:
      tokens: i32[n].
      scored: bool[n], whether a token is scored; the first one never is.
      secret: bool[n], whether a scored token belongs to a secret.
    """

    tokens: np.ndarray
    scored: np.ndarray
    secret: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TokenRows:
    """Texts as tokens, before they are brought to one length; `mu.split` takes them as they are.

    Attributes:
      rows: n `Tokenized`, of any lengths.
      ids: the table of the ids that people have, see `mu.id_table`.
      index: int32 [n], the number of each text in that table.
      pad: token that fills up rows.
      secrets: whether secrets were named.
    """

    rows: tuple[Tokenized, ...]
    ids: IdTable
    index: np.ndarray
    pad: int
    secrets: bool = False

    def __len__(self) -> int:
        """The number of texts."""
        return len(self.rows)

    def __repr__(self) -> str:
        total = int(self.lengths.sum())
        return f"TokenRows({len(self)} texts, {total} tokens, {self.ids!r})"

    @property
    def lengths(self) -> np.ndarray:
        """int [n], the number of tokens of each text."""
        return np.array([len(row.tokens) for row in self.rows], int)

    def take(self, rows: Any) -> TokenRows:
        """The texts at positions `rows`, in that order."""
        chosen = np.arange(len(self))[rows]
        kept = tuple(self.rows[k] for k in chosen)
        return dataclasses.replace(self, rows=kept, index=self.index[chosen])


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PreferenceRows:
    """Two answers to each question as tokens, before they are brought to one length.

    Attributes:
      winner, loser: the answers to prefer and to forget, in the same order.
    """

    winner: TokenRows
    loser: TokenRows

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self.loser)

    def __repr__(self) -> str:
        total = int(self.winner.lengths.sum() + self.loser.lengths.sum())
        return f"PreferenceRows({len(self)} pairs, {total} tokens, {self.ids!r})"

    @property
    def ids(self) -> IdTable:
        """The table of the ids that people have."""
        return self.loser.ids

    @property
    def index(self) -> np.ndarray:
        """int32 [n], the number of each pair in that table."""
        return self.loser.index

    @property
    def lengths(self) -> np.ndarray:
        """int [n], the number of tokens of the longer answer of each pair."""
        return np.maximum(self.winner.lengths, self.loser.lengths)

    def take(self, rows: Any) -> PreferenceRows:
        """The pairs at positions `rows`, in that order."""
        return PreferenceRows(self.winner.take(rows), self.loser.take(rows))


def tokenized(tokenizer: Tokenizer, script: Script, secrets: Sequence[Span] = ()) -> Tokenized:
    """A text as tokens: scored is a token that shares a character with a scored range.

    Secrets in the same way: of a token that reaches over either end of one, too.

    Args:
      script: the text and what of it is scored. secrets: ranges of characters in the text.

    Raises:
      ValueError: nothing is scored, or nothing of a secret.
    """
    tokens, start, end, closing = _placed(tokenizer, script)
    scored = closing | _overlap(start, end, script.scored)
    scored[:1] = False
    if not scored.any():
        raise ValueError(
            "expected at least one scored token behind the first, found none: leave out texts and "
            "answers that are empty"
        )
    for span in secrets:
        if not (_overlap(start, end, [span]) & scored).any():
            raise ValueError(
                f"expected scored tokens in every secret, found none in the characters {span[0]} "
                f"to {span[1]}: mark secrets in what is scored, behind the first token"
            )
    return Tokenized(tokens, scored, _overlap(start, end, secrets) & scored)


def _placed(
    tokenizer: Tokenizer, script: Script
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, their first and last characters, and which of them are end tokens of the template."""
    parts: list[tuple[Any, Any, Any]] = []
    closing: list[np.ndarray] = []
    if script.begin and tokenizer.begin is not None:
        parts.append(([tokenizer.begin], [0], [0]))
        closing.append(np.zeros(1, bool))
    places = [0, *script.ends, len(script.text)]
    for number, (first, last) in enumerate(itertools.pairwise(places)):
        if last > first:
            found = tokenizer.encode(script.text[first:last])
            parts.append((found.tokens, found.start + first, found.end + first))
            closing.append(np.zeros(len(found.tokens), bool))
        if number < len(script.ends):
            parts.append(([require_end(tokenizer)], [last], [last]))
            closing.append(np.ones(1, bool))
    if not parts:
        return (*np.zeros((3, 0), np.int32), np.zeros(0, bool))
    tokens, start, end = (np.concatenate(each).astype(np.int32) for each in zip(*parts))
    return tokens, start, end, np.concatenate(closing)


def _overlap(start: np.ndarray, end: np.ndarray, spans: Sequence[Span]) -> np.ndarray:
    """Which tokens share a character with a range; those without one, where they lie inside."""
    found = np.zeros(len(start), bool)
    for first, last in spans:
        found |= (start < last) & (end > first)
    return found
