"""A writer that dies at any request to the object store leaves what readers can use."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax import _objects as objects
from mu_jax.store import Store, _bucket, latest_state, pointers, save_state

pytestmark = pytest.mark.slow
LIKE = {"w": jnp.zeros(3)}


class Killed(BaseException):
    """No handler of the library knows it: nothing runs after it, as after a kill."""


class Deadline:
    """Ends the process, so to say, at the n-th request to the object store."""

    def __init__(self, patch, requests):
        self.left = requests
        for name in ("_blob", "_list"):
            patch.setattr(objects, name, self.counted(getattr(objects, name)))

    def counted(self, function):
        def call(*args, **options):
            self.left -= 1
            if self.left < 0:
                raise Killed
            return function(*args, **options)

        return call


def filled(value):
    return {"w": jnp.full(3, value)}


def publish(store, value):
    return store.publish(filled(value), method="m", note=str(value), forgotten=[int(value)])


def begun(bucket):
    store = Store(bucket)
    for value in (1.0, 2.0, 3.0):
        store.swap(publish(store, value))
    return store


def assert_sound(store):
    history = store.history()
    assert [each.version for each in history] == list(range(1, len(history) + 1))
    for each in history:
        assert store.forgotten(each.version).tolist() == [int(float(each.note))]
        if each.restorable:
            restored = store.restore(each.version, like=LIKE)["w"]
            np.testing.assert_array_equal(restored, float(each.note))
    restorable = {each.version for each in history if each.restorable}
    pointer = pointers.read_pointer(store._pointer)
    assert {pointer["version"], pointer["previous"]} - {None} <= restorable


ACTIONS = {
    "publish": lambda store: publish(store, 4.0),
    "swap": lambda store: store.swap(1),
    "roll_back": lambda store: store.roll_back(),
    "prune": lambda store: store.prune(keep=0),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_killed_at_every_request(bucket, monkeypatch, name):
    action, points, finished = ACTIONS[name], 0, False
    while not finished:
        store = begun(f"{bucket}/{points}")
        before = (len(store.history()), store.serving())
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            Deadline(patch, points)
            action(store)
            finished = True
        assert_sound(store)
        after = (len(store.history()), store.serving())
        assert after in (before, {"publish": (4, 3), "swap": (3, 1), "roll_back": (3, 2)}.get(name))
        again = Store(store.directory)
        again.swap(publish(again, 5.0))  # a later writer is not held up
        again.prune(keep=0)
        assert_sound(again)
        if name == "publish":
            monkeypatch.setattr(_bucket, "_DAY", 0.0)
            publish(again, 6.0)
            versions = objects.children(again.directory / "versions")
            assert len(versions[0]) == len(versions[1])
        points += 1
    print(f"{name}: {points - 1} points")
    assert points > 5


def test_a_run_killed_at_every_request_resumes_from_a_whole_state(bucket, monkeypatch):
    points, finished = 0, False
    while not finished:
        place = f"{bucket}/{points}"
        save_state(place, 1, filled(1.0))
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            Deadline(patch, points)
            save_state(place, 2, filled(2.0))
            finished = True
        found = latest_state(place, LIKE)
        np.testing.assert_array_equal(found.tree["w"], float(found.step))
        save_state(place, 3, filled(3.0))
        assert latest_state(place, LIKE).step == 3
        points += 1
    print(f"save_state: {points - 1} points")
    assert points > 5


WRITER = textwrap.dedent(
    """
    import contextlib, sys
    import jax.numpy as jnp
    from mu_jax.store import Store

    store = Store(sys.argv[1])
    print("ready", flush=True)
    for _ in range(int(sys.argv[2])):
        value = 1.0 + store.history()[-1].version
        version = store.publish(
            {"w": jnp.full(3, value)}, method="m", note=str(value), forgotten=[int(value)]
        )
        store.swap(version)
        if version % 3 == 0:
            with contextlib.suppress(FileNotFoundError):  # the other one has rolled back
                store.roll_back()
        if version % 4 == 0:
            store.prune(keep=4)
    """
)


def start_writer(store, rounds):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, os.fspath(store.directory), str(rounds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout.readline() == b"ready\n"
    return process


def test_killed_at_any_moment(bucket):
    store, moments = begun(bucket), random.Random(0)
    for _ in range(4):
        process = start_writer(store, 1_000)
        published = len(store.history())
        while len(store.history()) == published:
            assert process.poll() is None
        time.sleep(moments.uniform(0.0, 1.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert_sound(store)
    assert publish(store, 1.0) == len(store.history())


def test_two_processes_publish_into_one_store(bucket):
    store = begun(bucket)
    processes = [start_writer(store, 6) for _ in range(2)]
    while any(process.poll() is None for process in processes):
        assert store.serving() is not None
    for process in processes:
        process.stdout.close()
    assert [process.returncode for process in processes] == [0, 0]
    assert [each.version for each in store.history()] == list(range(1, 16))
    assert_sound(store)
