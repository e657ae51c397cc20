"""A lineage keeps the ids that people have, and whoever it has forgotten stays forgotten."""

from __future__ import annotations

import numpy as np
import pytest

import mu_jax as mu
from mu_jax.store.versions import Damaged, Store

NAMES, USERS = ["c", "a", "d", "b"], ["u1", "u2", "u2", "u3"]
TABLE = mu.id_table(NAMES, user=USERS)
WEIGHTS = {"w": np.ones(2, np.float32)}


def data(table, names):
    n = len(names)
    return mu.batches(np.ones((n, 1)), np.ones(n), batch_size=2, index=table.numbers(names))


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    first = store.publish(WEIGHTS, method="train", ids=TABLE)
    second = store.publish(WEIGHTS, parent=first, method="ssd", forgotten=TABLE.numbers(["b"]))
    store.swap(second)
    return store


def test_a_lineage_knows_whom_it_has_forgotten(store, tmp_path):
    third = store.publish(
        WEIGHTS, parent=2, method="ssd", forgotten=TABLE.owned("user", ["u1"]), ids=TABLE
    )
    again = Store(tmp_path)
    assert again.forgotten_ids(third).tolist() == ["b", "c"]
    assert again.forgotten(third).tolist() == TABLE.numbers(["b", "c"]).tolist()
    assert again.forgotten_ids(1).tolist() == [] and again.forgotten_ids().tolist() == ["b"]
    assert again.ids(third).digest == TABLE.digest
    assert {each.ids_digest for each in again.history()} == {TABLE.digest}
    assert len(list(tmp_path.glob("ids-*.csv"))) == 1


def test_what_is_forgotten_is_in_no_later_set_in_whatever_order_the_rows_are(store):
    names = NAMES[::-1]
    forget, retain = store.split(data(TABLE, names), "user:u2", ids=TABLE)
    assert TABLE.names(forget.index).tolist() == ["d", "a"]
    assert TABLE.names(retain.index).tolist() == ["c"]
    forget, retain = store.split(data(TABLE, names), TABLE.numbers(["b", "a"]))  # by numbers
    assert TABLE.names(forget.index).tolist() == ["a"]


def test_rows_may_go_once_they_are_forgotten_if_the_others_keep_their_numbers(store):
    left = ["c", "a", "d"]
    kept = store.ids()
    forget, retain = store.split(data(kept, left), ["a"], ids=kept)
    assert kept.names(retain.index).tolist() == ["c", "d"]
    now = kept.without(kept.numbers(["b"]))
    forget, retain = store.split(data(now, left), ["a"], ids=now)
    assert kept.names(forget.index).tolist() == ["a"]
    assert store.publish(WEIGHTS, parent=2, method="iau", ids=now) == 3
    assert store.ids(3).digest == TABLE.digest


RENUMBERED = mu.id_table(["c", "a", "d"], user=["u1", "u2", "u2"])  # "c" has the number of "b"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (RENUMBERED, "expected the number 2 of 'c', as when the lineage began, found 1"),
        (mu.id_table([*NAMES, "e"], user=[*USERS, "u4"]), r"found 1 that are new \(e\)"),
        (TABLE.without([0]), r"found 1 that are missing and were not forgotten \(a\)"),
        (mu.id_table(NAMES, user=["u2", *USERS[1:]]), "expected the user u1 of 'c'"),
    ],
)
def test_a_table_that_has_changed_is_refused_and_nothing_is_written(
    store, tmp_path, table, message
):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message):
        store.publish(WEIGHTS, parent=2, method="ssd", forgotten=[1], ids=table)
    names = [name for name in (*NAMES, "e") if name in table.ids]
    with pytest.raises(ValueError, match=message):
        store.split(data(table, names), ["d"], ids=table)
    assert sorted(tmp_path.rglob("*")) == before


def test_numbers_that_the_lineage_does_not_know_are_refused(store):
    examples = mu.batches(np.ones((2, 1)), np.ones(2), batch_size=2, index=[2, 7])
    with pytest.raises(ValueError, match=r"expected numbers of the table of ids, found 1 .*\(7\)"):
        store.split(examples, [2])
    with pytest.raises(ValueError, match=r"expected numbers of the table of ids, found 1 .*\(9\)"):
        store.publish(WEIGHTS, parent=2, method="ssd", forgotten=[9])


@pytest.mark.parametrize("harm", ["changed", "torn", "gone"])
def test_a_kept_table_that_was_changed_is_refused(store, tmp_path, harm):
    (path,) = tmp_path.glob("ids-*.csv")
    text = path.read_text()
    if harm == "gone":
        path.unlink()
    else:
        path.write_text(text.replace("0,a,", "0,x,") if harm == "changed" else text[:-9])
    with pytest.raises(Damaged, match=r"expected .*table of ids"):
        store.ids()
    with pytest.raises(Damaged):
        store.publish(WEIGHTS, parent=2, method="ssd")
    assert store.forgotten_ids().tolist() == ["b"]  # kept apart
    TABLE.save(path)
    assert store.ids().digest == TABLE.digest


def test_a_table_comes_before_anybody_is_forgotten(tmp_path):
    store = Store(tmp_path)
    store.publish(WEIGHTS, method="train")
    store.publish(WEIGHTS, parent=1, method="ssd", forgotten=[0], ids=TABLE)
    assert store.forgotten_ids(2).tolist() == ["a"] and store.ids(1) is None
    store.publish(WEIGHTS, parent=1, method="ssd", forgotten=[3])
    with pytest.raises(ValueError, match="expected a lineage that was published with ids="):
        store.forgotten_ids(3)
    with pytest.raises(ValueError, match="found one that has forgotten examples by number alone"):
        store.publish(WEIGHTS, parent=3, method="ssd", forgotten=[0], ids=TABLE)
    assert len(store.history()) == 3
