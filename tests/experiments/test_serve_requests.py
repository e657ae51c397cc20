"""`experiments.serve_requests` in process: what it serves, and one sentence for what is wrong."""

from __future__ import annotations

import json
import sqlite3

import jax
import numpy as np
import pytest
from in_process import call

from experiments.lib import serving_requests, tasks
from experiments.lib.running import read_config
from mu_jax.service import Ledger, certificates, keys, migrations
from mu_jax.service.tables import SCHEMA
from mu_jax.store import Store

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")


def serve(workdir, *arguments):
    return call("serve_requests", f"--workdir={workdir}", *arguments)


def refused(workdir, *arguments) -> str:
    ended = serve(workdir, *arguments)
    assert ended.returncode == 2, ended
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    return line


def ledger_of(workdir) -> Ledger:
    return Ledger(workdir / "ledger.db", create=False)


def test_requests_are_served_one_by_one_certified_and_retrained_when_the_budget_is_spent(workdir):
    public = keys.make_key(workdir / "operator.pem")
    signed = [f"--key={workdir}/operator.pem", "--operator=ACME"]
    ended = serve(
        workdir,
        *("--accept=class:3", "--accept=ids:1,5", "--accept=random:0.05"),
        *("--batch=1", "--gate=retain_accuracy=0.8", "--budget=steps=1", "--retrain", *signed),
    )
    assert ended.returncode == 0, ended
    store = Store(workdir / "store")
    assert [one.method for one in store.history()] == ["train", "ssd", "retrain"]
    assert [one.method for one in store.lineage(3)] == ["retrain"] and store.serving() == 3
    with ledger_of(workdir) as ledger:
        assert [one.version for one in ledger.requests("done")] == [2, 3, 3]
        assert ledger.forgotten().tolist() == store.forgotten().tolist()
        first, second = certificates.verify(ledger.certificates(), key=public)
    assert first.record["thresholds"] == {"retain accuracy": "at least 0.8"}
    assert first.record["done"]["guarantee"] == {"kind": "approximate"}
    assert second.record["done"]["guarantee"]["kind"] == "exact"
    files = sorted((workdir / "certificates").iterdir())
    assert [certificates.read(path)[0] for path in files] == [
        *(line.rstrip(b"\n") for line in ledger_of(workdir).certificates())
    ]
    again = serve(workdir, *signed)
    assert again.returncode == 0 and "Done 0 requests; version 3 serves" in again.stdout


def test_what_does_not_pass_keeps_the_old_version_and_ends_with_a_sentence(workdir):
    strict = ["--accept=class:3", "--gate=retain_accuracy=1.0", "--attempts=1"]
    ended = serve(workdir, *strict)
    assert ended.returncode == 3 and "put back 1 of 1 times, the last for retain" in ended.stderr
    assert "at least 1 is asked; version 1 keeps serving" in ended.stdout
    store = Store(workdir / "store")
    assert store.serving() == 1 and "retain accuracy" in store.history()[1].withheld
    assert serve(workdir, *strict[1:]).returncode == 3 and len(store.history()) == 2
    ended = serve(workdir, "--gate=retain_accuracy=1.0", "--attempts=1", "--retrain")
    assert ended.returncode == 3 and "even the retrained model does not pass" in ended.stderr
    assert serve(workdir, "--attempts=9").returncode == 0  # a gate that asks for less
    assert store.forgotten().tolist() and store.serving() == 4


def test_what_forgot_nothing_does_not_serve(workdir):
    ended = serve(workdir, "--accept=class:3", "--method=iau", "--attempts=1")
    assert ended.returncode == 3 and "it has forgotten nothing" in ended.stdout
    assert Store(workdir / "store").serving() == 1


def test_oracles_are_those_that_forgot_the_same(workdir):
    task = tasks.make_task(read_config(workdir))
    ids, others = (tasks.read_ids(task, words) for words in ("class:3", "class:4"))
    oracles = Store(workdir / "oracles")
    for forgotten in (ids, others):
        model = tasks.train(task, jax.random.key(1), tasks.split(task, forgotten)[1])
        oracles.publish(model, method="retrain", forgotten=forgotten)
    given = ["--accept=class:3", f"--oracles={workdir}/oracles", "--gate=oracle_gap=0.2"]
    ended = serve(workdir, *given)
    measured = Store(workdir / "store").history()[1].metrics
    assert measured["oracles"] == 1 and 0 < measured["oracle gap"] < 1
    assert ended.returncode == (0 if measured["oracle gap"] <= 0.2 else 3)


def test_requests_come_from_a_file_all_of_them_or_none(workdir, tmp_path):
    path = tmp_path / "asked.jsonl"
    path.write_text('class:3\n\n{"request": "ids:1,5", "key": "ticket 71"}\n')
    given = [f"--requests={path}", "--only_accept"]
    ended = serve(workdir, *given)
    assert ended.returncode == 0 and ended.stdout.splitlines()[1] == "Request 2: ids:1,5, accepted"
    assert serve(workdir, *given).stdout == ended.stdout  # recognized
    with ledger_of(workdir) as ledger:
        assert [one.key for one in ledger.requests("accepted")] == [None, "ticket 71"]
    path.write_text("ids:5\nclass:77\n")
    assert "77" in refused(workdir, *given)
    with ledger_of(workdir) as ledger:
        assert len(ledger.requests()) == 2


@pytest.mark.parametrize("line", ['{"request": 3}', "{", '{"request": "ids:1", "kee": "x"}'])
def test_a_line_that_is_no_request_is_refused(workdir, tmp_path, line):
    path = tmp_path / "asked.jsonl"
    path.write_text(f"ids:1\n{line}\n")
    found = refused(workdir, f"--requests={path}")
    assert f"in line 2 of {path}, found" in found
    assert not (workdir / "ledger.db").exists()


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--accept=ids:1,99999"], "99999"),
        (["--accept=user:nobody"], "user:nobody"),
        (["--gate=speed=3"], "expected --gate name=number"),
        (["--gate=retain_accuracy=0.9", "--gate=retain_accuracy=0.8"], "once, found"),
        (["--gate=membership=0.4"], "expected a number from 0.5 to 1 for membership"),
        (["--budget=steps=many"], "expected a number in --budget=steps=many"),
        (["--budget=steps=1.5"], "for steps of a budget, found 1.5"),
        (["--key=operator.pem"], "expected --key and --operator"),
        (["--key=nowhere.pem", "--operator=ACME"], "nowhere.pem"),
        (["--requests=nowhere.jsonl"], "nowhere.jsonl"),
        (["--refuse=1"], "expected --refuse and --reason, found one alone"),
        (["--reason=kept by law"], "expected --refuse and --reason, found one alone"),
        (["--refuse=1", "--reason=why"], "expected a ledger"),
        (["--refuse=1", "--reason=why", "--retrain"], "expected --refuse without --retrain"),
    ],
)
def test_a_wrong_command_line_writes_nothing(workdir, arguments, said):
    assert said in refused(workdir, *arguments)
    assert not (workdir / "ledger.db").exists()


def test_requests_are_refused_by_their_numbers_all_of_them_or_none(workdir):
    data = tasks.make_task(read_config(workdir)).train
    a, b, c, d = sorted(data.index.tolist())[:4]
    asked = [f"--accept=ids:{number}" for number in (a, b, c, d)]
    assert serve(workdir, *asked, "--only_accept").returncode == 0
    ended = serve(workdir, "--refuse=3", "--refuse=1", "--reason=kept by law")
    assert ended.returncode == 0 and ended.stdout.splitlines() == [
        f"Request 3: ids:{c}, refused, kept by law",
        f"Request 1: ids:{a}, refused, kept by law",
    ]
    with ledger_of(workdir) as ledger:
        assert ledger.events(3)[-1][3:] == ("refused", "kept by law")
        with ledger.worker() as worker:
            forget, retain = worker.start(parent=1, most=1).split(data)
        assert forget.index.tolist() == [b]
        assert np.intersect1d(retain.index, [a, b, c, d]).tolist() == [a, c]  # retained again
        for number, said in ((3, "is refused"), (2, "is pending"), (9, "which nobody has")):
            words = ["--refuse=4", f"--refuse={number}", "--reason=why"]
            assert said in refused(workdir, *words) and ledger.request(4).state == "accepted"
    assert serve(workdir, "--method=retrain").returncode == 0
    assert "found that 2 is done" in refused(workdir, "--refuse=2", "--reason=why")
    assert Store(workdir / "store").forgotten().tolist() == [b, d]


def test_examples_that_are_gone_from_the_data_are_a_sentence_and_their_request_waits(workdir):
    last = max(tasks.make_task(read_config(workdir)).train.index.tolist())
    asked = [f"--accept=ids:1,{last}", "--accept=ids:2"]
    assert serve(workdir, *asked, "--only_accept").returncode == 0
    config = json.loads((workdir / "config.json").read_text())
    kept = (workdir / "config.json").read_text()
    config["limit"] = 500
    (workdir / "config.json").write_text(json.dumps(config))
    said = "expected the examples of requests 1, 2 among the training data, found 1 that are not"
    for _ in range(2):
        assert f"{said} there ({last}); prepare the data as they were" in refused(workdir)
    with ledger_of(workdir) as ledger:
        assert ledger.counts() == {"accepted": 2, "pending": 0, "done": 0, "refused": 0}
    (workdir / "config.json").write_text(kept)
    assert serve(workdir, "--method=retrain").returncode == 0
    assert Store(workdir / "store").forgotten().tolist() == [1, 2, last]


def accepted(workdir) -> None:
    assert serve(workdir, "--accept=class:3", "--only_accept").returncode == 0


def nothing_lost(workdir) -> None:
    """The request is still there, and is served once the damage is mended."""
    with ledger_of(workdir) as ledger:
        (request,) = ledger.requests()
        assert request.state in ("accepted", "pending")
    ended = serve(workdir)
    assert ended.returncode == 0, ended
    assert Store(workdir / "store").serving() == 2


def test_a_version_whose_file_was_torn_or_whose_array_was_corrupted_is_no_parent(workdir):
    accepted(workdir)
    files = (workdir / "store" / "versions" / "00000001").rglob("*")
    largest = max((path for path in files if path.is_file()), key=lambda path: path.stat().st_size)
    whole = largest.read_bytes()
    for damaged in (whole[: len(whole) // 2], bytes([whole[0] ^ 1]) + whole[1:]):
        largest.write_bytes(damaged)
        assert "expected" in refused(workdir) and Store(workdir / "store").serving() == 1
    largest.write_bytes(whole)
    nothing_lost(workdir)


def test_a_checkpoint_of_another_model_is_no_parent(workdir):
    accepted(workdir)
    config = json.loads((workdir / "config.json").read_text())
    config["model"]["features"] = [16]
    kept = (workdir / "config.json").read_text()
    (workdir / "config.json").write_text(json.dumps(config))
    assert "expected" in refused(workdir)
    (workdir / "config.json").write_text(kept)
    nothing_lost(workdir)


def test_of_two_writers_one_is_refused(workdir):
    accepted(workdir)
    with ledger_of(workdir) as ledger, ledger.worker():
        assert "work" in refused(workdir)
    nothing_lost(workdir)


def test_a_ledger_of_a_newer_schema_or_a_torn_one_is_refused(workdir):
    accepted(workdir)
    path = workdir / "ledger.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (table, column), before = (SCHEMA.name, SCHEMA.c.version.name), migrations.LATEST
    connection.execute(f"UPDATE {table} SET {column} = 999")
    connection.commit()
    assert "999" in refused(workdir)
    connection.execute(f"UPDATE {table} SET {column} = ?", (before,))
    connection.commit()
    connection.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    assert "expected" in refused(workdir)
    path.write_bytes(whole)
    nothing_lost(workdir)


def test_polling_looks_again(workdir, monkeypatch):
    asleep = []

    def sleep(seconds):
        asleep.append(seconds)
        if len(asleep) == 2:
            raise KeyboardInterrupt
        task = tasks.make_task(read_config(workdir))
        with ledger_of(workdir) as ledger:
            named = serving_requests.named(task, [serving_requests.Asked("ids:1,5")])
            serving_requests.accept(ledger, task, named)

    monkeypatch.setattr("experiments.serve_requests.time.sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        serve(workdir, "--poll=7", "--method=retrain")
    assert asleep == [7, 7] and np.array_equal(Store(workdir / "store").forgotten(), [1, 5])
