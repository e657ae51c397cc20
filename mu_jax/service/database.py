"""The database of a ledger: SQLite in one file or PostgreSQL, transactions, and sentences.

A writer sees the newest state and no other writes beside it: in SQLite it begins with the lock of
the file, in PostgreSQL it holds a lock of the ledger up to its commit. A second writer waits, and
is refused in a sentence after `wait` seconds. What was committed is on stable storage.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import NullPool

from mu_jax import _files as files
from mu_jax.service import migrations
from mu_jax.store.digests import Damaged

WRITERS, WORKER = 0x6D756A61, 0x6D756A62  # the numbers of two advisory locks in PostgreSQL
_HEADER = b"SQLite format 3\0"
_DAY = 86_400


class Database:
    """Where a ledger lies, and its transactions.

    Attributes:
        file: of SQLite, or None.
        name: for sentences, without a password.
    """

    def __init__(self, where: str | os.PathLike[str], *, create: bool, wait: float) -> None:
        self.file, self.wait = None, wait
        if not 0 <= wait <= _DAY:
            raise ValueError(f"expected wait of 0 to {_DAY} seconds, found {wait!r}; correct it")
        where = os.fspath(where)
        if where.startswith(("postgresql:", "postgresql+", "postgres:")):
            url = _postgresql(where)
            self.name = url.render_as_string(hide_password=True)
            self.engine = self._server(url)
        else:
            self.file = _local(where)
            self.name = str(self.file)
            self._prepare_file(create)
            self.engine = self._in_file(self.file)
        try:
            self._open(create)
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database; it waits for nobody."""
        with self._transaction(writes=False) as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that alone writes; committed if the block ends without an error."""
        with self._transaction(writes=True) as connection:
            if self.file is None:
                connection.execute(text(f"SET LOCAL lock_timeout = {int(self.wait * 1000) or 1}"))
                connection.execute(text(f"SELECT pg_advisory_xact_lock({WRITERS})"))
            yield connection

    @contextlib.contextmanager
    def worker(self, wait: bool) -> Iterator[None]:
        """The lock of the one process that works; it ends with its holder.

        A server sees a moment later that a holder was killed, and within its keep-alive that a
        machine is gone.
        """
        if self.file is not None:
            with files.exclusive(self.file.with_name(f"{self.file.name}-worker"), wait=wait):
                yield
            return
        with said(self.name), self.engine.connect() as connection:
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            if wait:
                connection.execute(text(f"SELECT pg_advisory_lock({WORKER})"))
            elif not connection.scalar(text(f"SELECT pg_try_advisory_lock({WORKER})")):
                raise BlockingIOError(
                    f"expected {self.name} to be free, found that another process works there; "
                    "wait until it has ended"
                )
            try:
                yield
            finally:
                # The lock would be free when the server sees that the connection is closed.
                with contextlib.suppress(DBAPIError):
                    connection.execute(text(f"SELECT pg_advisory_unlock({WORKER})"))
                connection.invalidate()

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @contextlib.contextmanager
    def _transaction(self, *, writes: bool) -> Iterator[Connection]:
        with said(self.name), self.engine.connect() as connection:
            options: dict[str, Any] = {"mu_jax_writes": writes}
            if self.file is None and not writes:
                options["isolation_level"] = "REPEATABLE READ"
            connection = connection.execution_options(**options)
            with connection.begin():
                yield connection

    def _open(self, create: bool) -> None:
        """Refuse a database of another kind, and bring an older one up to date."""
        with self.reading() as connection:
            found = migrations.version_of(connection)
        if found < 0:
            raise ValueError(
                f"expected a ledger of requests in {self.name}, found the tables of something "
                "else; name another database"
            )
        if found > migrations.LATEST:
            raise ValueError(
                f"expected a ledger of version {migrations.LATEST} of the schema or before in "
                f"{self.name}, found version {found}; update mu_jax, or give an older backup"
            )
        if found == 0 and not create:
            raise FileNotFoundError(
                f"expected a ledger of requests in {self.name}, found an empty database; check "
                "the name"
            )
        if found < migrations.LATEST:
            with self.writing() as connection:
                migrations.migrate(connection)
        elif self.file is not None:
            with self.reading() as connection:
                if (words := connection.scalar(text("PRAGMA quick_check(1)"))) != "ok":
                    raise Damaged(_damaged(self.name, words))

    def _prepare_file(self, create: bool) -> None:
        """Refuse a file that is no database before SQLite touches it; make the folder."""
        assert self.file is not None
        try:
            with open(self.file, "rb") as file:
                found = file.read(len(_HEADER))
        except FileNotFoundError:
            if not create:
                raise FileNotFoundError(
                    f"expected a ledger of requests at {self.file}, found no such file; check the "
                    "path"
                ) from None
            files.make_directory(self.file.parent)
            return
        if found and found != _HEADER:
            raise ValueError(
                f"expected a ledger of requests in {self.file}, found a file that is no database; "
                "name another file"
            )

    def _in_file(self, path: Path) -> Engine:
        url = URL.create("sqlite+pysqlite", database=str(path))
        # A connection a transaction: nothing stays open in a process that forks or is idle.
        engine = sqlalchemy.create_engine(
            url, poolclass=NullPool, connect_args={"timeout": self.wait}
        )

        @event.listens_for(engine, "connect")
        def connected(connection: Any, _: Any) -> None:
            connection.isolation_level = None  # SQLAlchemy says when transactions begin
            connection.execute("PRAGMA foreign_keys = ON")
            _to_wal(connection, self.wait)
            connection.execute("PRAGMA synchronous = FULL")  # a power loss takes no commit away

        @event.listens_for(engine, "begin")
        def begun(connection: Connection) -> None:
            writes = connection.get_execution_options().get("mu_jax_writes")
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

        return engine

    def _server(self, url: URL) -> Engine:
        try:
            return sqlalchemy.create_engine(url, pool_pre_ping=True)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"expected a driver of PostgreSQL, found none installed ({error.name}): run "
                "pip install 'mu_jax[postgresql]'",
                name=error.name,
            ) from None
        except NoSuchModuleError as error:
            raise ValueError(
                f"expected postgresql://USER@HOST/NAME, found {self.name} ({error}); correct it"
            ) from None


@contextlib.contextmanager
def said(name: str) -> Iterator[None]:
    """Say in a sentence what a database refuses; what is a bug keeps its traceback."""
    try:
        yield
    except DBAPIError as error:
        known = _known(name, error)
        if known is None:
            raise
        raise known from error


def _known(name: str, error: DBAPIError) -> Exception | None:
    words = " ".join(str(error.orig).split())
    code = getattr(error.orig, "sqlite_errorname", None) or getattr(error.orig, "sqlstate", None)
    code = code or ("08000" if error.connection_invalidated or _is_operational(error) else "")
    if code.startswith(("SQLITE_FULL", "53100")):
        return OSError(
            f"expected room for {name}, found the disk full; free some, and call again: nothing "
            "was written"
        )
    if code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "25006", "42501")):
        return PermissionError(
            f"expected to be allowed to write {name}, found that {words}; give this user the "
            "permission, or name another place"
        )
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "55P03")):
        return BlockingIOError(
            f"expected {name} to be free, found that another process writes there for long; call "
            "again, nothing was written"
        )
    if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return Damaged(_damaged(name, words))
    if code.startswith("SQLITE_IOERR"):
        return OSError(f"expected to read and write {name}, found a {words}; check the disk")
    if code.startswith(("08", "28", "3D", "57P")):
        return ConnectionError(
            f"expected to reach the database {name}, found that {words}; see that the server runs "
            "and knows this user, and call again"
        )
    return None


def _is_operational(error: DBAPIError) -> bool:
    """Whether a server could not be reached, for which drivers have no code."""
    return type(error.orig).__name__ == "OperationalError"


def _damaged(name: str, words: Any) -> str:
    words = " ".join(str(words).split())
    return (
        f"expected the ledger {name} as it was written, found it damaged ({words}); put a backup "
        "in its place"
    )


def _to_wal(connection: Any, wait: float) -> None:
    """Readers beside a writer. SQLite does not wait by itself where two processes ask for it."""
    end = time.monotonic() + wait
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except Exception as error:
            busy = getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCK"))
            if not busy or time.monotonic() > end:
                raise
            time.sleep(0.01)


def _local(where: str) -> Path:
    path = files.absolute(where.removeprefix("sqlite:///"))
    if files.in_bucket(path):
        raise ValueError(
            f"expected a file of this machine or postgresql://USER@HOST/NAME for the ledger, found "
            f"{where!r}; a bucket has no locks"
        )
    return path


def _postgresql(where: str) -> URL:
    try:
        url = make_url(where.replace("postgres:", "postgresql:", 1))
    except (ArgumentError, ValueError):
        raise ValueError(
            "expected postgresql://USER@HOST/NAME for the ledger, found another form; correct it"
        ) from None
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url
