"""Runs in the database: requests that one worker is at, and how the run ended."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
from sqlalchemy import Connection, func, insert, select, update

from mu_jax.service import requests, sets
from mu_jax.service.requests import Request, State
from mu_jax.service.tables import REQUESTS, RUNS
from mu_jax.store import lineages
from mu_jax.store.records import now
from mu_jax.store.versions import Overtaken

Data = TypeVar("Data")


class Work(NamedTuple):
    """Requests that a worker has begun with, and what they ask for.

    A worker that takes over from a dead one gets the same run: its number, parent, requests and
    ids are those of the first attempt.

    Attributes:
        run: number of the run, from 1 upwards.
        attempt: 1 for the first worker of the run, one more for each that took it over.
        parent: version of the store that served when it began, or None.
        begun: UTC time of the first attempt.
        requests: oldest first.
        forget: ids to forget, int64 [m], sorted; what is forgotten already is not among them.
        excluded: ids that no retain set may hold, int64 [k], sorted: `forget`, all that was ever
            forgotten, and what other requests ask for that are not done yet.
    """

    run: int
    attempt: int
    parent: int | None
    begun: str
    requests: tuple[Request, ...]
    forget: np.ndarray
    excluded: np.ndarray

    @property
    def resumed(self) -> bool:
        """Whether another worker has begun it, and ended before it was done."""
        return self.attempt > 1

    def split(self, data: Data) -> tuple[Data, Data]:
        """The forget and the retain set among all training examples, see `mu.split`."""
        gone = np.setdiff1d(self.excluded, self.forget)
        return lineages.split(data, self.forget, gone, None, None)


def begin(connection: Connection, parent: int | None, most: int | None) -> Work | None:
    """The run that a dead worker has left, or a new one for the oldest requests, or None."""
    last = connection.execute(select(RUNS.c.run).where(RUNS.c.ended.is_(None))).scalar()
    if last is not None:
        taken = update(RUNS).where(RUNS.c.run == last).values(attempt=RUNS.c.attempt + 1)
        connection.execute(taken)
        return _work(connection, last)
    waiting = requests.find(connection, REQUESTS.c.state == "accepted")[:most]
    if not waiting:
        return None
    run = (connection.scalar(select(func.max(RUNS.c.run))) or 0) + 1
    row = {"run": run, "attempt": 1, "parent": parent, "begun": now()}
    row["horizon"] = requests.last_event(connection)
    connection.execute(insert(RUNS).values(**row))
    requests.change(connection, waiting, "pending", f"run {run} is at it", run=run)
    return _work(connection, run)


def end(
    connection: Connection, work: Work, state: State, reason: str, version: int | None = None
) -> None:
    """End a run, and move its requests to a state.

    Raises:
        Overtaken: another worker has taken the run over, or has ended it.
    """
    require_current(connection, work)
    values = {"ended": now(), "outcome": reason or state, "version": version}
    connection.execute(update(RUNS).where(RUNS.c.run == work.run).values(**values))
    run = None if state == "accepted" else work.run
    requests.change(connection, _of(connection, work.run), state, reason, run=run, version=version)
    requests.settle(connection)


def require_current(connection: Connection, work: Work) -> None:
    """Refuse a worker whose run is another one's now."""
    query = select(RUNS.c.attempt, RUNS.c.ended).where(RUNS.c.run == work.run)
    found = connection.execute(query).one_or_none()
    if found is None or found.ended is not None or found.attempt != work.attempt:
        what = "none" if found is None else "it ended" if found.ended else f"{found.attempt}"
        raise Overtaken(
            f"expected that attempt {work.attempt} is at run {work.run}, found {what}; start again "
            "and take what is there"
        )


def reconcile(connection: Connection, version: int | None, forgotten: np.ndarray) -> None:
    """Let the requests agree with what the serving version has forgotten, see `Worker`."""
    of, ids = sets.of_done(connection)
    again = np.unique(of[~np.isin(ids, forgotten)])
    serves = "no version serves"
    if version is not None:
        serves = f"version {version} serves, which has not forgotten all of its examples"
    for number in again.tolist():
        requests.change(connection, [requests.one(connection, number)], "accepted", serves)
    unknown = np.setdiff1d(forgotten, sets.excluded(connection))
    if unknown.size:
        words = f"ids that version {version} had forgotten and nobody had asked for here"
        found = requests.accept(connection, words, unknown, None)
        reason = "forgotten outside of this ledger"
        requests.change(connection, [found], "done", reason, version=version)
    requests.settle(connection)


def _of(connection: Connection, run: int) -> tuple[Request, ...]:
    return requests.find(connection, REQUESTS.c.run == run)


def _work(connection: Connection, run: int) -> Work:
    row = connection.execute(select(RUNS).where(RUNS.c.run == run)).one()
    return Work(
        run,
        row.attempt,
        row.parent,
        row.begun,
        _of(connection, run),
        sets.left(connection, run),
        sets.excluded(connection, row.horizon),
    )
