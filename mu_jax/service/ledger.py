"""The ledger of requests: who asked to be forgotten, and what has become of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from sqlalchemy import func, select

from mu_jax.data.id_table import IdTable
from mu_jax.service import arguments, chain, people, requests, sets
from mu_jax.service.database import Database
from mu_jax.service.requests import STATES, Event, Request, State
from mu_jax.service.tables import REQUESTS
from mu_jax.service.worker import Worker


class Ledger:
    """Requests to forget, in a database: SQLite in one file, or PostgreSQL.

    A request is *accepted*, then *pending* while a worker is at it, then *done* or *refused*; a
    worker whose result is not good enough puts it back. Each step has its reason and its time.

    Guarantees:

    * what a method wrote is on stable storage when it returns; a process killed at any moment, or a
      power loss, leaves the state before or after the call, never one in between;
    * a request that was accepted stays until it is done or refused, and no two runs are done with
      it: a worker that takes over from a dead one gets the same run, and one whose run was taken
      over is refused (`Overtaken`);
    * what a request names that is not refused is in no retain set (`Work.split`), from the moment
      it is accepted, in every later lineage too;
    * of two writers one waits, and is refused in a sentence after `wait` seconds; readers wait for
      nobody and see one state.

    The file of SQLite lies on a disk of this machine (its write-ahead log needs shared memory);
    for several machines, PostgreSQL. On several hosts process 0 alone calls the ledger.

    Args:
        where: a path, or `postgresql://USER@HOST/NAME`, which needs the extra `postgresql`.
        create: make a ledger where there is none; False refuses that.
        wait: seconds to wait for another writer; default 60.

    Raises:
        FileNotFoundError: there is no ledger, and `create` is False.
        ValueError: a file or a database of something else, or of a newer schema.
        Damaged: the file was changed by other hands.
        OSError: a place that cannot be read or written, a full disk.
        ConnectionError: a server that cannot be reached.

    Example:
        >>> import tempfile, mu_jax as mu
        >>> from mu_jax.service import Ledger
        >>> directory = tempfile.TemporaryDirectory()
        >>> ledger = Ledger(f"{directory.name}/ledger.db")
        >>> ledger.enroll(mu.id_table(["a", "b", "c"], user=["u_1", "u_2", "u_1"]))
        3
        >>> ledger.accept("user:u_1").number
        1
        >>> with ledger.worker() as worker:
        ...     work = worker.start(parent=1)
        ...     worker.finish(work, version=2)
        >>> work.forget.tolist(), ledger.request(1).state
        ([0, 2], 'done')
        >>> ledger.accept("id:c").reason
        'the example is forgotten already, by other requests'
        >>> directory.cleanup()
    """

    def __init__(
        self, where: str | os.PathLike[str], *, create: bool = True, wait: float = 60.0
    ) -> None:
        self._database = Database(where, create=create, wait=wait)

    def __repr__(self) -> str:
        return f"Ledger({self._database.name!r})"

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to a server."""
        self._database.close()

    def enroll(self, table: IdTable) -> int:
        """Make the examples of a table and their owners known; how many of them are new.

        A number never changes its meaning, so a table in which one does is refused. Examples that
        were enrolled stay, whatever becomes of the data. Rows that come later belong to no request
        that was accepted before.

        Raises:
            ValueError: an id of another number, a number of another id, or another owner; nothing
                was written.
        """
        with self._database.writing() as connection:
            return people.enroll(connection, table)

    def accept(self, request: Any, *, key: str | None = None, asked: str | None = None) -> Request:
        """Write down a request, or recognize one.

        * The same `key` again: the request of then, so that whoever heard no answer asks again.
        * The same examples as a request that is not done yet: that request.
        * All of it forgotten already: a request that is done at once, and says so.

        Args:
            request: `"user:u_8123"`, a kind of subject and who; `"id:img_7,img_9"`; or a list of
                the ids that people have.
            key: of whoever asks, such as the number of a ticket.
            asked: other words for the record, such as `"class:3"`.

        Returns:
            The request as it is now; `number` is what the person is told.

        Raises:
            ValueError: nobody the ledger knows, or the key of another request; nothing was written.
        """
        if isinstance(request, str):
            arguments.text(request, "a request such as user:u_8123")
        for value, what in ((key, "a key"), (asked, "words for the record")):
            if value is not None:
                arguments.text(value, what)
        with self._database.writing() as connection:
            words, numbers = people.resolve(connection, request)
            return requests.accept(connection, asked or words, numbers, key)

    def refuse(self, number: int, reason: str) -> Request:
        """Refuse a request that waits, for a reason; its examples may be retained again.

        Raises:
            ValueError: there is none, it does not wait, or there is no reason.
        """
        return self.refuse_all([number], reason)[0]

    def refuse_all(self, numbers: Iterable[int], reason: str) -> tuple[Request, ...]:
        """Refuse requests that wait, for one reason: all of them or none, in their order.

        Raises:
            ValueError: as for `refuse`, of any of them.
        """
        arguments.text(reason, "a reason for the person who asked")
        wanted = tuple(dict.fromkeys(numbers))
        with self._database.writing() as connection:
            for found in [requests.one(connection, number) for number in wanted]:
                if found.state != "accepted":
                    raise ValueError(
                        f"expected a request that waits, found that {found.number} is "
                        f"{found.state}; its worker alone puts a pending one back, and done is done"
                    )
                requests.change(connection, [found], "refused", reason)
            return tuple(requests.one(connection, number) for number in wanted)

    def request(self, number: int) -> Request:
        """The request of a number.

        Raises:
            ValueError: there is none.
        """
        with self._database.reading() as connection:
            return requests.one(connection, number)

    def requests(self, state: State | None = None) -> tuple[Request, ...]:
        """All requests, or those of a state, oldest first."""
        if state is not None and state not in STATES:
            raise ValueError(f"expected a state among {', '.join(STATES)}, found {state!r}")
        conditions = () if state is None else (REQUESTS.c.state == state,)
        with self._database.reading() as connection:
            return requests.find(connection, *conditions)

    def counts(self) -> dict[str, int]:
        """How many requests are in each state."""
        query = select(REQUESTS.c.state, func.count()).group_by(REQUESTS.c.state)
        with self._database.reading() as connection:
            found = {state: count for state, count in connection.execute(query)}
        return {state: found.get(state, 0) for state in STATES}

    def events(self, number: int | None = None) -> tuple[Event, ...]:
        """What happened to a request, or to all, oldest first."""
        with self._database.reading() as connection:
            return requests.events(connection, number)

    def ids(self, number: int) -> np.ndarray:
        """The training ids that a request names, int64 [m], sorted."""
        with self._database.reading() as connection:
            requests.one(connection, number)
            return requests.names_ids(connection, number)

    def forgotten(self) -> np.ndarray:
        """The training ids of all requests that are done, int64 [m], sorted."""
        with self._database.reading() as connection:
            return sets.forgotten(connection)

    def excluded(self) -> np.ndarray:
        """The training ids that no retain set may hold: those of every request but refused ones."""
        with self._database.reading() as connection:
            return sets.excluded(connection)

    def names(self, numbers: np.ndarray) -> list[str]:
        """The ids that people have of training ids, in the order given.

        Raises:
            ValueError: a number that was not enrolled.
        """
        with self._database.reading() as connection:
            return people.names(connection, numbers)

    def certificates(self) -> tuple[bytes, ...]:
        """The signed certificates, in their order: what `certificates.verify` takes."""
        with self._database.reading() as connection:
            return chain.read_all(connection)

    def last_certificate(self) -> bytes | None:
        """The newest certificate, to which the next one is chained; None before the first."""
        with self._database.reading() as connection:
            return chain.read_last(connection)

    @contextlib.contextmanager
    def worker(self, *, wait: bool = False) -> Iterator[Worker]:
        """Be the one process that works on requests, for the time of the block.

        Args:
            wait: for another worker to end; False refuses at once.

        Raises:
            BlockingIOError: another process works.
        """
        with self._database.worker(wait):
            yield Worker(self._database)
