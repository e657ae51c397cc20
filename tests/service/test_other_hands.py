"""What others do to the store while the loop works: they swap, and they go back."""

from __future__ import annotations

import pytest
from opened_service import ANEW, dies, forget, service
from serving_loop import LIKE, TABLE

from mu_jax.service import Recipe, Signer, Worker, certificates, keys


def die_after_a_swap(opened, monkeypatch, **further) -> int:
    """The version that a worker let serve before it died."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Worker, "finish", dies)
        service(opened, **further).drain()
    return opened.store.serving()


def roll_back(store, version):
    store.roll_back(expected=version)


def serve_another(store, version):
    store.swap(1, expected=version)


@pytest.mark.parametrize("go_back", [roll_back, serve_another])
def test_what_an_operator_went_back_from_after_a_death_is_not_served_by_the_next_worker(
    opened, monkeypatch, go_back
):
    version = die_after_a_swap(opened, monkeypatch)
    go_back(opened.store, version)
    assert opened.ledger.request(1).state == "pending"
    before = []

    def noting(job):
        before.append((opened.store.serving(), opened.ledger.counts()["done"]))
        return forget(job)

    assert service(opened, noting).drain().done == 4
    assert before == [(1, 0), (3, 1), (4, 2), (5, 3)]  # nothing was done by what was rolled back
    assert [one.version for one in opened.ledger.requests("done")] == [3, 4, 5, 6]
    assert [one.version for one in opened.store.lineage(6)] == [6, 5, 4, 3, 1]
    reason = f"version {version} was rolled back"
    assert [event.reason for event in opened.ledger.events(1)].count(reason) == 1
    assert f"Request 1: {reason} and stays so" in opened.said
    assert opened.store.withdrawn() == [version]


def test_what_was_rolled_back_counts_as_a_try(opened, monkeypatch):
    roll_back(opened.store, die_after_a_swap(opened, monkeypatch))
    ended = service(opened, attempts=1).drain()
    assert ended.kind == "retrain" and ended.reason.endswith(
        "was put back 1 of 1 times, the last for version 2 was rolled back; retrain the model"
    )
    assert opened.store.serving() == 1 and opened.ledger.counts()["accepted"] == 4
    assert service(opened, attempts=1, retraining=ANEW).drain().done == 4
    assert [one.method for one in opened.store.lineage(opened.store.serving())] == ["anew"]


def test_a_retrained_model_that_was_rolled_back_is_trained_once_more(opened, monkeypatch):
    further = {"attempts": 1, "retraining": ANEW}
    roll_back(opened.store, die_after_a_swap(opened, monkeypatch, attempts=1))
    version = die_after_a_swap(opened, monkeypatch, **further)
    assert opened.store.lineage(version)[0].method == "anew"
    roll_back(opened.store, version)
    assert service(opened, **further).drain().done == 4
    serving = opened.store.serving()
    assert serving > version and opened.store.lineage(serving)[0].method == "anew"
    assert opened.store.withdrawn() == [2, version]


def test_a_version_that_a_person_serves_again_is_taken(opened, monkeypatch):
    version = die_after_a_swap(opened, monkeypatch)
    roll_back(opened.store, version)
    opened.store.swap(version)
    assert service(opened).drain().done == 4
    assert [one.version for one in opened.ledger.requests("done")] == [2, 3, 4, 5]


def test_a_version_of_somebody_else_that_began_to_serve_is_the_parent_of_the_next(opened):
    def slow(job):
        if len(opened.store.history()) == 1:
            other = opened.store.publish(LIKE, method="other", parent=1, ids=TABLE)
            opened.store.swap(other)
        return forget(job)

    assert service(opened, slow).drain().done == 4
    lineage = opened.store.lineage(opened.store.serving())
    assert [one.method for one in lineage] == ["mine"] * 4 + ["other", "train"]


def test_what_somebody_else_has_forgotten_in_part_is_not_done_yet(opened):
    other = opened.store.publish(LIKE, method="other", parent=1, forgotten=[0], ids=TABLE)
    opened.store.swap(other)

    def report(sentence):
        opened.said.append(sentence)
        assert len(opened.said) < 20, "it is done and put back for ever"

    assert service(opened, report=report).drain().done == 4
    assert [one.version for one in opened.ledger.requests("done")] == [3, 4, 5, 6]
    assert opened.store.restore(like=LIKE)["w"].tolist() == [0] * 8 + [1] * 4


def test_no_certificate_says_that_a_version_serves_that_was_overtaken(opened):
    keys.make_key(opened.folder / "key")
    signer = Signer(keys.read_key(opened.folder / "key"), "ACME", opened.folder / "certificates")

    def slow(job):
        if job.work.run == 1:
            opened.store.swap(opened.store.publish(LIKE, method="other", parent=1, ids=TABLE))
        return forget(job)

    assert service(opened, slow, signer=signer).drain().done == 4
    chain = certificates.verify(opened.ledger.certificates())
    assert [one.record["done"]["version"] for one in chain] == [4, 5, 6, 7]
    assert len(list((opened.folder / "certificates").iterdir())) == 4


def test_being_overtaken_is_no_try_of_the_method(opened):
    def slow(job):
        if job.work.run <= 3:
            opened.store.swap(opened.store.publish(LIKE, method="other", parent=1, ids=TABLE))
        return forget(job)

    assert service(opened, slow, attempts=1, retraining=ANEW).drain().done == 4
    lineage = opened.store.lineage(opened.store.serving())
    assert [one.method for one in lineage] == ["mine"] * 4 + ["other", "train"]


@pytest.mark.parametrize("spent", [False, True])
def test_a_loop_that_others_are_always_faster_than_ends_with_a_sentence(opened, spent):
    made = []

    def slow(job):
        made.append(job.work.run)
        assert len(made) < 20, "it tries for ever"
        opened.store.swap(opened.store.publish(LIKE, method="other", parent=1, ids=TABLE))
        return forget(job)

    found = service(opened, slow, retraining=Recipe("anew", slow))
    if spent:
        with opened.ledger.worker() as worker:
            for _ in range(2):
                worker.put_back(worker.start(parent=1), "it was not good enough")
    ended = found.drain()
    assert (ended.kind, ended.done, len(made)) == ("overtaken", 0, 5)
    assert ended.reason == (
        f"Request{'s 1, 2, 3, 4' if spent else ' 1'}: others began to serve another version 5 "
        f"times in a row while one was made, at last version {opened.store.serving()}; let one "
        "process alone serve this store, and start again"
    )
    assert opened.ledger.counts()["accepted"] == 4
    assert found.drain().kind == "overtaken" and len(made) == 10  # and begins to count anew
    assert service(opened, retraining=ANEW).drain().done == 4
