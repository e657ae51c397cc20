"""The loop that serves requests: what it serves, puts back, retrains and refuses, and its rules."""

from __future__ import annotations

import types

import jax
import numpy as np
import optax
import pytest
import serving_loop
from opened_service import ANEW, dies, forget, service
from serving_loop import LIKE, ROWS, TABLE

import mu_jax as mu
from mu_jax.exact import Spent
from mu_jax.service import (
    Budget,
    Gate,
    Guarantee,
    Ledger,
    Made,
    Recipe,
    Service,
    Signer,
    Worker,
    certificates,
    keys,
)
from mu_jax.store import Store


def test_each_request_is_done_and_serves(opened):
    ended = service(opened).drain()
    assert (ended.kind, ended.done) == ("drained", 4)
    assert opened.store.forgotten().tolist() == opened.ledger.forgotten().tolist() == [*range(8)]
    assert [one.version for one in opened.ledger.requests("done")] == [2, 3, 4, 5]
    assert opened.store.restore(like=LIKE)["w"].tolist() == [0] * 8 + [1] * 4
    assert opened.store.history()[1].metrics == {"retain accuracy": 0.9}


def test_what_does_not_pass_the_gate_is_put_back_with_the_reason_and_never_tried_for_ever(opened):
    found = service(opened, gate=Gate(retain_accuracy=0.92), attempts=3)
    ended = found.drain()
    assert (
        ended.kind == "retrain"
        and "was put back 3 of 3 times, the last for retain accuracy 0.9, at" in ended.reason
    )
    assert opened.store.serving() == 1 and opened.ledger.counts()["accepted"] == 4
    reason = "retain accuracy 0.9, at least 0.92 is asked"
    assert [one.withheld for one in opened.store.history()] == ["", reason, reason, reason]
    reasons = [event.reason for event in opened.ledger.events(1)]
    assert reasons.count(reason) == 3 and reasons[-1].startswith("not tried, ")
    again = found.drain()  # a second start tries no more than the first
    assert again.kind == "retrain" and len(opened.store.history()) == 4


def test_what_was_put_back_too_often_is_retrained_with_all_that_wait(opened):
    ended = service(opened, gate=Gate(retain_accuracy=0.92), attempts=1, retraining=ANEW).drain()
    assert (ended.kind, ended.done) == ("drained", 4)
    (only,) = opened.store.lineage(opened.store.serving())
    assert (only.method, only.parent, only.num_forgotten) == ("anew", None, 8)
    assert [one.method for one in opened.store.history()] == ["train", "mine", "anew"]  # at once
    assert opened.store.restore(like=LIKE)["w"].tolist() == [0] * 8 + [1] * 4


def test_a_retrained_model_that_does_not_pass_is_the_end(opened):
    found = service(opened, gate=Gate(retain_accuracy=0.99), attempts=1, retraining=ANEW)
    ended = found.drain()
    assert ended.kind == "withheld" and "retain accuracy 0.94, at least 0.99" in ended.reason
    assert opened.store.serving() == 1 and opened.ledger.counts()["accepted"] == 4
    assert len(opened.store.history()) == 3


@pytest.mark.parametrize(
    "budget, reason",
    [
        (Budget(steps=2), "it would be step 3 of an approximate method since version 1"),
        (Budget(share=0.4), "0.5 of the examples would be forgotten since version 1"),
    ],
)
def test_a_lineage_that_has_come_too_far_begins_anew(opened, budget, reason):
    ended = service(opened, budget=budget).drain()
    assert (ended.kind, ended.done) == ("retrain", 2) and reason in ended.reason
    assert opened.store.serving() == 3 == len(opened.store.history())  # none was made in vain
    ended = service(opened, budget=budget, retraining=ANEW).drain()
    assert (ended.kind, ended.done) == ("drained", 2)
    assert [one.method for one in opened.store.lineage(opened.store.serving())] == ["anew"]
    assert opened.store.forgotten().tolist() == [*range(8)]


def test_a_version_that_lost_more_than_the_budget_does_not_serve(opened):
    ended = service(opened, budget=Budget(drop=0.04), attempts=1).drain()
    assert ended.kind == "retrain" and opened.store.serving() == 1
    assert "accuracy on the retain set fell by 0.05 since" in opened.store.history()[1].withheld


def test_a_new_lineage_begins_where_a_method_cannot_answer_any_more(opened):
    def spent(job):
        if job.work.requests[0].asked == "user:b":
            raise Spent("expected an order that has not lost its first slice, found none; retrain")
        return forget(job)

    ended = service(opened, spent, retraining=ANEW).drain()
    assert (ended.kind, ended.done) == ("drained", 4)
    assert any("found none; retrain; retraining" in one for one in opened.said), opened.said
    assert [one.method for one in opened.store.history()] == ["train", "mine", "anew"]


def test_what_is_not_finite_is_not_published(opened):
    ended = service(opened, lambda job: Made(None, withheld="it is not finite")).drain()
    assert ended.kind == "retrain" and len(opened.store.history()) == 1
    assert "it is not finite" in [event.reason for event in opened.ledger.events(1)]


@pytest.mark.parametrize("second", [{"gate": Gate(retain_accuracy=0.8)}, {"unlearning": ANEW}])
def test_a_death_after_the_swap_is_followed_by_no_second_version_whatever_is_asked_then(
    opened, monkeypatch, second
):
    keys.make_key(opened.folder / "key")
    signer = Signer(keys.read_key(opened.folder / "key"), "ACME", opened.folder / "certificates")
    first = {"gate": Gate(retain_accuracy=0.7), "signer": signer}

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Worker, "finish", dies)
        service(opened, **first).drain()
    assert opened.store.serving() == 2 and opened.ledger.request(1).state == "pending"
    assert not (opened.folder / "certificates").exists()  # the ledger has it first
    assert service(opened, **first | second).drain().done == 4
    assert [one.version for one in opened.ledger.requests("done")] == [2, 3, 4, 5]
    assert len(opened.store.history()) == 5 and opened.store.forgotten().tolist() == [*range(8)]
    chain = certificates.verify(opened.ledger.certificates())
    assert [one.record["done"]["version"] for one in chain] == [2, 3, 4, 5]
    assert chain[0].record["done"]["method"] == "mine" and not chain[0].record["thresholds"]
    assert chain[0].record["done"]["guarantee"] == {"kind": "approximate"}


def test_what_somebody_else_has_forgotten_meanwhile_is_done_and_not_forgotten_again(opened):
    other = opened.store.publish(LIKE, method="other", parent=1, forgotten=[0, 1], ids=TABLE)
    opened.store.swap(other)
    assert service(opened).drain().done == 4
    assert [one.version for one in opened.ledger.requests("done")] == [2, 3, 4, 5]
    assert [one.method for one in opened.store.history()] == ["train", "other"] + ["mine"] * 3


def test_the_key_of_the_certificates_is_asked_for_before_anything_is_done(opened):
    signers = []
    for name in ("one", "two"):
        keys.make_key(opened.folder / name)
        key = keys.read_key(opened.folder / name)
        signers.append(Signer(key, "ACME", opened.folder / "certificates"))
    opened.ledger.refuse(4, "it must be kept")
    assert service(opened, signer=signers[0]).drain().done == 3
    names = sorted(path.name for path in (opened.folder / "certificates").iterdir())
    assert names == [f"certificate-0000000{n}.json" for n in (1, 2, 3)]
    opened.ledger.accept("user:d")
    with pytest.raises(ValueError, match=r"expected the key .* which follows certificate 3"):
        service(opened, signer=signers[1]).drain()
    with pytest.raises(ValueError, match="expected the operator's key, since certificates"):
        service(opened).drain()
    assert opened.store.serving() == 4 and opened.ledger.counts()["accepted"] == 1


def test_a_certificate_whose_file_a_dead_worker_did_not_write_is_written_by_the_next(
    opened, monkeypatch
):
    keys.make_key(opened.folder / "key")
    signer = Signer(keys.read_key(opened.folder / "key"), "ACME", opened.folder / "certificates")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Signer, "write", dies)
        service(opened, signer=signer, batch=None).drain()
    assert opened.ledger.counts()["done"] == 4 and len(opened.ledger.certificates()) == 1
    assert service(opened, signer=signer).drain().done == 0
    files = [path.read_bytes() for path in (opened.folder / "certificates").iterdir()]
    assert [file.rstrip(b"\n") for file in files] == [
        line.rstrip(b"\n") for line in opened.ledger.certificates()
    ]


def test_examples_that_are_not_at_hand_are_not_said_to_be_forgotten(opened):
    found = service(opened)
    part = types.SimpleNamespace(**vars(found))
    part.index = np.arange(1, ROWS)
    for _ in range(3):
        with pytest.raises(ValueError, match=r"of request 1 among the training data, found 1 that"):
            service_of(part).drain()
        assert opened.ledger.counts()["accepted"] == 4 and opened.store.serving() == 1
    reason = "not tried, examples are not among the training data: row 0"
    assert opened.ledger.request(1).reason == reason and found.drain().done == 4


def service_of(fields) -> Service:
    return Service(**vars(fields))


def test_sisa_serves_requests_and_equals_its_protocol_bit_for_bit(tmp_path):
    inputs = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32)
    data = mu.batches(inputs, inputs.sum(axis=1), batch_size=8)
    model = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
    protocol = mu.exact.sisa(
        model,
        optax.adam(0.1),
        init=lambda key: mu.Variables(jax.random.normal(key, (4,))),
        shards=2,
        slices=2,
        epochs=2,
        batch_size=4,
        capacity=32,
        combine="outputs",
    )
    key = jax.random.key(0)
    variables, _ = protocol.train(key, data)
    store = Store(tmp_path / "store")
    store.swap(store.publish(variables, method="sisa"))

    def make(job) -> Made:
        return Made(protocol.unlearn(None, job.before, job.forget, job.retain)[0])

    recipe = Recipe("sisa", make, guarantee=Guarantee("exact", protocol.words), whole=True)
    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.enroll(mu.id_table([f"row {n}" for n in range(24)], index=range(24)))
        opened = types.SimpleNamespace(ledger=ledger, store=store, said=[])
        found = service(opened, unlearning=recipe, split=lambda work: work.split(data), ids=None)
        found = types.SimpleNamespace(**vars(found) | {"like": variables, "index": np.arange(24)})
        found.budget = Budget(steps=0)  # exact steps spend none
        ledger.accept(["row 5"])
        assert service_of(found).drain().done == 1
        for number in (3, 17):
            ledger.accept([f"row {number}"])
        assert service_of(found).drain().done == 2
    retain = mu.split(data, [3, 5, 17])[1]
    again, _ = protocol.train(key, retain)
    served = store.restore(like=variables)
    same = jax.tree.map(np.array_equal, (served.last, served.earlier), (again.last, again.earlier))
    assert all(jax.tree.leaves(same))


def test_the_story_that_is_killed_uses_the_loop_itself(opened):
    found = serving_loop.service
    keys.make_key(opened.folder / "operator.pem")
    assert type(found(opened.folder, opened.ledger, opened.store, print)) is Service
