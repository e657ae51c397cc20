"""`mu_jax.service.Service` killed at points and at random moments, over all that it does.

python serving_loop.py WHERE FOLDER at 3 17 25, or WHERE FOLDER random 9 5, or WHERE FOLDER count

People ask, and a service answers: it unlearns, once is not good enough, publishes, swaps, signs, is
rolled back by an operator, and retrains as its budget is spent. It is started again after each
death. Points are before and after every statement and commit of the ledger, every call of the
store, and every rename and fsync of a file.
"""

from __future__ import annotations

import functools
import itertools
import os
import signal
import sys
from pathlib import Path

import numpy as np
import orbax.checkpoint
from crashing import afresh, kill, listen

import mu_jax as mu
from mu_jax.service import (
    Budget,
    Gate,
    Guarantee,
    Ledger,
    Made,
    Recipe,
    Service,
    Signer,
    certificates,
    keys,
    put_backs,
)
from mu_jax.store import Store

ROWS, ASKED = 12, 8  # e asks for nothing
USERS = list("aabbccddeeee")
TABLE = mu.id_table([f"row {n}" for n in range(ROWS)], index=range(ROWS), user=USERS)
LIKE = {"w": np.ones(ROWS, np.float32)}
DATA = mu.batches(np.ones((ROWS, 1), np.float32), np.arange(ROWS), batch_size=4)
STEPS = 2


def service(folder: Path, ledger: Ledger, store: Store, report) -> Service:
    """A transform that is seen through: what it was given to retain counts up, the rest is 0."""

    def unlearn(job) -> Made:
        after = np.where(np.isin(np.arange(ROWS), job.forget.index), 0, job.before["w"])
        after = after + np.isin(np.arange(ROWS), job.retain.index).astype(np.float32)
        first = any(
            one.asked == "user:b" and not put_backs(ledger.events(one.number))
            for one in job.work.requests
        )
        return Made({"w": after}, {"retain accuracy": 0.5 if first else 0.9})

    def retrain(job) -> Made:
        after = np.isin(np.arange(ROWS), job.retain.index).astype(np.float32)
        return Made({"w": after}, {"retain accuracy": 0.95})

    key = folder / "operator.pem"
    exact = Guarantee("exact", "training on the retained examples")
    return Service(
        ledger,
        store,
        LIKE,
        np.arange(ROWS),
        lambda work: work.split(DATA),
        Recipe("mine", unlearn),
        Recipe("anew", retrain, guarantee=exact),
        gate=Gate(retain_accuracy=0.8),
        budget=Budget(steps=STEPS),
        batch=1,
        signer=Signer(keys.read_key(key), "ACME", folder / "certificates"),
        ids=TABLE,
        report=report,
    )


def tell(folder: Path, ledger: Ledger, store: Store, point) -> None:
    """The story."""
    ledger.enroll(TABLE)
    if not store.directory.exists() or store.serving() is None:
        metrics = {"train accuracy": 0.96}
        store.swap(store.publish(LIKE, method="train", ids=TABLE, metrics=metrics))
    for user in "abcd":
        ledger.accept(f"user:{user}", key=user)
        with (folder / "heard").open("a") as file:
            file.write(user)
        point()

    def report(sentence: str) -> None:
        point()
        if "serves, mine" in sentence and not (marker := folder / "rolled back").exists():
            marker.touch()
            point()
            store.roll_back()  # an operator's, while the loop runs
        point()

    ended = service(folder, ledger, store, report).drain(wait=True)
    assert ended.kind == "drained", ended


def check(folder: Path, ledger: Ledger, store: Store, *, ended: bool) -> None:
    """What must hold at any moment, and at the end."""
    states = {each.key: each.state for each in ledger.requests()}
    heard = (folder / "heard").read_text() if (folder / "heard").exists() else ""
    assert set(heard) <= set(states), "an accepted request was lost"
    assert list(states) == list("abcd")[: len(states)]
    if not store.directory.exists() or store.serving() is None:
        assert not ended and ledger.counts()["done"] == 0
        return
    history = [each for each in store.history() if each.method != "train"]
    assert len({each.identity for each in history}) == len(history), "a run was published twice"
    gone, weights = store.forgotten(), store.restore(like=LIKE)["w"]
    lineage = store.lineage(store.serving())
    assert np.flatnonzero(weights == 0).tolist() == gone.tolist(), (weights, gone)
    assert (weights[:ASKED] <= 1).all(), f"a run retained what was asked for: {weights}"
    assert (weights[ASKED:] == len(lineage)).all(), weights
    assert not lineage[0].withheld and len(lineage) <= STEPS + 1
    check_certificates(ledger, store, ended=ended)
    if ended:
        assert set(states.values()) == {"done"} and len(states) == 4
        assert gone.tolist() == ledger.forgotten().tolist() == list(range(ASKED))
        assert [each.method for each in lineage] == ["anew"]
        # Twice where a death put off the roll-back until b was done.
        assert sum(bool(each.withheld) for each in history) in (1, 2)


def check_certificates(ledger: Ledger, store: Store, *, ended: bool) -> None:
    """Every finished run has its certificate, and no request is done by two that serve."""
    chain = ledger.certificates()
    found = certificates.verify(chain) if chain else []
    versions = [one.record["done"]["version"] for one in found]
    assert len(set(versions)) == len(versions), versions
    done = {each.version for each in ledger.requests("done")}
    assert done <= set(versions), (done, versions)
    if ended:
        assert store.serving() == versions[-1]


def points_of_files(point) -> None:
    """Call `point` at every rename and fsync."""
    for name in ("rename", "replace", "fsync"):
        before = getattr(os, name)

        def called(*arguments, _before=before, **options):
            point()
            found = _before(*arguments, **options)
            point()
            return found

        setattr(os, name, called)


def story(where: str, folder: Path, *, until: int | None = None, counted: int | None = None):
    def work() -> None:
        number = itertools.count(1)

        def point() -> None:
            if next(number) == until:
                os.kill(os.getpid(), signal.SIGKILL)

        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "operator.pem").exists():
            keys.make_key(folder / "operator.pem")
        store = Store(folder / "store")
        with Ledger(where) as ledger:
            check(folder, ledger, store, ended=False)
            listen(point)
            points_of_files(point)
            tell(folder, ledger, store, point)
            if counted is not None:
                os.write(counted, str(next(number) - 1).encode())
            if until is None:
                check(folder, ledger, store, ended=True)

    return work


def main(where: str, root: Path, what: str, numbers: list[int]) -> None:
    assert orbax.checkpoint  # loaded once, for all that are forked
    kill(
        lambda name: functools.partial(story, afresh(where, f"serving_{name}"), root / name),
        what,
        numbers,
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], list(map(int, sys.argv[4:])))
