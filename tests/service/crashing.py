"""Processes that are killed while they work on a ledger, and what must hold afterwards.

python crashing.py WHERE FOLDER at 3 17 25    killed at these points of the story
python crashing.py WHERE FOLDER random 9 5    5 times over, killed at random moments of seed 9
python crashing.py WHERE FOLDER count         prints how many points there are

The story: people ask, one is refused, a worker takes requests in runs, one run is put back, the
others are finished with a certificate. It is told again after each death, as people and workers do
who heard no answer. A point is a statement of SQL (before and after), a commit, and the end of each
call. One process forks all others, since it takes long to import what they need.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import sqlalchemy
from sqlalchemy import Engine, event

import mu_jax as mu
from mu_jax.service import Ledger, Statement, certificates, keys

PEOPLE = 6
ROWS = 2 * PEOPLE
TABLE = mu.id_table(
    [f"row {n}" for n in range(ROWS)],
    index=range(ROWS),
    user=[f"u_{n // 2}" for n in range(ROWS)],
)


class Folder:
    """What the processes leave beside the ledger: what they were told, and what they published."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def hear(self, **said) -> None:
        """Write down what a call has answered."""
        with open(self.path / "heard.jsonl", "ab", buffering=0) as file:
            file.write(json.dumps(said).encode() + b"\n")

    def heard(self) -> list[dict]:
        path = self.path / "heard.jsonl"
        return list(map(json.loads, path.read_text().splitlines())) if path.exists() else []

    def publish(self, run: int, ids: list[int]) -> None:
        """The result of a run, once: whoever comes later finds it, for the same ids."""
        path = self.path / f"run-{run}.json"
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            if (text := path.read_text()) and json.loads(text) != ids:
                raise AssertionError(f"run {run} forgot {text} and then {ids}") from None
            file = os.open(path, os.O_WRONLY)
        os.write(file, json.dumps(ids).encode())
        os.close(file)

    def published(self, run: int) -> list[int]:
        return json.loads((self.path / f"run-{run}.json").read_text())


def tell(ledger: Ledger, folder: Folder, point) -> None:
    """The story."""
    ledger.enroll(TABLE)
    point()
    for number in range(PEOPLE):
        key = f"ticket {number}"
        found = ledger.accept(f"user:u_{number}", key=key)
        folder.hear(accepted=found.number, key=key)
        point()
    if ledger.request(2).state == "accepted":
        ledger.refuse(2, "there is a law against it")
        folder.hear(refused=2)
        point()
    with ledger.worker(wait=True) as worker:
        point()
        while work := worker.start(parent=1, most=2):
            point()
            folder.publish(work.run, work.forget.tolist())
            point()
            if work.run == 1:
                worker.put_back(work, "it was not good enough")
                folder.hear(put_back=work.run)
            else:
                certificate = issue(ledger, folder, work)
                worker.finish(work, version=work.run, certificate=certificate)
                folder.hear(finished=work.run, requests=[one.number for one in work.requests])
            point()


def issue(ledger: Ledger, folder: Folder, work) -> bytes:
    path = folder.path / "operator.pem"
    if not path.exists():
        keys.make_key(path)
    statement = Statement(
        asked=work.requests,
        forgotten=work.forget,
        method="ssd",
        aim="removal",
        parameters={},
        parent=work.parent,
        version=work.run,
    )
    key, previous = keys.read_key(path), ledger.last_certificate()
    return certificates.issue(key, statement, previous=previous, operator="ACME")


def check(ledger: Ledger, folder: Folder, *, ended: bool) -> None:
    """What must hold at any moment, and at the end."""
    found, heard = ledger.requests(), folder.heard()
    assert [each.number for each in found] == list(range(1, len(found) + 1))
    told = {one["key"]: one["accepted"] for one in heard if "accepted" in one}
    assert len(found) <= len(told) + 1, (len(found), told)
    for key, number in told.items():
        assert ledger.request(number).key == key, "an accepted request was lost"
    for one in heard:
        for number in one.get("requests", ()):
            assert ledger.request(number).state == "done", one
        if "refused" in one:
            assert ledger.request(one["refused"]).state == "refused"
    for each in found:
        states = [event.state for event in ledger.events(each.number)]
        assert states[0] == "accepted" and states[-1] == each.state
        assert states.count("done") <= 1 and states.count("refused") <= 1, states
    assert len({each.run for each in found if each.state == "pending"}) <= 1
    check_runs(ledger, folder)
    if ended:
        counts = {"accepted": 0, "pending": 0, "done": PEOPLE - 1, "refused": 1}
        assert ledger.counts() == counts, ledger.counts()
        assert ledger.forgotten().tolist() == [n for n in range(ROWS) if n not in (2, 3)]


def check_runs(ledger: Ledger, folder: Folder) -> None:
    """No example was forgotten by two runs, and every finished run has its certificate."""
    runs = sorted({each.run for each in ledger.requests("done")})
    ids = list(itertools.chain.from_iterable(folder.published(run) for run in runs))
    assert sorted(ids) == ledger.forgotten().tolist(), ids
    chain = ledger.certificates()
    versions = [one.record["done"]["version"] for one in certificates.verify(chain)] if runs else []
    assert versions == runs and len(chain) == len(runs), (versions, runs)


def listen(point) -> None:
    """Call `point` at every statement and commit."""
    event.listen(Engine, "before_cursor_execute", lambda *_: point())
    event.listen(Engine, "after_cursor_execute", lambda *_: point())
    event.listen(Engine, "commit", lambda *_: point())


def fork(work) -> int:
    """What became of a forked process: 0, the number of its signal below 0, or a failure."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def story(where: str, folder: Folder, *, until: int | None = None, counted=None):
    """Tell the story; killed at a point, or whole with checks before and after."""

    def work() -> None:
        number = itertools.count(1)

        def point() -> None:
            now = next(number)
            if now == until:
                os.kill(os.getpid(), signal.SIGKILL)

        if until is not None or counted is not None:
            listen(point)
        with Ledger(where) as ledger:
            point()
            if until is None and counted is None:
                check(ledger, folder, ended=False)
            tell(ledger, folder, point)
            if counted is not None:
                os.write(counted, str(next(number) - 1).encode())
            if until is None:
                check(ledger, folder, ended=True)

    return work


def count(tell) -> int:
    """How many points a story has; `tell(until=..., counted=...)` makes a process of it."""
    read, write = os.pipe()
    assert wait(fork(tell(counted=write))) == 0
    os.close(write)
    return int(os.read(read, 99))


def afresh(where: str, name: str) -> str:
    """The address of a new ledger: a file beside, or a database of the server."""
    if not where.startswith("postgresql"):
        return f"{where}/{name}.db"
    engine = sqlalchemy.create_engine(where, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f'CREATE DATABASE "{name}"')
    engine.dispose()
    return f"{where.rpartition('/')[0]}/{name}"


def killed_at(tell, point: int) -> None:
    code = wait(fork(tell(until=point)))
    assert code == -signal.SIGKILL, f"point {point}: {code}"
    assert wait(fork(tell())) == 0, f"after a death at point {point}"


def killed_at_random(tell, moments: random.Random, longest: float) -> int:
    """Kill a story up to four times, each within `longest` seconds; how often it was alive then."""
    deaths = 0
    for _ in range(4):
        child = fork(tell(until=-1))
        time.sleep(moments.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        deaths += wait(child) == -signal.SIGKILL
    assert wait(fork(tell())) == 0, "after deaths at random"
    return deaths


def kill(told, what: str, numbers: list[int]) -> None:
    """What a command line asks for: `told(name)` is a story in a place of its own.

    Moments lie in the first half of the time that a whole story takes here and now: one that was
    killed has less left to tell.
    """
    if what == "count":
        print(count(told("count")))
    elif what == "at":
        for number in numbers:
            killed_at(told(f"at_{number}"), number)
    else:
        moments, began = random.Random(numbers[0]), time.monotonic()
        count(told("timed"))
        longest = (time.monotonic() - began) / 2
        names = (f"random_{number}" for number in range(numbers[1]))
        print(sum(killed_at_random(told(name), moments, longest) for name in names))


def main(where: str, root: Path, what: str, numbers: list[int]) -> None:
    def told(name: str):
        return functools.partial(story, afresh(where, name), Folder(root / name))

    kill(told, what, numbers)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], list(map(int, sys.argv[4:])))
