"""A loop that serves requests with a ledger and a store, killed at points and at random moments.

python crashing_loop.py FOLDER at 3 17 25, or FOLDER random 9 5, or FOLDER count

People ask; the loop forgets, publishes, swaps and finishes; once, it is rolled back. It is started
again after each death. Points are those of `crashing`, and before and after what the store does.
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
from crashing import kill, listen

import mu_jax as mu
from mu_jax.service import Ledger
from mu_jax.store import Store

ROWS, ASKED = 12, 8  # e asks for nothing
USERS = list("aabbccddeeee")
TABLE = mu.id_table([f"row {n}" for n in range(ROWS)], index=range(ROWS), user=USERS)
LIKE = {"w": np.ones(ROWS, np.float32)}
DATA = (np.ones((ROWS, 1), np.float32), np.arange(ROWS))


def unlearn(variables, forget, retain):
    """A transform that is seen through: what it was given to retain counts up."""
    after = np.where(np.isin(np.arange(ROWS), forget.index), 0, variables["w"])
    return {"w": after + np.isin(np.arange(ROWS), retain.index).astype(np.float32)}


def serve(folder: Path, ledger: Ledger, store: Store, point) -> None:
    """The story."""
    ledger.enroll(TABLE)
    if not store.directory.exists() or store.serving() is None:
        store.swap(store.publish(LIKE, method="train", ids=TABLE))
    point()
    for user in "abcd":
        ledger.accept(f"user:{user}", key=user)
        point()
    data = mu.batches(*DATA, batch_size=4)
    with ledger.worker(wait=True) as worker:
        worker.reconcile(store.serving(), store.forgotten())
        while work := worker.start(parent=store.serving(), most=1):
            point()
            forget, retain = work.split(data)
            identity = f"run {work.run} of {work.parent}"
            if (version := store.find(identity)) is None:
                before = store.restore(work.parent, like=LIKE)
                after = unlearn(before, forget, retain)
                arguments = {"parent": work.parent, "identity": identity, "ids": TABLE}
                version = store.publish(after, method="mine", forgotten=work.forget, **arguments)
            point()
            store.swap(version, expected=work.parent)
            point()
            worker.finish(work, version=version)
            point()
            if not (marker := folder / "rolled back").exists():
                marker.touch()
                point()
                store.roll_back()
                point()
                worker.reconcile(store.serving(), store.forgotten())


def check(ledger: Ledger, store: Store, *, ended: bool) -> None:
    """What must hold at any moment, and at the end."""
    if not store.directory.exists() or store.serving() is None:
        assert not ended and ledger.counts()["done"] == 0
        return
    history = [each for each in store.history() if each.method == "mine"]
    assert len({each.identity for each in history}) == len(history), "a run was published twice"
    gone, weights = store.forgotten(), store.restore(like=LIKE)["w"]
    assert np.flatnonzero(weights == 0).tolist() == gone.tolist(), (weights, gone)
    assert (weights[:ASKED] <= 1).all(), f"a run retained what was asked for: {weights}"
    assert (weights[ASKED:] == len(store.lineage(store.serving()))).all(), weights
    states = {each.key: each.state for each in ledger.requests()}
    assert list(states) == list("abcd")[: len(states)]
    if ended:
        assert set(states.values()) == {"done"} and len(states) == 4
        assert gone.tolist() == ledger.forgotten().tolist() == list(range(ASKED))


def story(folder: Path, *, until: int | None = None, counted: int | None = None):
    def work() -> None:
        number = itertools.count(1)

        def point() -> None:
            if next(number) == until:
                os.kill(os.getpid(), signal.SIGKILL)

        folder.mkdir(exist_ok=True)
        store = Store(folder / "store")
        with Ledger(folder / "ledger.db") as ledger:
            check(ledger, store, ended=False)
            listen(point)
            serve(folder, ledger, store, point)
            if counted is not None:
                os.write(counted, str(next(number) - 1).encode())
            if until is None:
                check(ledger, store, ended=True)

    return work


def main(root: Path, what: str, numbers: list[int]) -> None:
    assert orbax.checkpoint  # loaded once, for all that are forked
    kill(lambda name: functools.partial(story, root / name), what, numbers)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], list(map(int, sys.argv[3:])))
