"""Versions of the schema of a ledger, each made from the one before by a numbered step.

A step is never changed once it was released: a new column or table is a new step at the end, and
`tables` says what queries see. All steps that a database lacks are one transaction.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    insert,
    inspect,
    select,
    update,
)

from mu_jax.service.tables import SCHEMA


def _first(connection: Connection) -> None:
    """Examples, their owners, requests, runs, events."""
    made = MetaData()
    Table("mu_jax_ledger", made, Column("version", Integer, nullable=False))
    Table(
        "examples",
        made,
        Column("number", BigInteger, primary_key=True, autoincrement=False),
        Column("id", Text, nullable=False, unique=True),
    )
    Table(
        "subjects",
        made,
        Column("subject", Integer, primary_key=True, autoincrement=False),
        Column("kind", Text, nullable=False),
        Column("name", Text, nullable=False),
        UniqueConstraint("kind", "name"),
    )
    Table(
        "owned",
        made,
        Column("subject", ForeignKey("subjects.subject"), primary_key=True),
        Column("number", ForeignKey("examples.number"), primary_key=True),
    )
    Table(
        "runs",
        made,
        Column("run", Integer, primary_key=True, autoincrement=False),
        Column("attempt", Integer, nullable=False),
        Column("parent", Integer),
        Column("horizon", Integer, nullable=False),
        Column("begun", Text, nullable=False),
        Column("ended", Text),
        Column("outcome", Text),
        Column("version", Integer),
    )
    _requests(made)
    made.create_all(connection)


def _requests(made: MetaData) -> None:
    Table(
        "requests",
        made,
        Column("number", Integer, primary_key=True, autoincrement=False),
        Column("key", Text, unique=True),
        Column("asked", Text, nullable=False),
        Column("ids_digest", Text, nullable=False, index=True),
        Column("examples", Integer, nullable=False),
        Column("state", Text, nullable=False, index=True),
        Column("reason", Text, nullable=False),
        Column("accepted", Text, nullable=False),
        Column("since", Text, nullable=False),
        Column("opened", Integer, nullable=False),
        Column("closed", Integer),
        Column("run", ForeignKey("runs.run")),
        Column("version", Integer),
        CheckConstraint("state IN ('accepted', 'pending', 'done', 'refused')"),
    )
    asked = Table(
        "asked",
        made,
        Column("request", ForeignKey("requests.number"), primary_key=True),
        Column("number", BigInteger, primary_key=True, autoincrement=False),
    )
    Index("asked_number", asked.c.number)
    Table(
        "events",
        made,
        Column("event", Integer, primary_key=True, autoincrement=False),
        Column("at", Text, nullable=False),
        Column("request", ForeignKey("requests.number"), nullable=False, index=True),
        Column("state", Text, nullable=False),
        Column("reason", Text, nullable=False),
    )


def _certificates(connection: Connection) -> None:
    """The chain of certificates."""
    made = MetaData()
    Table("runs", made, Column("run", Integer, primary_key=True))
    Table(
        "certificates",
        made,
        Column("number", Integer, primary_key=True, autoincrement=False),
        Column("run", ForeignKey("runs.run"), nullable=False, unique=True),
        Column("digest", Text, nullable=False, unique=True),
        Column("text", Text, nullable=False),
    ).create(connection)


MIGRATIONS: tuple[Callable[[Connection], None], ...] = (_first, _certificates)
LATEST = len(MIGRATIONS)


def version_of(connection: Connection) -> int:
    """The version of the schema of a database: 0 if nothing is there yet, -1 if it is no ledger."""
    names = inspect(connection).get_table_names()
    if SCHEMA.name not in names:
        return -1 if names else 0
    return connection.execute(select(SCHEMA.c.version)).scalar_one_or_none() or -1


def migrate(connection: Connection, *, to: int = LATEST) -> None:
    """Bring a database to a version of the schema, in the transaction of its caller."""
    if (found := version_of(connection)) < 0:
        raise ValueError("expected a ledger or an empty database, found the tables of another kind")
    for step in MIGRATIONS[found:to]:
        step(connection)
    if found == 0 and to > 0:
        connection.execute(insert(SCHEMA).values(version=to))
    elif found < to:
        connection.execute(update(SCHEMA).values(version=to))
