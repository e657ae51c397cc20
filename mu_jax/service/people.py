"""Who owns which training examples, so that a request names a person and not rows."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
from sqlalchemy import Connection, bindparam, func, select

from mu_jax.data.id_table import IdTable
from mu_jax.data.id_text import as_text
from mu_jax.service import arguments, sets
from mu_jax.service.tables import EXAMPLES, OWNED, SUBJECTS

_SHOWN = 100  # ids in the words of a request
_FIX = "number the rows by the table with which the ledger began"


def enroll(connection: Connection, table: IdTable) -> int:
    """Add the examples of a table and their owners, see `Ledger.enroll`; how many are new."""
    _require_same(connection, table)
    known = sets.numbers(connection, select(EXAMPLES.c.number))
    new = table.without(known) if known.size else table
    pairs = zip(new.index.tolist(), new.ids.tolist())
    sets.insert_all(connection, EXAMPLES, ({"number": n, "id": name} for n, name in pairs))
    for kind in table.subjects:
        _own(connection, kind, new.index, new.subjects[kind])
    return len(new)


def resolve(connection: Connection, request: Any) -> tuple[str, np.ndarray]:
    """What a request asks for, in words, and the ids that it names: int64 [m], sorted.

    Raises:
        ValueError: nobody or nothing that the ledger knows.
    """
    if not isinstance(request, str):
        wanted = [arguments.text(each, "an id") for each in as_text(request, "ids").tolist()]
        more = f" and {len(wanted) - _SHOWN} more" if len(wanted) > _SHOWN else ""
        return f"id:{_joined(wanted[:_SHOWN])}{more}", _by_id(connection, wanted)
    kind, colon, argument = request.partition(":")
    kinds = ["id", *connection.scalars(select(SUBJECTS.c.kind).distinct())]
    wanted = next(csv.reader([argument], skipinitialspace=True), [])
    if not colon or kind not in kinds or not any(wanted):
        forms = ", ".join(f"{name}:..." for name in kinds)
        raise ValueError(f"expected a list of ids or one of {forms}, found {request!r}: use one")
    return request, (_by_id if kind == "id" else _by_owner(kind))(connection, wanted)


def names(connection: Connection, numbers: np.ndarray) -> list[str]:
    """The ids that people have of some numbers, in the order of the numbers."""
    query = select(EXAMPLES.c.id).where(EXAMPLES.c.number == bindparam("wanted"))
    wanted = np.asarray(numbers).tolist()
    found = [connection.scalar(query, {"wanted": number}) for number in wanted]
    if unknown := [number for number, name in zip(wanted, found) if name is None]:
        raise ValueError(
            f"expected numbers of examples, found {len(unknown)} that nobody has enrolled "
            f"({', '.join(map(str, unknown[:5]))}); enroll the table that has them"
        )
    return [str(name) for name in found]


def _by_id(connection: Connection, wanted: list[str]) -> np.ndarray:
    found = {name: _number_of(connection, name) for name in dict.fromkeys(wanted)}
    unknown = [name for name, number in found.items() if number is None]
    if unknown or not found:
        raise ValueError(
            f"expected ids of the training set, found {len(unknown)} unknown "
            f"({', '.join(unknown[:5])}): check them, or enroll the table that has them"
        )
    return np.array(sorted(found.values()), np.int64)  # type: ignore[type-var]


def _number_of(connection: Connection, name: str) -> int | None:
    return connection.scalar(select(EXAMPLES.c.number).where(EXAMPLES.c.id == name))


def _by_owner(kind: str) -> Any:
    def find(connection: Connection, wanted: list[str]) -> np.ndarray:
        parts = [_owned(connection, kind, name) for name in dict.fromkeys(wanted)]
        return np.unique(np.concatenate(parts))

    return find


def _owned(connection: Connection, kind: str, name: str) -> np.ndarray:
    found = sets.numbers(
        connection,
        select(OWNED.c.number).where(
            SUBJECTS.c.subject == OWNED.c.subject, SUBJECTS.c.kind == kind, SUBJECTS.c.name == name
        ),
    )
    if not found.size:
        raise ValueError(
            f"expected a {kind} who owns training examples, found {name!r}, who owns none: check "
            "the request, or enroll the table that has them"
        )
    return found


def _own(connection: Connection, kind: str, index: np.ndarray, owners: np.ndarray) -> None:
    query = select(SUBJECTS.c.name, SUBJECTS.c.subject).where(SUBJECTS.c.kind == kind)
    known = {name: subject for name, subject in connection.execute(query)}
    last = connection.scalar(select(func.max(SUBJECTS.c.subject))) or 0
    new = [name for name in dict.fromkeys(owners.tolist()) if name not in known]
    known |= {name: last + 1 + place for place, name in enumerate(new)}
    rows = ({"subject": known[name], "kind": kind, "name": name} for name in new)
    sets.insert_all(connection, SUBJECTS, rows)
    pairs = zip(index.tolist(), owners.tolist())
    rows = ({"subject": known[name], "number": number} for number, name in pairs)
    sets.insert_all(connection, OWNED, rows)


def _require_same(connection: Connection, table: IdTable) -> None:
    """Refuse a table in which a number, an id or an owner means something else than before."""
    by_number, by_id = {}, {}
    for number, name in connection.execute(select(EXAMPLES.c.number, EXAMPLES.c.id)):
        by_number[number], by_id[name] = name, number
    for number, name in zip(table.index.tolist(), table.ids.tolist()):
        if by_number.get(number, name) != name or by_id.get(name, number) != number:
            raise ValueError(
                f"expected the number {by_id.get(name, 'of its own')} for {name!r}, found {number}"
                f", which is that of {by_number.get(number, 'nobody')!r}: {_FIX}"
            )
    query = select(OWNED.c.number, SUBJECTS.c.kind, SUBJECTS.c.name).where(
        SUBJECTS.c.subject == OWNED.c.subject
    )
    owners = {(number, kind): name for number, kind, name in connection.execute(query)}
    for kind, values in table.subjects.items():
        for number, name in zip(table.index.tolist(), values.tolist()):
            if number in by_number and owners.get((number, kind)) != name:
                raise ValueError(
                    f"expected the {kind} {owners.get((number, kind))!r} of {by_number[number]!r}, "
                    f"as it was enrolled, found {name!r}: {_FIX}"
                )


def _joined(wanted: list[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(wanted)
    return text.getvalue()
