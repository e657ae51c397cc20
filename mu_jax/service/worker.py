"""The one process that works on the requests of a ledger."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mu_jax.data.ids import sorted_unique
from mu_jax.service import arguments, chain, runs
from mu_jax.service.database import Database
from mu_jax.service.runs import Work


class Worker:
    """What `Ledger.worker` gives: takes requests, and says what has become of them.

    A loop that serves requests:

        with ledger.worker() as worker:
            worker.reconcile(store.serving(), store.forgotten())
            while work := worker.start(parent=store.serving(), most=8):
                forget, retain = work.split(data)
                ...  # unlearn; publish, or find what a dead worker has published; judge; swap
                worker.finish(work, version=version, certificate=certificate)
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def reconcile(self, version: int | None, forgotten: Iterable[int] | np.ndarray) -> None:
        """Let the requests agree with what the serving version has forgotten.

        After a roll-back, or where a store was put back from a backup, requests that are done are
        accepted again if the version that serves has not forgotten all of their examples. What it
        has forgotten without a request is written down as one that is done.

        Args:
            version: that serves, or None.
            forgotten: training ids, all that it and its ancestors have forgotten.
        """
        serving = None if version is None else arguments.number(version, "a version")
        with self._database.writing() as connection:
            runs.reconcile(connection, serving, sorted_unique(forgotten))

    def start(self, *, parent: int | None = None, most: int | None = None) -> Work | None:
        """Begin with the oldest requests that wait; they are pending from now on.

        Where a worker died, or ended without a word, its run comes first and once more: with the
        same number, parent, requests and ids, whatever `parent` and `most` say, so that its result
        is recognized if it is there already.

        Args:
            parent: version that serves now.
            most: how many requests to take at once; None takes all that wait.

        Returns:
            The work, or None if nothing waits.
        """
        most = None if most is None else arguments.number(most, "most, how many to take at once")
        parent = None if parent is None else arguments.number(parent, "a version")
        with self._database.writing() as connection:
            return runs.begin(connection, parent, most)

    def finish(
        self, work: Work, *, version: int, reason: str = "", certificate: bytes | None = None
    ) -> None:
        """The requests are done: `version` serves, and has forgotten what they ask for.

        Requests that wait, and of which nothing is left to forget, are done as well.

        Args:
            version: of the store. reason: what there is to say.
            certificate: signed, see `certificates.issue`; kept in the same transaction.

        Raises:
            Overtaken: another worker has this run.
            ValueError: the certificate does not follow the last one; nothing was written.
        """
        version = arguments.number(version, "a version")
        if reason:
            arguments.text(reason, "a reason")
        with self._database.writing() as connection:
            runs.end(connection, work, "done", reason, version)
            if certificate is not None:
                chain.append(connection, work.run, certificate)

    def put_back(self, work: Work, reason: str) -> None:
        """The requests wait again: the result was not good enough, for a reason.

        Raises:
            Overtaken: another worker has this run.
        """
        arguments.text(reason, "a reason")
        with self._database.writing() as connection:
            runs.end(connection, work, "accepted", reason)

    def refuse(self, work: Work, reason: str) -> None:
        """The requests are refused, for a reason; their examples may be retained again.

        Raises:
            Overtaken: another worker has this run.
        """
        arguments.text(reason, "a reason")
        with self._database.writing() as connection:
            runs.end(connection, work, "refused", reason)
