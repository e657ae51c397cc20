"""The ids that people have for examples, their subjects, and the numbers that the library uses."""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import io
import os
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from mu_jax import _files as files
from mu_jax.data.id_text import as_text

_BOUNDS = np.iinfo(np.int32)
_RESERVED = ("id", "ids", "index", "class", "random", "nearest", "below", "above")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class IdTable:
    """People's ids beside the numbers that stand for them; made by `mu.id_table`.

    A number never changes its meaning: the table is kept beside the data and in the store of every
    lineage, which refuses another one (see `mu.store.Store.publish`).

    Attributes:
      ids: text [n], the ids that people have, each once, in the order of the numbers.
      index: int32 [n], ascending; what `mu.batches` and `mu.stream` take as `index`.
      subjects: text [n] by name: who owns each example, such as `{"user": ...}`.
    """

    ids: np.ndarray
    index: np.ndarray
    subjects: dict[str, np.ndarray]

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.ids)

    def __repr__(self) -> str:
        owners = "".join(
            f", {np.unique(values).size} different {name!r}"
            for name, values in self.subjects.items()
        )
        return f"IdTable({len(self)} ids{owners})"

    def numbers(self, ids: Any) -> np.ndarray:
        """The numbers of some ids, in the order given: what `index=` takes for rows of these ids.

        Args:
          ids: text, whole numbers or UUIDs [m]: a list, a numpy array, a pandas Series or Index.

        Returns:
          int32 [m].

        Raises:
          ValueError: an id that the table lacks, or what is no id.

        Cost: O(m log n).
        """
        wanted = as_text(ids, "ids")
        position = np.searchsorted(self._sorted, wanted)
        found = self._sorted[np.minimum(position, len(self) - 1)] == wanted
        if not found.all():
            raise ValueError(
                f"expected ids of the {len(self)} examples, found {np.sum(~found)} unknown "
                f"({_some(wanted[~found])}): check them against the table of ids"
            )
        return self.index[self._order[position]]

    def owned(self, name: str, subjects: Any) -> np.ndarray:
        """The numbers of all examples that some subjects own.

        Args:
          name: which kind of subject, such as `"user"`. subjects: who, as in `numbers`.

        Returns:
          int32 [m], ascending.

        Raises:
          ValueError: a kind that the table lacks, or a subject that owns nothing.
        """
        if name not in self.subjects:
            raise ValueError(
                f"expected a subject among {', '.join(self.subjects) or 'none'}, found {name!r}: "
                "give the table this column, or name the examples by their ids"
            )
        wanted, values = as_text(subjects, name), self.subjects[name]
        unknown = np.setdiff1d(wanted, values)
        if unknown.size:
            raise ValueError(
                f"expected a {name} that owns examples, found {unknown.size} unknown "
                f"({_some(unknown)}): check the request against the table of ids"
            )
        return self.index[np.isin(values, wanted)]

    def find(self, request: Any) -> np.ndarray:
        """The numbers that a request names: ids, or one selector in text.

        Args:
          request: ids, as in `numbers`; or `"user:u_8123"`, a kind of subject and who, or
            `"id:img_7"`; several by commas, quoted where they hold one themselves.

        Returns:
          int32 [m].
        """
        if not isinstance(request, str):
            return self.numbers(request)
        kind, colon, argument = request.partition(":")
        if not colon or kind not in ("id", *self.subjects):
            forms = ", ".join(f"{name}:..." for name in ("id", *self.subjects))
            hint = "use one"
            if kind == "class" and colon:
                hint = "for a class, give the list of the ids of its rows"
            raise ValueError(f"expected a list of ids or one of {forms}, found {request!r}: {hint}")
        return self.select(kind, argument)

    def select(self, kind: str, argument: str) -> np.ndarray:
        """The numbers that the selector `kind:argument` names, see `find`."""
        named = next(csv.reader([argument], skipinitialspace=True), [])
        if not any(named):
            raise ValueError(f"expected {kind}:VALUE, found {kind}:{argument}: name at least one")
        return self.numbers(named) if kind == "id" else self.owned(kind, named)

    def names(self, index: Any) -> np.ndarray:
        """The ids that people have, text [m], of some numbers, in the order given.

        Raises:
          ValueError: a number that stands for no example.
        """
        wanted = np.asarray(index)
        position = np.minimum(np.searchsorted(self.index, wanted), len(self) - 1)
        unknown = wanted[self.index[position] != wanted] if wanted.size else wanted
        if unknown.size:
            raise ValueError(
                f"expected numbers of the table of ids, found {unknown.size} others "
                f"({_some(unknown)}): number the rows by table.numbers"
            )
        return self.ids[position] if wanted.size else self.ids[:0]

    def only(self, index: Any) -> IdTable:
        """The part of the table that some examples make up, such as a split of the data.

        Raises:
          ValueError: a number that stands for no example.
        """
        self.names(index)
        return self._part(np.isin(self.index, np.asarray(index)))

    def without(self, index: Any) -> IdTable:
        """The table of the other examples; numbers keep their meaning."""
        return self._part(~np.isin(self.index, np.asarray(index)))

    def _part(self, chosen: np.ndarray) -> IdTable:
        if chosen.all():
            return self
        subjects = {name: values[chosen] for name, values in self.subjects.items()}
        return IdTable(self.ids[chosen], self.index[chosen], subjects)

    @functools.cached_property
    def digest(self) -> str:
        """The fingerprint of all of it: SHA-256 of the file that `save` writes, in hexadecimal."""
        return hashlib.sha256(self._text().encode()).hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a CSV file of the columns `index`, `id` and the subjects, whole or not at all."""
        files.replace_text(path, self._text())

    def _text(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("index", "id", *self.subjects))
        writer.writerows(zip(self.index.tolist(), self.ids, *self.subjects.values()))
        return text.getvalue()

    @functools.cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.ids, kind="stable")

    @functools.cached_property
    def _sorted(self) -> np.ndarray:
        return self.ids[self._order]


def id_table(ids: Any, *, index: Any | None = None, **subjects: Any) -> IdTable:
    """The table of the ids that people have: of each its number, and the subjects who own it.

    Ids are compared as text: the number 7, the text `7` and a UUID's usual form. A whole number
    that fits 32 bits stands for itself if all ids are such; other ids are numbered by their
    alphabetical order, so that the order of the rows plays no part.

    Args:
      ids: [n], each once: text, whole numbers of any size or UUIDs, as a list, a numpy array, a
        pandas Series or Index. No set, which has no order.
      index: int [n], numbers to keep, of 32 bits; default as above.
      **subjects: [n] each, by the word that requests use: `user=frame["user"]` for `user:u_8123`.

    Returns:
      An `IdTable`.

    Raises:
      ValueError: an id that is missing, no text or whole number, or there twice; columns of
        unequal lengths; a subject named like a selector.

    Cost: O(n log n) on the host.

    Example:
      >>> import numpy as np, mu_jax as mu
      >>> names = ["img_b", "img_a", "img_c"]
      >>> table = mu.id_table(names, user=["u_1", "u_2", "u_1"])
      >>> table
      IdTable(3 ids, 2 different 'user')
      >>> rows = table.numbers(names)
      >>> data = mu.batches(np.ones((3, 2)), np.arange(3), batch_size=2, index=rows)
      >>> forget, retain = mu.split(data, "user:u_1", ids=table)
      >>> table.names(forget.index).tolist(), table.names(retain.index).tolist()
      (['img_b', 'img_c'], ['img_a'])
    """
    text = as_text(ids, "ids")
    owners = {name: _subject(name, values, len(text)) for name, values in subjects.items()}
    if not len(text):
        raise ValueError("expected at least one id, found none: give the ids of the examples")
    _require_different(text, "ids", "give each row an id of its own, and who owns it as a subject")
    numbers = _numbered(text) if index is None else _given(index, len(text))
    order = np.argsort(numbers, kind="stable")
    return IdTable(text[order], numbers[order], {name: v[order] for name, v in owners.items()})


def load_id_table(path: str | os.PathLike[str]) -> IdTable:
    """The table in a file that `IdTable.save` wrote.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is another file, or was changed into no table.
    """
    path = files.absolute(path)
    try:
        header, *rows = csv.reader(io.StringIO(files.read_text(path), newline=""), strict=True)
        if header[:2] != ["index", "id"] or any(len(row) != len(header) for row in rows):
            raise ValueError("no columns index and id")
        columns = list(zip(*rows)) or [()] * len(header)
        index = np.array([int(text) for text in columns[0]])
    except (csv.Error, ValueError) as error:
        raise ValueError(
            f"expected a table of ids with the columns index and id in {path}, found another or a "
            f"damaged file ({error}): copy it again"
        ) from error
    owners = {name: list(values) for name, values in zip(header[2:], columns[2:])}
    return id_table(list(columns[1]), index=index, **owners)


def require_same(kept: IdTable, given: IdTable, gone: Iterable[int] | np.ndarray = ()) -> None:
    """Refuse a table in which an example has another number or owner than in the one that was kept.

    Args:
      kept: with which the lineage began. given: that of the data as they are now.
      gone: numbers of forgotten examples, which alone may be missing.

    Raises:
      ValueError: an example that is new, missing, renumbered, or of another subject.
    """
    if kept.digest == given.digest:
        return
    fix = "number the rows by the table that was kept, or train from scratch in another store"
    new, missing = np.setdiff1d(given.ids, kept.ids), np.setdiff1d(kept.ids, given.ids)
    missing = missing[~np.isin(kept.numbers(missing), np.asarray(list(gone)))]
    for found, what in ((new, "are new"), (missing, "are missing and were not forgotten")):
        if found.size:
            raise ValueError(
                f"expected the ids with which the lineage began, found {found.size} that {what} "
                f"({_some(found)}): {fix}"
            )
    if list(kept.subjects) != list(given.subjects):
        raise ValueError(
            f"expected the subjects {list(kept.subjects)} with which the lineage began, found "
            f"{list(given.subjects)}: {fix}"
        )
    rows = np.searchsorted(kept._sorted, given.ids)
    rows = kept._order[rows]
    columns = [("number", kept.index, given.index)]
    columns += [(name, kept.subjects[name], given.subjects[name]) for name in kept.subjects]
    for name, before, now in columns:
        changed = np.flatnonzero(before[rows] != now)
        if changed.size:
            first = changed[0]
            raise ValueError(
                f"expected the {name} {before[rows][first]} of {str(given.ids[first])!r}, as when "
                f"the lineage began, found {now[first]}: {fix}"
            )


def _subject(name: str, values: Any, size: int) -> np.ndarray:
    if name in _RESERVED or not re.fullmatch(r"[A-Za-z]\w*", name):
        raise ValueError(
            f"expected a word for a kind of subject, found {name!r}, which requests use otherwise: "
            "rename the column"
        )
    text = as_text(values, name)
    if len(text) != size:
        raise ValueError(
            f"expected one {name} for each of {size} ids, found {len(text)}: give a column of the "
            "same rows"
        )
    return text


def _numbered(text: np.ndarray) -> np.ndarray:
    """Themselves, if all are whole numbers of 32 bits; else their ranks."""
    if all(re.fullmatch(r"0|-?[1-9]\d{0,9}", each) for each in text.tolist()):
        values = text.astype(np.int64)
        if _BOUNDS.min <= values.min() and values.max() <= _BOUNDS.max:
            return values.astype(np.int32)
    rank = np.empty(len(text), np.int32)
    rank[np.argsort(text, kind="stable")] = np.arange(len(text), dtype=np.int32)
    return rank


def _given(index: Any, size: int) -> np.ndarray:
    values = np.asarray(index)
    fits = np.issubdtype(values.dtype, np.integer) and values.shape == (size,)
    if not fits or values.min() < _BOUNDS.min or values.max() > _BOUNDS.max:
        raise ValueError(
            f"expected index of {size} whole numbers of 32 bits, found {values.dtype} "
            f"{values.shape}: give one number for each id"
        )
    _require_different(values, "numbers", "give each id a number of its own")
    return values.astype(np.int32)


def _require_different(values: np.ndarray, what: str, fix: str) -> None:
    found, counts = np.unique(values, return_counts=True)
    if found.size != values.size:
        raise ValueError(
            f"expected {what} that are all different, found {np.sum(counts > 1)} used more than "
            f"once ({_some(found[counts > 1])}): {fix}"
        )


def _some(values: np.ndarray) -> str:
    return ", ".join(map(str, values[:5].tolist())) + (", ..." if len(values) > 5 else "")
