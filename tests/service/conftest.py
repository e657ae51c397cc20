"""Ledgers in SQLite, and in the slow tests in a PostgreSQL that the tests start."""

from __future__ import annotations

import itertools

import postgresql
import pytest
from crashing import afresh

import mu_jax as mu
from mu_jax.service import Ledger

_NAMES = map("test_{}".format, itertools.count())


@pytest.fixture(scope="session")
def server():
    with postgresql.server() as address:
        yield address


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def where(request, tmp_path):
    """The address of a ledger that is not there yet."""
    if request.param == "sqlite":
        return str(tmp_path / "ledger.db")
    return afresh(request.getfixturevalue("server"), next(_NAMES))


@pytest.fixture
def table():
    rows = range(8)
    users = ["ada", "ada", "bob", "cyd", "cyd", "cyd", "dan", "eve"]
    return mu.id_table([f"img_{n}" for n in rows], index=rows, user=users)


@pytest.fixture
def ledger(where, table):
    with Ledger(where, wait=2.0) as opened:
        opened.enroll(table)
        yield opened
