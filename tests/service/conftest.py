"""Ledgers in SQLite, and in the slow tests in a PostgreSQL that the tests start."""

from __future__ import annotations

import itertools
import types

import postgresql
import pytest
from crashing import afresh
from serving_loop import LIKE, TABLE

import mu_jax as mu
from mu_jax.service import Ledger
from mu_jax.store import Store

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


@pytest.fixture
def opened(tmp_path):
    """A ledger in which a, b, c and d ask, and a store with a version that serves."""
    store = Store(tmp_path / "store")
    store.swap(store.publish(LIKE, method="train", ids=TABLE, metrics={"train accuracy": 0.95}))
    with Ledger(tmp_path / "ledger.db", wait=2.0) as ledger:
        ledger.enroll(TABLE)
        for user in "abcd":
            ledger.accept(f"user:{user}")
        yield types.SimpleNamespace(ledger=ledger, store=store, folder=tmp_path, said=[])
