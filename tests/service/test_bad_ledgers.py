"""Databases that are none, or of another age; places that are full or locked: one sentence each."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import insert, select, update

from mu_jax.service import Ledger, migrations, tables
from mu_jax.service.database import Database
from mu_jax.store.digests import Damaged


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.db"


def sentence(error):
    text = str(error.value)
    assert text.startswith("expected ") and "found" in text and "\n" not in text, text
    return text


def test_a_file_that_is_no_database_stays_as_it_is(path):
    path.write_bytes(b"id\n1\n2\n")
    with pytest.raises(ValueError, match="found a file that is no database") as error:
        Ledger(path)
    sentence(error)
    assert path.read_bytes() == b"id\n1\n2\n" and os.listdir(path.parent) == [path.name]


def test_a_database_of_something_else_stays_as_it_is(where):
    if where.startswith("postgresql"):
        engine = sqlalchemy.create_engine(where)
    else:
        engine = sqlalchemy.create_engine(f"sqlite:///{where}")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE trials (number INTEGER)")
    with pytest.raises(ValueError, match="found the tables of something else") as error:
        Ledger(where)
    sentence(error)
    assert sqlalchemy.inspect(engine).get_table_names() == ["trials"]
    engine.dispose()


def test_a_ledger_that_is_not_there_is_made_or_refused(path):
    with pytest.raises(FileNotFoundError, match="found no such file") as error:
        Ledger(path, create=False)
    sentence(error)
    assert not path.exists()
    path.touch()
    with pytest.raises(FileNotFoundError, match="found an empty database"):
        Ledger(path, create=False)
    Ledger(path)
    assert Ledger(path, create=False).requests() == ()


def open_version(where, version):
    """A database as an earlier version of the library left it, with a request in it."""
    database = Database(where, create=True, wait=2.0)
    with database.writing() as connection:
        names = sqlalchemy.inspect(connection).get_table_names()
        made = sqlalchemy.MetaData()
        made.reflect(connection, only=names)
        made.drop_all(connection)
        migrations.migrate(connection, to=version)
        row = {"number": 1, "asked": "user:ada", "ids_digest": "ab", "examples": 1, "reason": ""}
        row |= {"state": "accepted", "accepted": "2026-01-01", "since": "2026-01-01", "opened": 1}
        connection.execute(insert(tables.REQUESTS).values(**row))
        connection.execute(insert(tables.ASKED).values(request=1, number=7))
        connection.execute(
            insert(tables.EVENTS).values(event=1, at="2026", request=1, state="accepted", reason="")
        )
    database.close()


@pytest.mark.parametrize("version", range(1, migrations.LATEST))
def test_a_ledger_of_an_earlier_version_is_brought_up_to_date(where, version):
    open_version(where, version)
    with Ledger(where) as ledger:
        assert ledger.request(1).asked == "user:ada" and ledger.ids(1).tolist() == [7]
        assert ledger.certificates() == ()
        with ledger.worker() as worker:
            worker.finish(worker.start(), version=2)
    with Ledger(where) as ledger, ledger._database.reading() as connection:
        assert connection.scalar(select(tables.SCHEMA.c.version)) == migrations.LATEST


def test_a_migration_that_fails_changes_nothing(path, monkeypatch):
    open_version(path, 1)
    first, second = migrations.MIGRATIONS

    def fails(connection):
        second(connection)
        raise RuntimeError("pulled the plug")

    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", (first, fails))
        with pytest.raises(RuntimeError):
            Ledger(path)
    with sqlite3.connect(path) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        assert connection.execute("SELECT version FROM mu_jax_ledger").fetchall() == [(1,)]
    connection.close()
    assert "certificates" not in names
    assert Ledger(path).certificates() == ()


def test_the_tables_are_those_that_queries_see(where):
    with Ledger(where) as ledger, ledger._database.reading() as connection:
        inspector = sqlalchemy.inspect(connection)
        found = {
            name: {column["name"] for column in inspector.get_columns(name)}
            for name in inspector.get_table_names()
        }
        settings = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
            if ledger._database.file is not None
        ]
    assert found == {table.name: set(table.c.keys()) for table in tables.TABLES}
    assert settings in (["wal", 2, 1], [])


def test_a_ledger_of_a_newer_version_is_refused_and_kept(where):
    with Ledger(where) as ledger, ledger._database.writing() as connection:
        connection.execute(update(tables.SCHEMA).values(version=migrations.LATEST + 1))
    with pytest.raises(ValueError, match=f"found version {migrations.LATEST + 1}; update") as error:
        Ledger(where)
    assert "secret" not in sentence(error)


@pytest.mark.parametrize("where_", ["cut", "middle"])
def test_a_file_that_was_damaged_is_told(path, table, where_):
    with Ledger(path) as ledger:
        ledger.enroll(table)
        for user in ("ada", "bob", "cyd"):
            ledger.accept(f"user:{user}")
    data = path.read_bytes()
    if where_ == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        page = 4096
        path.write_bytes(data[: 2 * page] + b"\x5a" * (len(data) - 3 * page) + data[-page:])
    with pytest.raises(Damaged, match="as it was written, found it damaged") as error:
        Ledger(path)
    assert "backup" in sentence(error)


def test_a_full_disk_is_a_sentence_and_loses_nothing(path, table):
    with Ledger(path) as ledger:
        ledger.enroll(table)
        ledger.accept("user:ada")
        engine = ledger._database.engine

        @sqlalchemy.event.listens_for(engine, "connect")
        def full(connection, _):
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages}")

        with pytest.raises(OSError, match="found the disk full; free some") as error:
            for number in range(1000):
                ledger.accept("user:bob", key=None, asked=f"{number}" * 1000)
                ledger.refuse(ledger.requests()[-1].number, "x" * 1000)
        sentence(error)
        sqlalchemy.event.remove(engine, "connect", full)
        before = ledger.requests()
        assert before[0].asked == "user:ada" and before[-1].state in ("accepted", "refused")
        assert ledger.accept("user:cyd").number == len(before) + 1
    Ledger(path)


@pytest.mark.slow
def test_a_disk_that_is_full_in_truth(tmp_path, table):
    """A small file system of its own, which only root may mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        told = []
        with Ledger(disk / "ledger.db") as ledger:
            ledger.enroll(table)
            with pytest.raises(OSError, match=r"found the disk full|found a disk I/O") as error:
                for number in range(1000):
                    told.append(ledger.accept("user:bob", asked="x" * 1000, key=f"{number}"))
                    ledger.refuse(told[-1].number, "x" * 1000)
            sentence(error)
        with Ledger(disk / "ledger.db", create=False) as ledger:
            kept = {each.number for each in ledger.requests()}
        assert {each.number for each in told} <= kept and len(kept) <= len(told) + 1
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_that_is_no_place_is_a_sentence():
    with pytest.raises(OSError) as error:
        Ledger("/proc/nosuch/ledger.db")
    assert isinstance(error.value, FileNotFoundError | PermissionError)
    with pytest.raises(ValueError, match=r"a bucket has no locks|packages that serve"):
        Ledger("gs://bucket/ledger.db")
    with pytest.raises(ValueError, match="expected a local path or gs://"):
        Ledger("mysql://host/name")


@pytest.mark.parametrize("wait", [-1, float("nan"), float("inf")])
def test_a_wait_that_never_ends_is_refused(path, wait):
    with pytest.raises(ValueError, match="expected wait of 0 to 86400 seconds"):
        Ledger(path, wait=wait)
    assert not path.exists()


@contextlib.contextmanager
def nobody():
    """Be a user who has no permissions: root has all of them."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_read_only_folder_is_a_sentence(table):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Ledger(folder / "ledger.db") as ledger:
            ledger.enroll(table)
        os.chmod(folder / "ledger.db", 0o444)
        os.chmod(folder, 0o555)
        for path in (folder / "ledger.db", folder / "new.db"):
            with nobody(), pytest.raises(PermissionError, match="to be allowed to write") as error:
                Ledger(path).accept("user:ada")
            sentence(error)
        os.chmod(folder, 0o755)
        os.chmod(folder / "ledger.db", 0o644)
        assert os.listdir(folder) == ["ledger.db"] and Ledger(folder / "ledger.db").requests() == ()


def test_a_server_that_cannot_be_reached_is_a_sentence_without_the_password():
    pytest.importorskip("psycopg", reason="needs pip install 'mu_jax[postgresql]'")
    with pytest.raises(ConnectionError, match="expected to reach the database") as error:
        Ledger("postgresql://mu:secret@127.0.0.1:1/ledger?connect_timeout=2")
    assert "secret" not in sentence(error)
    with pytest.raises(ValueError, match="expected postgresql://USER@HOST/NAME"):
        Ledger("postgresql://mu@host:port/x")
    with pytest.raises(ValueError, match="expected postgresql://USER@HOST/NAME"):
        Ledger("postgresql+nosuch://mu@host/x")


WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(sys.argv[1:]))
import mu_jax as mu
try:
    mu.service
except ModuleNotFoundError as error:
    print(error)
else:
    try:
        mu.service.Ledger("postgresql://mu@127.0.0.1:1/x")
    except ModuleNotFoundError as error:
        print(error)
"""


@pytest.mark.parametrize(
    "package, extra",
    [("sqlalchemy", "service"), ("cryptography", "service"), ("psycopg", "postgresql")],
)
@pytest.mark.slow
def test_a_package_that_is_missing_is_named(package, extra):
    command = [sys.executable, "-c", WITHOUT, package]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert f"the package '{package}" in done.stdout or f"({package})" in done.stdout, done.stderr
    assert f"pip install 'mu_jax[{extra}]'" in done.stdout
