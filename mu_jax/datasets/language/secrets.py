"""Secrets of records: which characters of a text they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mu_jax.datasets.adapters.columns import Column, raw
from mu_jax.datasets.language.templates import Script, Span


def secret_spans(
    record: Any,
    field: Column | Callable[[Any], Any] | None,
    script: Script,
    turns: list[int],
    *,
    several: bool = False,
) -> list[Span]:
    """Ranges of characters of the text that are secret.

    Args:
      record: has a list of secrets in `field`: texts, `(start, end)` in the content of the first
        of `turns`, and `(turn, start, end)`; None for no secrets.
      script: the text of the record.
      turns: numbers of the messages in which a text is looked for.
      several: whether a secret must name its message.
    """
    if field is None:
        return []
    found: list[Span] = []
    for secret in _list_of_secrets(raw(record, field, "secrets")):
        if isinstance(secret, str):
            found += _places(secret, script, turns)
            continue
        *turn, start, end = secret
        if several and not turn:
            raise ValueError(
                f"expected secrets of a chat as (turn, start, end) or text, found {secret}: say in "
                "which message"
            )
        found.append(_inside(script, turn[0] if turn else turns[0], start, end))
    return found


def _list_of_secrets(given: Any) -> list[Any]:
    """The secrets of a record: texts, and tuples of two or three whole numbers."""
    listed: Any = given if isinstance(given, list | tuple | np.ndarray) else [None]
    found = [x if isinstance(x, str) else tuple(np.ravel(x).tolist()) for x in listed]
    for secret in found:
        numbers = not isinstance(secret, str) and all(isinstance(x, int) for x in secret)
        if not isinstance(secret, str) and not (numbers and len(secret) in (2, 3)):
            raise ValueError(
                f"expected secrets as a list of texts and of (start, end), found {given!r:.60}: "
                "mend the column"
            )
    return found


def _places(secret: str, script: Script, turns: list[int]) -> list[Span]:
    """Every place of a secret in some turns."""
    spans = [script.turns[turn] or span for turn, span in zip(turns, script.scored)]
    found = []
    for first, last in spans:
        start = script.text.find(secret, max(first, 0), last) if secret else -1
        while start >= 0:
            found.append((start, start + len(secret)))
            start = script.text.find(secret, start + 1, last)
    if not found:
        raise ValueError(
            f"expected every secret in the text, found none of {secret[:40]!r}: name what is there"
        )
    return found


def _inside(script: Script, turn: int, start: int, end: int) -> Span:
    span = script.turns[turn] if 0 <= turn < len(script.turns) else None
    if span is None:
        raise ValueError(
            f"expected secrets in messages that the template leaves as they are, found one in "
            f"message {turn}: give its text instead"
        )
    if not 0 <= start < end <= span[1] - span[0]:
        raise ValueError(
            f"expected secrets in the {span[1] - span[0]} characters of the text, found {start} to "
            f"{end}: count characters from 0, without the last one"
        )
    return span[0] + start, span[0] + end
