"""One process at a time holds a claim, on a disk and in a bucket; a dead one is in nobody's way."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from etils import epath
from test_bucket_crash import Deadline, Killed

from mu_jax import _files as files
from mu_jax import _objects as objects
from mu_jax._paths import absolute
from mu_jax.store import claims


class Memory:
    """A bucket in memory that keeps generations, in place of `mu_jax._objects`."""

    def __init__(self):
        self.found, self._lock, self._last = {}, threading.Lock(), 0

    def read(self, path):
        return self.found.get(os.fspath(path), (None, 0))[:2]

    def write(self, path, data, *, generation=None):
        with self._lock:
            if generation is not None and generation != self.read(path)[1]:
                return False
            self._last += 1
            self.found[os.fspath(path)] = (data, self._last, time.monotonic())
            return True

    def age(self, path):
        kept = self.found.get(os.fspath(path))
        return time.monotonic() - kept[2] if kept else 0.0

    def remove(self, path, *, generation):
        with self._lock:
            if generation == self.read(path)[1]:
                del self.found[os.fspath(path)]

    def delete(self, path):
        gone = (os.fspath(path), os.fspath(path) + "/")
        self.found = {k: v for k, v in self.found.items() if k != gone[0] and gone[1] not in k}

    def children(self, folder):
        start = os.fspath(folder) + "/"
        names = [name.removeprefix(start) for name in self.found if name.startswith(start)]
        folders = {name.split("/")[0] for name in names if "/" in name}
        return [name for name in names if "/" not in name], sorted(folders)


@pytest.fixture
def memory(monkeypatch):
    memory = Memory()
    for name in ("read", "write", "age", "remove", "delete", "children"):
        monkeypatch.setattr(objects, name, getattr(memory, name))
    monkeypatch.setattr(claims, "LEASE", 0.4)
    monkeypatch.setattr(claims, "BEAT", 0.02)
    return memory


@pytest.fixture(params=["disk", "bucket"])
def folder(request, tmp_path):
    if request.param == "disk":
        return tmp_path / "work"
    request.getfixturevalue("memory")
    return epath.Path("gs://bucket/work")


def put(folder, name):
    if files.in_bucket(folder):
        objects.write(folder / name, b"kept")
    else:
        files.replace_text(folder / name, "kept")


def test_a_second_one_is_refused_with_a_sentence_until_the_first_has_ended(folder):
    with claims.claimed(folder, "training") as claim:
        claim.require_held()
        with (
            pytest.raises(BlockingIOError, match="at a time for training, found that another one"),
            claims.claimed(folder, "training"),
        ):
            raise AssertionError("two at once")
        with claims.free(folder) as other:
            assert other is None
        with claims.free(folder.parent / "other") as other:
            assert other is not None and other.held()
    with contextlib.suppress(KeyError), claims.claimed(folder, "training") as claim:
        raise KeyError
    with claims.free(folder) as claim:
        assert claim is not None
    assert claim.names() == []


def test_of_many_at_once_one_holds_it(folder):
    inside, most, taken = [], [], []

    def work(number):
        with claims.free(folder) as claim:
            if claim is not None:
                inside.append(number)
                most.append(len(inside))
                time.sleep(0.005)
                inside.remove(number)
                taken.append(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(64)))
    assert set(most) == {1} and len(taken) == len(most) >= 1


def test_what_lies_beside_a_claim_is_cleared_and_the_claim_stays(folder):
    with claims.claimed(folder, "work") as claim:
        put(folder, "RUN.json")
        put(folder, "loop-0000/state")
        assert claim.names() == ["RUN.json", "loop-0000"] and claim.held()
        claim.clear()
        assert claim.names() == [] and claim.held()
    assert files.names(folder) == []


def test_of_several_that_see_no_claim_one_writes_it(memory, monkeypatch):
    gate, read = threading.Barrier(4), memory.read

    def together(path):
        found = read(path)
        gate.wait(5)
        return found

    def take(number):
        return claims._Lease(epath.Path("gs://bucket/work"), "").take()

    monkeypatch.setattr(objects, "read", together)
    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(take, range(4))) == [False, False, False, True]


def test_a_living_holder_renews_and_keeps_its_claim(memory):
    folder, said = epath.Path("gs://bucket/work"), []
    with claims.claimed(folder, "work") as claim:
        time.sleep(1.5 * claims.LEASE)
        with (
            pytest.raises(BlockingIOError, match="another one is at it"),
            claims.claimed(folder, "work", report=said.append),
        ):
            raise AssertionError("two at once")
        assert claim.held() and "if it was stopped, this one goes on in" in said[0]


def test_a_dead_holder_is_waited_for_and_then_taken_over(memory, monkeypatch):
    folder, begin = epath.Path("gs://bucket/work"), time.monotonic()
    with contextlib.ExitStack() as slow:
        monkeypatch.setattr(claims, "BEAT", 1e6)  # it stands still
        first = slow.enter_context(claims.claimed(folder, "work"))
        time.sleep(0.1)
        monkeypatch.setattr(claims, "BEAT", 0.02)
        with claims.free(folder) as other:
            assert other is None
        with claims.claimed(folder, "work") as second:
            assert time.monotonic() - begin >= claims.LEASE
            assert second.held() and not first.held()
            with pytest.raises(BlockingIOError, match="that another one took it over while"):
                first.require_held()
            put(folder, "state")
            first.clear()
            slow.close()  # the slow one wakes up, and gives back what it no longer has
            assert second.held() and second.names() == ["state"]
            second.clear()
    assert memory.found == {}


def test_a_damaged_claim_is_nobodys(memory):
    folder = epath.Path("gs://bucket/work")
    memory.write(folder / "CLAIM", b"[")
    with claims.claimed(folder, "work") as claim:
        assert claim.held()
        memory.write(folder / "CLAIM", b"{}")
        assert not claim.held()


@pytest.mark.slow
def test_killed_at_every_request_the_next_one_takes_over(bucket, monkeypatch):
    monkeypatch.setattr(claims, "LEASE", 0.2)
    monkeypatch.setattr(claims, "BEAT", 1e6)
    points, finished = 0, False
    while not finished:
        folder = absolute(f"{bucket}/{points}")
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            Deadline(patch, points)
            with claims.claimed(folder, "work") as claim:
                objects.write(folder / "loop-0000/state", b"kept")
                claim.require_held()
                claim.clear()
            finished = True
        with claims.claimed(folder, "work") as claim:
            assert claim.held() and set(claim.names()) <= {"loop-0000"}
            claim.clear()
        assert files.names(folder) == []
        points += 1
    print(f"claimed: {points - 1} points")
    assert points > 8


HOLDER = textwrap.dedent(
    """
    import sys, time
    from mu_jax._paths import absolute
    from mu_jax.store import claims

    claims.LEASE, claims.BEAT = 1.5, 0.3
    with claims.claimed(absolute(sys.argv[1]), "work"):
        print("held", flush=True)
        time.sleep(600)
    """
)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_a_process_that_lives_keeps_its_claim_and_a_killed_one_loses_it(
    request, tmp_path, monkeypatch, place
):
    where = tmp_path / "work" if place == "disk" else request.getfixturevalue("bucket") + "/work"
    monkeypatch.setattr(claims, "LEASE", 1.5)
    monkeypatch.setattr(claims, "BEAT", 0.3)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, os.fspath(where)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        end = time.monotonic() + 4
        while time.monotonic() < end:
            with pytest.raises(BlockingIOError), claims.claimed(absolute(where), "work"):
                raise AssertionError("two at once")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with claims.claimed(absolute(where), "work") as claim:
            assert claim.held()
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
