"""What a ledger promises: states, duplicates, what no retain set holds, runs taken over."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import mu_jax as mu
from mu_jax.service import Ledger
from mu_jax.store.versions import Overtaken


def begin(ledger, **arguments):
    """Start as a worker does that dies then: its lock is free again, its run is not ended."""
    with ledger.worker() as worker:
        return worker.start(**arguments)


def do(ledger, version, **arguments):
    with ledger.worker() as worker:
        work = worker.start(parent=version - 1, **arguments)
        worker.finish(work, version=version)
    return work


def test_a_request_goes_through_its_states_with_reasons_and_times(ledger):
    asked = ledger.accept("user:ada", key="ticket 1")
    assert (asked.number, asked.state, asked.asked, asked.examples) == (
        1,
        "accepted",
        "user:ada",
        2,
    )
    assert asked.key == "ticket 1" and asked.ids_digest == mu.datasets.digest([0, 1])
    with ledger.worker() as worker:
        work = worker.start(parent=4)
        (pending,) = ledger.requests("pending")
        assert pending.run == work.run == 1 and work.parent == 4 and not work.resumed
        worker.finish(work, version=5, reason="all measures are inside")
    done = ledger.request(1)
    assert (done.state, done.reason, done.version) == ("done", "all measures are inside", 5)
    assert done.accepted == asked.accepted and done.since >= done.accepted
    events = ledger.events(1)
    assert [event.state for event in events] == ["accepted", "pending", "done"]
    assert [event.event for event in events] == sorted(event.event for event in events)
    assert ledger.counts() == {"accepted": 0, "pending": 0, "done": 1, "refused": 0}


def test_a_request_names_a_person_ids_or_several(ledger):
    assert ledger.ids(ledger.accept("user:cyd").number).tolist() == [3, 4, 5]
    assert ledger.ids(ledger.accept("user:ada, bob").number).tolist() == [0, 1, 2]
    assert ledger.ids(ledger.accept("id:img_7").number).tolist() == [7]
    listed = ledger.accept(["img_6", "img_7"], asked="class:3")
    assert ledger.ids(listed.number).tolist() == [6, 7] and listed.asked == "class:3"
    assert ledger.names(ledger.ids(listed.number)) == ["img_6", "img_7"]
    quoted = mu.id_table(['a, "b"', "c"], index=[10, 11], user=["x, y", "z"])
    ledger.enroll(quoted)
    asked = ledger.accept(['a, "b"', "c"]).asked
    assert ledger.ids(ledger.accept(asked).number).tolist() == [10, 11]
    assert ledger.ids(ledger.accept('user:"x, y"').number).tolist() == [10]


def test_a_key_that_comes_again_is_the_request_of_then(ledger):
    first = ledger.accept("user:ada", key="k")
    assert ledger.accept("user:ada", key="k") == first
    do(ledger, 2)
    assert ledger.accept("user:ada", key="k").state == "done"
    with pytest.raises(ValueError, match=r"expected 'user:ada' for the key .* found 'user:bob'"):
        ledger.accept("user:bob", key="k")
    assert len(ledger.requests()) == 1


def test_the_same_examples_twice_are_one_request_until_it_ends(ledger):
    first = ledger.accept("user:ada")
    assert ledger.accept(["img_1", "img_0"]).number == first.number
    assert ledger.events(1)[-1].reason == "asked again"
    begin(ledger)
    again = ledger.accept("user:ada")
    assert (again.number, again.state) == (first.number, "pending")
    assert ledger.accept("user:bob").number == 2


def test_what_is_forgotten_already_is_done_at_once_or_left_out(ledger):
    ledger.accept("user:ada")
    do(ledger, 2)
    again = ledger.accept("id:img_0")
    assert (again.number, again.state, again.version) == (2, "done", 2)
    assert again.reason == "the example is forgotten already, by other requests"
    assert ledger.accept(["img_1", "img_2"]).state == "accepted"
    work = begin(ledger, parent=2)
    assert work.forget.tolist() == [2] and work.excluded.tolist() == [0, 1, 2]


def test_a_request_that_another_one_fulfils_is_done_with_it(ledger):
    ledger.accept("user:cyd")
    ledger.accept("id:img_3,img_4")
    ledger.accept("id:img_4,img_7")
    work = do(ledger, 2, most=1)
    assert work.forget.tolist() == [3, 4, 5]
    assert [each.state for each in ledger.requests()] == ["done", "done", "accepted"]
    assert "all 2 examples are forgotten already" in ledger.request(2).reason
    assert begin(ledger).forget.tolist() == [7]


def test_no_retain_set_holds_what_was_asked_for_or_forgotten(ledger):
    data = mu.batches(np.ones((8, 1)), np.arange(8), batch_size=4)
    ledger.accept("user:ada")
    do(ledger, 2)
    ledger.accept("user:bob")
    ledger.accept("user:dan")
    ledger.refuse(ledger.accept("user:eve").number, "no such right")
    work = begin(ledger, parent=2, most=1)
    forget, retain = work.split(data)
    assert forget.index.tolist() == [2]
    assert retain.index.tolist() == [3, 4, 5, 7]  # dan waits, eve was refused
    assert ledger.excluded().tolist() == [0, 1, 2, 6] and ledger.forgotten().tolist() == [0, 1]
    # Rows that are deleted from the data are no trouble.
    forget, retain = work.split(data.take(np.arange(2, 8)))
    assert retain.index.tolist() == [3, 4, 5, 7]


def test_a_run_that_is_taken_over_sees_what_the_first_worker_saw(ledger):
    ledger.accept("user:ada")
    ledger.accept("user:bob")
    ledger.accept("user:dan")
    first = begin(ledger, parent=1, most=1)
    ledger.accept("user:eve")
    ledger.refuse(2, "it came later")
    second = begin(ledger, parent=9, most=7)
    assert second.resumed and (second.run, second.attempt, second.parent) == (1, 2, 1)
    assert [each.number for each in second.requests] == [1]
    np.testing.assert_array_equal(second.forget, first.forget)
    np.testing.assert_array_equal(second.excluded, first.excluded)
    with ledger.worker() as worker:
        with pytest.raises(Overtaken, match="attempt 1 is at run 1, found 2; start again"):
            worker.finish(first, version=2)
        assert ledger.request(1).state == "pending"
        worker.finish(second, version=2)
        with pytest.raises(Overtaken, match="found it ended"):
            worker.put_back(second, "too late")
        assert worker.start(parent=2).excluded.tolist() == [0, 1, 6, 7]


def test_work_is_put_back_or_refused_for_a_reason(ledger):
    ledger.accept("user:ada")
    with ledger.worker() as worker:
        worker.put_back(worker.start(), "retain accuracy 0.91 is below 0.95")
        assert ledger.request(1).state == "accepted" and "0.91" in ledger.request(1).reason
        work = worker.start()
        assert work.run == 2
        with pytest.raises(ValueError, match="expected a reason"):
            worker.refuse(work, " ")
        worker.refuse(work, "its examples are nobody's")
        assert ledger.request(1).state == "refused" and ledger.excluded().size == 0
        assert worker.start() is None
    with pytest.raises(ValueError, match="expected a request that waits, found that 1 is refused"):
        ledger.refuse(1, "again")
    assert ledger.accept("user:ada").number == 2  # and may be asked again


def test_several_are_refused_together_or_none(ledger):
    for user in ("ada", "bob", "cyd", "dan"):
        ledger.accept(f"user:{user}")
    do(ledger, 2, most=1)
    begin(ledger, parent=2, most=1)
    for wrong, said in ((1, "1 is done"), (2, "2 is pending"), (9, "found 9, which nobody has")):
        with pytest.raises(ValueError, match=said):
            ledger.refuse_all([3, 4, wrong], "kept by law")
        assert ledger.counts()["refused"] == 0
    found = ledger.refuse_all([4, 3, 4], "kept by law")
    assert [(each.number, each.state, each.reason) for each in found] == [
        (4, "refused", "kept by law"),
        (3, "refused", "kept by law"),
    ]
    assert ledger.excluded().tolist() == [0, 1, 2]


def test_requests_agree_with_what_the_serving_version_has_forgotten(ledger):
    ledger.accept("user:ada")
    do(ledger, 2)
    ledger.accept("user:bob")
    do(ledger, 3)
    with ledger.worker() as worker:
        worker.reconcile(3, [0, 1, 2])
        assert ledger.counts()["done"] == 2
        worker.reconcile(2, [0, 1])  # rolled back
        assert [each.state for each in ledger.requests()] == ["done", "accepted"]
        assert ledger.request(2).reason.startswith("version 2 serves, which has not forgotten")
        assert ledger.excluded().tolist() == [0, 1, 2]
        worker.reconcile(2, [0, 1, 6])  # somebody unlearned by hand
        outside = ledger.request(3)
        assert (outside.state, outside.version) == ("done", 2)
        assert ledger.ids(3).tolist() == [6]
        assert ledger.accept("user:dan").state == "done"
        worker.reconcile(None, [])
        assert {each.state for each in ledger.requests()} == {"accepted"}


def test_a_run_that_is_pending_is_none_of_what_is_reconciled(ledger):
    ledger.accept("user:ada")
    work = begin(ledger, parent=1)  # its worker swapped, and died before it could say so
    with ledger.worker() as worker:
        worker.reconcile(2, [0, 1])
        assert len(ledger.requests()) == 1
        again = worker.start()
        np.testing.assert_array_equal(again.forget, work.forget)
        worker.finish(again, version=2)


def test_a_number_never_changes_its_meaning(ledger, table):
    assert ledger.enroll(table) == 0
    assert ledger.enroll(table.without([0, 1])) == 0  # rows may be deleted
    names = [f"img_{n}" for n in range(9)]
    users = [*table.subjects["user"], "ada"]
    assert ledger.enroll(mu.id_table(names, index=range(9), user=users)) == 1
    assert ledger.ids(ledger.accept("user:ada").number).tolist() == [0, 1, 8]
    shifted = mu.id_table(names[1:], index=range(8), user=users[1:])
    with pytest.raises(ValueError, match="expected the number 1 for 'img_1', found 0"):
        ledger.enroll(shifted)
    other = mu.id_table(names, index=range(9), user=[*users[:-1], "bob"])
    with pytest.raises(ValueError, match=r"expected the user 'ada' of 'img_8'.*found 'bob'"):
        ledger.enroll(other)
    with pytest.raises(ValueError, match="which is that of 'img_0'"):
        ledger.enroll(mu.id_table(["new"], index=[0], user=["ada"]))


@pytest.mark.parametrize(
    "request_, said",
    [
        ("user:nobody", "expected a user who owns training examples, found 'nobody'"),
        ("id:img_1,x", r"found 1 unknown \(x\)"),
        (["y"], r"found 1 unknown \(y\)"),
        ([], "found 0 unknown"),
        ("class:3", "expected a list of ids or one of id:..., user:..., found 'class:3'"),
        ("user:", "found 'user:'"),
        (["a\nb"], "expected ids that name rows"),
        (["\ud800"], "expected an id, found"),
    ],
)
def test_a_request_for_nobody_is_refused_and_nothing_is_written(ledger, request_, said):
    with pytest.raises(ValueError, match=said):
        ledger.accept(request_)
    assert ledger.requests() == () and ledger.events() == ()


def test_numbers_and_states_that_nobody_has(ledger):
    for call in (ledger.request, ledger.ids, lambda number: ledger.refuse(number, "why")):
        with pytest.raises(ValueError, match="expected the number of a request, found 7"):
            call(7)
    with pytest.raises(ValueError, match="expected a state among accepted, pending, done"):
        ledger.requests("open")
    for number in (0, -1, 2**80, "7", None, True, 1.0):
        with pytest.raises(ValueError, match="expected the number of a request, found"):
            ledger.request(number)
    with pytest.raises(ValueError, match=r"found 1 that nobody has enrolled \(99\)"):
        ledger.names([0, 99])
    with ledger.worker() as worker:
        with pytest.raises(ValueError, match="expected most, how many to take at once, found 0"):
            worker.start(most=0)
        with pytest.raises(ValueError, match="expected a version, found 2j"):
            worker.start(parent=2j)


def test_numbers_of_numpy_are_numbers(ledger):
    ledger.accept("user:ada")
    with ledger.worker() as worker:
        work = worker.start(parent=np.int32(1), most=np.int64(1))
        worker.finish(work, version=np.int64(2))
    assert (work.parent, ledger.request(np.int64(1)).version) == (1, 2)


@pytest.mark.parametrize("text", ["", " ", "a\0b", "\ud800", 7, "x" * 200_000])
def test_texts_that_no_database_holds(ledger, text):
    ledger.accept("user:bob")
    calls = [
        lambda: ledger.accept("user:ada", key=text),
        lambda: ledger.accept("user:ada", asked=text),
        lambda: ledger.refuse(1, text),
    ]
    if isinstance(text, str):
        calls.append(lambda: ledger.accept(text))
    for call in calls:
        with pytest.raises(ValueError, match=r"^expected .* found .*; give a text$"):
            call()
    assert [each.state for each in ledger.requests()] == ["accepted"]


def test_a_new_ledger_is_opened_by_several_at_once(where, table):
    opened = []

    def open_it():
        with Ledger(where) as own:
            own.enroll(table)
            opened.append(own.requests())

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opened == [()] * 4


def test_one_process_works_and_a_second_is_refused_or_waits(ledger, where):
    with Ledger(where) as other:
        with ledger.worker():
            match = "another process works there"
            with pytest.raises(BlockingIOError, match=match), other.worker():
                pass
            other.accept("user:ada")  # people may ask meanwhile
        with other.worker() as worker:
            assert worker.start() is not None


def test_a_second_writer_waits_and_is_refused_in_a_sentence(ledger, where):
    with Ledger(where, wait=0.1) as other:
        with ledger._database.writing():
            with pytest.raises(BlockingIOError, match="another process writes there for long"):
                other.accept("user:ada")
            assert other.requests() == ()  # readers wait for nobody
        assert other.accept("user:ada").number == 1


def test_many_at_once_are_all_written_down(ledger, where):
    def ask(user):
        with Ledger(where) as own:
            own.accept(f"user:{user}", key=user)

    people = ["ada", "bob", "cyd", "dan", "eve"]
    threads = [threading.Thread(target=ask, args=(user,)) for user in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.key for each in ledger.requests()) == people
    assert [each.number for each in ledger.requests()] == [1, 2, 3, 4, 5]


def test_a_transaction_that_fails_leaves_nothing(ledger, monkeypatch):
    from mu_jax.service import requests

    def fails(*_):
        raise RuntimeError("pulled the plug")

    monkeypatch.setattr(requests.sets, "name", fails)
    with pytest.raises(RuntimeError):
        ledger.accept("user:ada")
    assert ledger.requests() == () and ledger.events() == ()
