"""Requests in the database: accepted, recognized, and moved from state to state with an event."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
from sqlalchemy import Connection, func, insert, select, update

from mu_jax.data import ids
from mu_jax.service import arguments, sets
from mu_jax.service.tables import ASKED, EVENTS, REQUESTS
from mu_jax.store.records import now

State = Literal["accepted", "pending", "done", "refused"]
STATES: tuple[State, ...] = ("accepted", "pending", "done", "refused")
_OPEN = REQUESTS.c.state.in_(("accepted", "pending"))


class Request(NamedTuple):
    """One request to forget.

    Attributes:
        number: from 1 upwards, without gaps.
        asked: in words: `"user:u_8123"`.
        state: accepted (it waits), pending (a run is at it), done or refused.
        reason: why it is in that state, where there is something to say.
        accepted, since: UTC times, ISO 8601: of the request, and of its state.
        examples: how many training examples it names.
        ids_digest: fingerprint of their numbers, as `mu.datasets.digest` computes it.
        key: by which whoever asks recognizes the request, or None.
        run: that is at it or has ended it, or None.
        version: of the store, that has forgotten all of it, or None.
    """

    number: int
    asked: str
    state: State
    reason: str
    accepted: str
    since: str
    examples: int
    ids_digest: str
    key: str | None
    run: int | None
    version: int | None


class Event(NamedTuple):
    """What happened to a request: its state and the reason, from the time `at` on."""

    event: int
    at: str
    request: int
    state: State
    reason: str


_COLUMNS = [REQUESTS.c[name] for name in Request._fields]


def find(connection: Connection, *conditions: Any) -> tuple[Request, ...]:
    """The requests that fulfil conditions, oldest first."""
    query = select(*_COLUMNS).where(*conditions).order_by(REQUESTS.c.number)
    return tuple(Request(*row) for row in connection.execute(query))


def events(connection: Connection, number: int | None) -> tuple[Event, ...]:
    """All events, or those of one request, oldest first."""
    query = select(*EVENTS.c).order_by(EVENTS.c.event)
    if number is not None:
        query = query.where(EVENTS.c.request == number)
    return tuple(Event(*row) for row in connection.execute(query))


def one(connection: Connection, number: int) -> Request:
    """The request of a number.

    Raises:
        ValueError: there is none.
    """
    wanted = arguments.number(number, "the number of a request")
    found = find(connection, REQUESTS.c.number == wanted)
    if not found:
        raise ValueError(f"expected the number of a request, found {number!r}, which nobody has")
    return found[0]


def accept(connection: Connection, asked: str, numbers: np.ndarray, key: str | None) -> Request:
    """Write down a request, or recognize it: see `Ledger.accept`."""
    digest = ids.digest(numbers)
    if key is not None and (known := find(connection, REQUESTS.c.key == key)):
        if known[0].asked != asked:
            raise ValueError(
                f"expected {known[0].asked!r} for the key {key!r}, as when it was given first, "
                f"found {asked!r}; give each request a key of its own"
            )
        return known[0]
    same = find(connection, _OPEN, REQUESTS.c.ids_digest == digest)
    if same:
        _note(connection, same[0], "asked again")
        return same[0]
    number = _next(connection, REQUESTS.c.number)
    opened, at = _next(connection, EVENTS.c.event), now()
    row = {"number": number, "key": key, "asked": asked, "ids_digest": digest, "accepted": at}
    row |= {"examples": len(numbers), "state": "accepted", "reason": "", "since": at}
    connection.execute(insert(REQUESTS).values(**row, opened=opened))
    sets.name(connection, number, numbers)
    _note(connection, one(connection, number), "")
    settle(connection, REQUESTS.c.number == number)
    return one(connection, number)


def change(
    connection: Connection,
    requests: Iterable[Request],
    state: State,
    reason: str = "",
    *,
    run: int | None = None,
    version: int | None = None,
) -> None:
    """Move requests to a state: the one place that does, with an event for each."""
    for request in requests:
        event, at = _next(connection, EVENTS.c.event), now()
        values = {"state": state, "reason": reason, "since": at, "run": run, "version": version}
        values["closed"] = event if state == "refused" else None
        where = REQUESTS.c.number == request.number
        connection.execute(update(REQUESTS).where(where).values(**values))
        _note(connection, one(connection, request.number), reason)


def settle(connection: Connection, *conditions: Any) -> None:
    """Accepted requests of which nothing is left to forget are done."""
    for number, version in sets.fulfilled(connection, *conditions):
        count = one(connection, number).examples
        what = f"all {count} examples are" if count > 1 else "the example is"
        reason = f"{what} forgotten already, by other requests"
        change(connection, [one(connection, number)], "done", reason, version=version)


def _note(connection: Connection, request: Request, reason: str) -> None:
    event = _next(connection, EVENTS.c.event)
    row = {"event": event, "at": now(), "request": request.number, "state": request.state}
    connection.execute(insert(EVENTS).values(**row, reason=reason))


def _next(connection: Connection, column: Any) -> int:
    """The next number, without gaps: writers are alone."""
    return (connection.scalar(select(func.max(column))) or 0) + 1


def last_event(connection: Connection) -> int:
    """The newest event."""
    return _next(connection, EVENTS.c.event) - 1


def names_ids(connection: Connection, number: int) -> np.ndarray:
    """The training ids that a request names, int64 [m], sorted."""
    return sets.numbers(connection, select(ASKED.c.number).where(ASKED.c.request == number))
