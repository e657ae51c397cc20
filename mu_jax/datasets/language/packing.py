"""Rows of one length: cut documents, padded rows, and rows of several packed documents."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from mu_jax.data.batches import Batches, as_ids, batches
from mu_jax.data.id_table import IdTable, id_table
from mu_jax.data.tokens import Preference, Tokens, TokenTargets
from mu_jax.datasets.language.sequences import PreferenceRows, Tokenized, TokenRows

Side = Literal["right", "left"]


def cut(rows: TokenRows, length: int, *, overlap: int = 0, document: str = "document") -> TokenRows:
    """Consecutive pieces of documents, each with an id of its own and its document as a subject.

    Piece k of the document `book` is `book#k`; the request `document:book` names all of them, and
    other subjects own the pieces as they owned the document. Cut before the split: the numbers of
    the ids are those of all pieces.

    The first token of a piece is never scored. With `overlap` tokens of the piece before as
    context, which are not scored again, every token but the document's first is scored once;
    without, one more of each piece is not, and a secret of one token may be it. Pieces without a
    scored token are left out.

    Args:
      rows: of `documents`.
      length: tokens of a piece; the last one may be shorter.
      overlap: tokens of context; 0 as in published programs.
      document: the word by which requests name a whole document.

    Raises:
      ValueError: an overlap as long as a piece; a subject of this name that is there already.

    Example:
      >>> from mu_jax.datasets import language
      >>> records = [{"text": "abcdefg", "id": "x"}, {"text": "hi", "id": "y"}]
      >>> rows = language.documents(records, language.ByteTokenizer(), ids="id", end=False)
      >>> pieces = cut(rows, 4, overlap=1)
      >>> pieces.ids.names(pieces.index).tolist(), [row.tokens.tolist() for row in pieces.rows][1]
      (['x#0', 'x#1', 'x#2', 'y#0'], [99, 100, 101, 102])
      >>> pieces.ids.names(pieces.ids.find("document:x")).tolist()
      ['x#0', 'x#1', 'x#2']
    """
    if length < 2 or not 0 <= overlap < length:
        raise ValueError(
            f"expected pieces of at least 2 tokens and a shorter overlap, found {length} and "
            f"{overlap}: give length > overlap >= 0"
        )
    if document in rows.ids.subjects:
        raise ValueError(
            f"expected a new subject for whole documents, found that rows have {document!r}: give "
            "another word as document="
        )
    found, owner, number = [], [], []
    for place, row in enumerate(rows.rows):
        for k, start in enumerate(range(0, max(len(row.tokens) - overlap, 1), length - overlap)):
            tokens, scored, secret = (np.copy(x[start : start + length]) for x in row)
            scored[: max(overlap, 1) if k else 1] = False
            if scored.any():
                found.append(Tokenized(tokens, scored, secret & scored))
                owner.append(place)
                number.append(k)
    names = rows.ids.names(rows.index)[owner]
    of_rows = np.searchsorted(rows.ids.index, rows.index)[owner]
    subjects = {name: values[of_rows] for name, values in rows.ids.subjects.items()}
    ids = [f"{name}#{k}" for name, k in zip(names, number)]
    table = id_table(ids, **subjects, **{document: names})
    return dataclasses.replace(rows, rows=tuple(found), ids=table, index=table.numbers(ids))


def padded(
    rows: TokenRows | PreferenceRows,
    length: int | None = None,
    *,
    batch_size: int,
    side: Side = "right",
) -> Batches:
    """One text a row, filled up with padding.

    Args:
      rows: texts, or pairs of answers, of any lengths.
      length: T, tokens of a row; default: as many as the longest has. Rows to forget and to retain
        need one length, at most that of the model.
      batch_size: rows per batch.
      side: where padding stands; the numbers are the same.

    Returns:
      `Batches` of `Tokens` and `TokenTargets`, or a `Preference` of each, whose rows have the ids
      of the texts.

    Raises:
      ValueError: a text that is longer, by its id; no texts.

    Example:
      >>> from mu_jax.datasets import language
      >>> records = [{"text": "abc", "id": "x"}, {"text": "hi", "id": "y"}]
      >>> rows = language.documents(records, language.ByteTokenizer(), ids="id", end=False)
      >>> data = padded(rows, batch_size=2)
      >>> data.inputs.segment.tolist(), data.targets.mask.astype(int).tolist()
      ([[1, 1, 1, 1], [1, 1, 1, 0]], [[0, 1, 1, 1], [0, 1, 1, 0]])
    """
    if side not in ("right", "left"):
        raise ValueError(f"expected padding on the right or the left, found {side!r}: choose one")
    length = int(rows.lengths.max(initial=2)) if length is None else length
    _check_lengths(rows, length)
    return _batches(rows, [[k] for k in range(len(rows))], length, batch_size, side)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Packed:
    """Rows of several documents, and which documents each row holds.

    Attributes:
      data: `Batches`. A row has an id of its own, `~k` for the number k of its first document, that
        the table does not know: `mu.split` by it refuses rows that may hold documents of both sets.
      documents: for each row the numbers of its documents, int32 [s], in the order of `segment`.
      ids: the table of the ids that people have.
    """

    data: Batches
    documents: tuple[np.ndarray, ...]
    ids: IdTable

    def __repr__(self) -> str:
        total = sum(map(len, self.documents))
        return f"Packed({total} documents in {self.data!r})"

    @property
    def most_documents(self) -> int:
        """S, the most documents in a row: `documents=` of objectives and of reference scores."""
        return max(map(len, self.documents))

    def find(self, request: Any) -> np.ndarray:
        """Positions of the rows that hold some of the documents that a request names, int [m].

        Such rows hold others, too: to forget the documents, split the texts and pack both parts.

        Args:
          request: ids, or one selector such as `"author:ada"`, see `mu.IdTable.find`.

        Raises:
          ValueError: a request that names no document of these rows.
        """
        wanted = self.ids.find(request)
        held = [bool(np.isin(numbers, wanted).any()) for numbers in self.documents]
        if not any(held):
            raise ValueError(
                "expected a request for documents of these rows, found one for others: look in the "
                "rows of the other set"
            )
        return np.flatnonzero(held)


def packed(
    rows: TokenRows | PreferenceRows,
    length: int,
    *,
    batch_size: int,
    most_documents: int | None = None,
) -> Packed:
    """Several documents a row, so that little of it is padding.

    A document that is longest of those left goes where the least room remains behind it. Documents
    of a row, and rows by their first document, stand in the order given. Documents are numbered by
    `segment` from 1 and count `position` from 0, and their first tokens are never scored. Pack
    after the split, so that no row holds documents of both sets.

    Args:
      rows: texts, or pairs of answers: document s of the row of winners then answers the same
        question as that of the losers.
      length: T, tokens of a row, at most that of the model.
      batch_size: rows per batch.
      most_documents: most documents in a row; objectives on whole documents cost memory for each.

    Returns:
      `Packed`, whose `data` are `Batches`.

    Raises:
      ValueError: a text that is longer, by its id; no texts.

    Cost: `n log n` on the host.

    Example:
      >>> from mu_jax.datasets import language
      >>> records = [{"text": text, "id": text} for text in ("abcdef", "ghi", "jk")]
      >>> rows = language.documents(records, language.ByteTokenizer(), ids="id", end=False)
      >>> found = packed(rows, 7, batch_size=2)
      >>> found.data.inputs.segment.tolist()
      [[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 2, 2, 2]]
      >>> [found.ids.names(numbers).tolist() for numbers in found.documents]
      [['abcdef'], ['ghi', 'jk']]
      >>> found.find(["jk"]).tolist()
      [1]
    """
    _check_lengths(rows, length)
    most = len(rows) if most_documents is None else most_documents
    if most < 1:
        raise ValueError(f"expected at least one document in a row, found {most}: allow one")
    groups = _fitted(rows.lengths.tolist(), length, most)
    data = _batches(rows, groups, length, batch_size, "right")
    data = data.replace(index=as_ids(~rows.index[[group[0] for group in groups]]))
    return Packed(data, tuple(rows.index[group] for group in groups), rows.ids)


def _fitted(sizes: list[int], length: int, most: int) -> list[list[int]]:
    """Which documents share a row: each, the longest first, where it leaves the least room."""
    groups: list[list[int]] = []
    by_room: dict[int, list[int]] = {}
    rooms: list[int] = []  # in ascending order, those of rows that are open
    for k in sorted(range(len(sizes)), key=lambda k: -sizes[k]):
        place = bisect.bisect_left(rooms, sizes[k])
        if place == len(rooms):
            room, row = length, len(groups)
            groups.append([])
        else:
            room = rooms[place]
            row = by_room[room].pop()
            if not by_room[room]:
                del rooms[place]
        groups[row].append(k)
        room -= sizes[k]
        if len(groups[row]) < most:
            if not by_room.setdefault(room, []):
                bisect.insort(rooms, room)
            by_room[room].append(row)
    return sorted(sorted(group) for group in groups)


def _batches(
    rows: TokenRows | PreferenceRows,
    groups: list[list[int]],
    length: int,
    batch_size: int,
    side: Side,
) -> Batches:
    index = rows.index[[group[0] for group in groups]]
    if isinstance(rows, TokenRows):
        inputs, targets = _laid(rows, groups, length, side)
        return batches(inputs, targets, batch_size=batch_size, index=index)
    pairs = zip(*(_laid(part, groups, length, side) for part in (rows.winner, rows.loser)))
    both, scored = (Preference(*pair) for pair in pairs)
    return batches(both, scored, batch_size=batch_size, index=index)


def _laid(
    rows: TokenRows, groups: Sequence[Sequence[int]], length: int, side: Side
) -> tuple[Tokens, TokenTargets]:
    """Documents behind one another in rows of one length."""
    shape = len(groups), length
    tokens: Any = np.full(shape, rows.pad, np.int32)
    positions: Any = np.zeros((2, *shape), np.int32)
    marks: Any = np.zeros((2, *shape), np.float32)
    (position, segment), (mask, secret) = positions, marks
    for k, group in enumerate(groups):
        total = sum(len(rows.rows[document].tokens) for document in group)
        start = 0 if side == "right" else length - total
        for number, document in enumerate(group, 1):
            row = rows.rows[document]
            here = k, slice(start, start + len(row.tokens))
            tokens[here], position[here] = row.tokens, np.arange(len(row.tokens))
            segment[here], mask[here], secret[here] = number, row.scored, row.secret
            start += len(row.tokens)
    inputs = Tokens(tokens, position, segment)
    return inputs, TokenTargets(tokens, mask, secret if rows.secrets else ())


def _check_lengths(rows: TokenRows | PreferenceRows, length: int) -> None:
    """Refuse no texts, and texts that are longer than a row."""
    if not len(rows):
        raise ValueError("expected at least one text, found none: give a set that is not empty")
    long = np.flatnonzero(rows.lengths > length)
    if long.size:
        first = long[0]
        name = str(rows.ids.names(rows.index[[first]])[0])
        raise ValueError(
            f"expected texts of at most {length} tokens, found {rows.lengths[first]} in {name!r}"
            f"{f' and {long.size - 1} more' if long.size > 1 else ''}: cut documents by "
            "datasets.language.cut, or leave the text out"
        )
