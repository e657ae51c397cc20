"""The certificates in the database: a chain that grows at its end alone."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select

from mu_jax.service import envelopes
from mu_jax.service.tables import CERTIFICATES


def append(connection: Connection, run: int, certificate: bytes) -> None:
    """Add the certificate of a run at the end.

    Raises:
        ValueError: it does not follow the last one.
    """
    envelopes.require_next(read_last(connection), certificate)
    number = envelopes.opened(certificate).number
    row = {"number": number, "run": run, "digest": envelopes.digest(certificate)}
    connection.execute(insert(CERTIFICATES).values(**row, text=certificate.decode()))


def read_all(connection: Connection) -> tuple[bytes, ...]:
    """All certificates, in their order."""
    query = select(CERTIFICATES.c.text).order_by(CERTIFICATES.c.number)
    return tuple(text.encode() for text in connection.scalars(query))


def read_last(connection: Connection) -> bytes | None:
    """The newest certificate."""
    query = select(CERTIFICATES.c.text).order_by(CERTIFICATES.c.number.desc()).limit(1)
    text = connection.scalar(query)
    return None if text is None else text.encode()
