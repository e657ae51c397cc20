"""Sets of training ids in the database: what is forgotten, and what no retain set may hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from sqlalchemy import Connection, Select, and_, exists, func, insert, or_, select

from mu_jax.data.ids import sorted_unique
from mu_jax.service.tables import ASKED, REQUESTS

_BLOCK = 10_000  # rows of one statement


def numbers(connection: Connection, query: Select[Any]) -> np.ndarray:
    """The whole numbers of the one column of a query: int64 [m], sorted, each once."""
    return sorted_unique(np.fromiter(connection.scalars(query), np.int64))


def name(connection: Connection, request: int, ids: np.ndarray) -> None:
    """Write down which ids a request names."""
    insert_all(connection, ASKED, ({"request": request, "number": one} for one in ids.tolist()))


def insert_all(connection: Connection, table: Any, rows: Iterable[dict[str, Any]]) -> None:
    """Insert many rows, a block at a time."""
    rows = list(rows)
    for start in range(0, len(rows), _BLOCK):
        connection.execute(insert(table), rows[start : start + _BLOCK])


def forgotten(connection: Connection) -> np.ndarray:
    """Ids of all requests that are done."""
    return numbers(connection, _asked_by(REQUESTS.c.state == "done"))


def excluded(connection: Connection, horizon: int | None = None) -> np.ndarray:
    """Ids that no retain set may hold: of all requests that are not refused, done or not.

    Args:
        horizon: the newest event to look at, so that a run that resumes sees the same; None for
            the state of now.
    """
    if horizon is None:
        return numbers(connection, _asked_by(REQUESTS.c.state != "refused"))
    closed = REQUESTS.c.closed
    asked_then = and_(REQUESTS.c.opened <= horizon, or_(closed.is_(None), closed > horizon))
    return numbers(connection, _asked_by(asked_then))


def left(connection: Connection, run: int) -> np.ndarray:
    """Ids that a run forgets: of its requests, without what is forgotten already."""
    asked = numbers(connection, _asked_by(REQUESTS.c.run == run))
    return np.setdiff1d(asked, forgotten(connection))


def fulfilled(connection: Connection, *conditions: Any) -> list[tuple[int, int | None]]:
    """Accepted requests whose ids are all forgotten, and the newest version that forgot one."""
    other, theirs = REQUESTS.alias(), ASKED.alias()
    by_others = and_(
        theirs.c.number == ASKED.c.number,
        other.c.number == theirs.c.request,
        other.c.state == "done",
    )
    is_left = and_(ASKED.c.request == REQUESTS.c.number, ~exists().where(by_others))
    versions = (
        select(func.max(other.c.version))
        .where(by_others, ASKED.c.request == REQUESTS.c.number)
        .scalar_subquery()
    )
    query = select(REQUESTS.c.number, versions).where(
        REQUESTS.c.state == "accepted", ~exists().where(is_left), *conditions
    )
    return [(number, version) for number, version in connection.execute(query)]


def of_done(connection: Connection) -> tuple[np.ndarray, np.ndarray]:
    """Every id that a request names that is done: int64 [m] requests, int64 [m] ids."""
    query = select(ASKED.c.request, ASKED.c.number).where(
        REQUESTS.c.number == ASKED.c.request, REQUESTS.c.state == "done"
    )
    rows = np.array([tuple(row) for row in connection.execute(query)], np.int64).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]


def _asked_by(condition: Any) -> Select[Any]:
    return select(ASKED.c.number).where(REQUESTS.c.number == ASKED.c.request, condition)
