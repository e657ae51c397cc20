"""A loop that serves requests while more of them arrive, killed at points and at random moments.

python arriving_loop.py WHERE FOLDER at 3 17 25, or WHERE FOLDER random 9 5, or WHERE FOLDER count

One person asks before each start of the loop, so between a death and the restart too, and one each
time that a version is made. Once, between a death and the restart, an operator goes back from what
serves. Points are those of `serving_loop`.
"""

from __future__ import annotations

import functools
import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orbax.checkpoint
from crashing import afresh, kill, listen
from serving_loop import points_of_files

import mu_jax as mu
from mu_jax.service import Ledger, Made, Recipe, Service, Signer, certificates, keys
from mu_jax.store import Store

PEOPLE, KEPT = "abcdef", 4  # the last rows are those of z, who asks for nothing
ROWS = 2 * len(PEOPLE) + KEPT
USERS = [*(name for name in PEOPLE for _ in range(2)), *"z" * KEPT]
TABLE = mu.id_table([f"row {n}" for n in range(ROWS)], index=range(ROWS), user=USERS)
LIKE = {"w": np.ones(ROWS, np.float32)}
DATA = mu.batches(np.ones((ROWS, 1), np.float32), np.arange(ROWS), batch_size=4)


def heard(folder: Path) -> str:
    """Who was told that the request is written down."""
    return (folder / "heard").read_text() if (folder / "heard").exists() else ""


def ask(folder: Path, ledger: Ledger) -> None:
    """The next person asks, or again who heard no answer."""
    for name in PEOPLE[len(heard(folder)) :][:1]:
        ledger.accept(f"user:{name}", key=name)
        with (folder / "heard").open("a") as file:
            file.write(name)


def go_back(folder: Path, store: Store) -> None:
    """What an operator does once, after a death: serve the version before again."""
    version = store.serving() if store.directory.exists() else None
    if version not in (None, 1) and not (marker := folder / "judged").exists():
        marker.touch()
        store.roll_back(expected=version)
        (folder / "left").write_text(str(version))


def service(folder: Path, ledger: Ledger, store: Store, report: Callable[[str], None]) -> Service:
    """A transform that is seen through, during which somebody asks."""

    def unlearn(job) -> Made:
        asked = [row for row in range(ROWS) if USERS[row] in heard(folder)]
        retained = np.isin(np.arange(ROWS), job.retain.index)
        assert job.work.resumed or not retained[asked].any(), "a run retained what was asked for"
        ask(folder, ledger)
        after = np.where(np.isin(np.arange(ROWS), job.forget.index), 0, job.before["w"])
        return Made({"w": after + retained.astype(np.float32)})

    signer = Signer(keys.read_key(folder / "operator.pem"), "ACME", folder / "certificates")
    return Service(
        *(ledger, store, LIKE, np.arange(ROWS), lambda work: work.split(DATA)),
        Recipe("mine", unlearn),
        batch=2,
        signer=signer,
        ids=TABLE,
        report=report,
    )


def tell(folder: Path, ledger: Ledger, store: Store, point: Callable[[], None]) -> None:
    """The story."""
    ledger.enroll(TABLE)
    if not store.directory.exists() or store.serving() is None:
        store.swap(store.publish(LIKE, method="train", ids=TABLE))
    asked = False
    while not asked:
        asked = heard(folder) == PEOPLE
        ask(folder, ledger)
        point()
        ended = service(folder, ledger, store, lambda _: point()).drain(wait=True)
        assert ended.kind == "drained", ended


def check(folder: Path, ledger: Ledger, store: Store, *, ended: bool) -> None:
    """What must hold at any moment, and at the end."""
    names = "".join(each.key for each in ledger.requests())
    assert names.startswith(heard(folder)) and PEOPLE.startswith(names), "a request was lost"
    if not store.directory.exists() or store.serving() is None:
        assert not ended and ledger.counts()["done"] == 0
        return
    left = int((folder / "left").read_text()) if (folder / "left").exists() else None
    lineage = [each.version for each in store.lineage(store.serving())]
    assert left not in lineage, f"version {left} serves again, from which an operator went back"
    gone, weights = store.forgotten(), store.restore(like=LIKE)["w"]
    assert np.flatnonzero(weights == 0).tolist() == gone.tolist(), (weights, gone)
    assert (weights[-KEPT:] == len(lineage)).all(), weights
    found = [each.identity for each in store.history() if each.identity]
    assert len(set(found)) == len(found), "a run was published twice"
    check_done(ledger, lineage, ended=ended)
    if ended:
        assert names == PEOPLE and ledger.counts()["done"] == len(PEOPLE)
        assert gone.tolist() == ledger.forgotten().tolist() == list(range(ROWS - KEPT))


def check_done(ledger: Ledger, lineage: list[int], *, ended: bool) -> None:
    """Each request is done once by what serves, and has its certificate."""
    chain = ledger.certificates()
    records = [one.record for one in certificates.verify(chain)] if chain else []
    asked = {one["done"]["version"]: one["asked"] for one in records}
    assert len(asked) == len(records), "two certificates name one version"
    served = [each["request"] for version in lineage for each in asked.get(version, ())]
    assert len(set(served)) == len(served), f"done twice: {served}"
    assert {each.version for each in ledger.requests("done")} <= set(asked)
    if ended:
        assert sorted(served) == [each.number for each in ledger.requests()]


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
            go_back(folder, store)
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
        lambda name: functools.partial(story, afresh(where, f"arriving_{name}"), root / name),
        what,
        numbers,
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], list(map(int, sys.argv[4:])))
