"""A reader that follows a store: every answer is of one version, and none fails."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import watched
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mu_jax import _files as files
from mu_jax.store import Store, commits
from mu_jax.store.versions import Damaged, Overtaken

PROGRAM = str(Path(watched.__file__))


@pytest.fixture
def store(tmp_path):
    """One that serves version 1."""
    store = Store(tmp_path / "store")
    watched.write(store, 1, 0.0)
    return store


def publish(store, number=2, **options):
    return store.publish(watched.variables(number), method="ssd", parent=1, **options)


def damage(store, version):
    """Flip the last byte of an array's file."""
    folder = commits.path_of(store._versions, version)
    name = next(n for n in files.below(folder) if n.startswith("arrays/d/"))
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def wait_for(what, seconds=30.0):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def test_swaps_and_roll_backs_are_followed_by_the_thread(store):
    with store.watch(like=watched.variables(0), every=0.01) as watch:
        assert watch.current().version == 1
        store.swap(publish(store))
        wait_for(lambda: watch.current().version == 2)
        assert float(watch.current().variables["layer_0"].max()) == 2
        store.roll_back()
        wait_for(lambda: watch.current().version == 1)
        assert watch.refused is None
    store.swap(2)
    assert watch.current().version == 1  # nobody looks any more
    assert watch.look().version == 2
    assert watch.current() is watch.look()  # number and variables are one reference


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_arrays_come_onto_the_mesh_of_the_reader(store, kind):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,), devices=jax.devices()[:4])
    rows = NamedSharding(mesh, PartitionSpec("data"))
    shapes = jax.eval_shape(watched.variables, 0)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows), shapes)
    watch = store.watch(like=like)
    total = jax.jit(lambda variables: sum(leaf.sum() for leaf in variables.values()))
    first = watch.current()
    assert {leaf.sharding for leaf in first.variables.values()} == {rows}
    store.swap(publish(store))
    second = watch.look()
    assert float(total(second.variables)) == 2 * float(total(first.variables))
    assert total._cache_size() == 1


def flip(store):
    store.swap(publish(store))
    damage(store, 2)


def tear(store):
    (store.directory / "SERVING").write_text('{"version": ')


def another_model(store):
    store.swap(store.publish({"other": jnp.ones(3)}, method="train"))


def lose(store):
    store.swap(publish(store))
    commits.discard(store._versions, 2, "arrays")


@pytest.mark.parametrize(
    ("happen", "version", "said"),
    [
        (flip, 2, "expected .*00000002 as it was written, found .* of another SHA-256"),
        (tear, None, "expected the number of the serving version in .*SERVING, found the file"),
        (another_model, 2, "expected float32.* at 'layer_0', found no leaf but other in"),
        (lose, 2, "expected the arrays of version 2 in .*, found only its record"),
    ],
)
def test_what_cannot_be_taken_up_never_serves(store, happen, version, said, caplog):
    watch = store.watch(like=watched.variables(0))
    happen(store)
    with caplog.at_level(logging.WARNING, "mu_jax.store.watching"):
        for _ in range(3):
            assert watch.look().version == 1
    assert watch.refused.version == version
    assert "\n" not in watch.refused.reason
    assert re.search(said, watch.refused.reason), watch.refused.reason
    (line,) = caplog.messages  # said once
    assert line == f"version 1 goes on: {watch.refused.reason}"
    store.swap(publish(store, 3))
    assert watch.look().version == store.serving() and watch.refused is None


def test_a_withheld_version_never_reaches_a_reader_unless_a_person_insists(store):
    withheld = "it has collapsed"
    with store.watch(like=watched.variables(0), every=0.01) as watch:
        publish(store, withheld=withheld)
        for arguments in ({}, {"expected": 1}):
            with pytest.raises(ValueError, match=f"version 2 was withheld, since {withheld}"):
                store.swap(2, **arguments)
            assert watch.look().version == store.serving() == 1 and watch.refused is None
        store.swap(publish(store, 3), expected=1)
        assert watch.look().version == 3
        with pytest.raises(ValueError, match=f"version 2 was withheld, since {withheld}"):
            store.swap(2)
        assert watch.look().version == 3 and store.roll_back() == 1 == watch.look().version
        store.swap(2, expected=1, anyway=True)
        assert watch.look().version == 2


def test_a_refused_version_is_read_again_after_a_while_only(store, monkeypatch):
    watch = store.watch(like=watched.variables(0), every=0.01)
    flip(store)
    tries = []
    restore = store.restore
    monkeypatch.setattr(store, "restore", lambda *a, **k: (tries.append(1), restore(*a, **k))[1])
    with watch:
        wait_for(lambda: watch.refused is not None)
        time.sleep(0.2)
    assert len(tries) == 1
    monkeypatch.setattr("mu_jax.store.watching._AGAIN", 0.0)
    with watch:
        watch.look()
        wait_for(lambda: len(tries) > 3)


def test_what_another_library_says_is_one_line_and_not_tried_at_every_look(store, monkeypatch):
    watch = store.watch(like=watched.variables(0), every=0.01)
    store.swap(publish(store))
    tries = []

    def read(*_):
        tries.append(1)
        raise RuntimeError(f"RESOURCE_EXHAUSTED: {len(tries)}\n" + "word " * 1000)

    monkeypatch.setattr(commits, "read", read)
    with watch:
        wait_for(lambda: watch.refused is not None)
        time.sleep(0.2)
    assert len(tries) == 1
    said = "expected to restore it, found RuntimeError: RESOURCE_EXHAUSTED: 1 word word"
    assert watch.refused.reason.startswith(said) and len(watch.refused.reason) < 600


def test_a_store_that_is_not_reached_for_a_while_is_followed_again(store, monkeypatch):
    watch = store.watch(like=watched.variables(0))
    store.swap(publish(store))
    with monkeypatch.context() as broken:
        broken.setattr(commits, "read", lambda *_: (_ for _ in ()).throw(OSError("no network")))
        assert watch.look().version == 1
        assert watch.refused.reason == "no network"
    assert watch.look().version == 2 and watch.refused is None


@pytest.mark.parametrize("damaged", [False, True])
def test_a_reader_that_swaps_and_a_prune_overtake_looks_again(store, monkeypatch, damaged):
    watch = store.watch(like=watched.variables(0))
    store.swap(publish(store))
    restore, overtaken = store.restore, []

    def overtaking(version, *, like):
        if not overtaken:
            overtaken.append(version)
            watched.write(store, 2, 0.0)
            commits.discard(store._versions, version, "arrays")
            if damaged:
                raise Damaged("half of its files were there")
        return restore(version, like=like)

    monkeypatch.setattr(store, "restore", overtaking)
    assert watch.look().version == 4 and watch.refused is None


def test_it_begins_with_a_version_or_not_at_all(tmp_path):
    empty = Store(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match=r"expected a version that serves in .*found none"):
        empty.watch(like=watched.variables(0))
    watched.write(empty, 1, 0.0)
    damage(empty, 1)
    with pytest.raises(Damaged):
        empty.watch(like=watched.variables(0))
    with pytest.raises(ValueError, match="every"):
        empty.watch(like=watched.variables(0), every=0.0)


def test_of_two_writers_one_is_told(store):
    second, third = publish(store), publish(store, 3)
    store.swap(second, expected=1)
    with pytest.raises(Overtaken, match="expected that version 1 still serves"):
        store.swap(third, expected=1)
    assert store.watch(like=watched.variables(0)).current().version == second


def test_arrays_of_all_kinds_come_as_they_are_in_like(tmp_path):
    """In the thread too, whose default precision and device are its own."""
    with jax.enable_x64(True), jax.default_device(jax.devices()[3]):
        like = {
            "wide": jnp.zeros(3, jnp.float64),
            "key": jax.random.key(7),
            "host": np.arange(4.0),
            "rate": 0.5,
            "placed": jax.device_put(jnp.ones(2), jax.devices()[1]),
        }
        store = Store(tmp_path)
        store.swap(store.publish(like, method="train"))
        with store.watch(like=like, every=0.01) as watch:
            changed = {**like, "wide": jnp.full(3, 1 + 1e-12), "key": jax.random.key(8)}
            store.swap(store.publish(changed, parent=1, method="ssd"))
            wait_for(lambda: watch.current().version == 2)
        found = watch.current().variables
    assert watch.refused is None
    assert float(found["wide"][0]) == 1 + 1e-12 and found["wide"].dtype == np.float64
    assert found["wide"].devices() == {jax.devices()[3]}
    assert found["placed"].devices() == {jax.devices()[1]}
    assert jax.random.key_data(found["key"])[1] == 8
    assert type(found["host"]) is np.ndarray and type(found["rate"]) is float


def check(found, *, last):
    assert found["mixed"] == [] and found["refused"] == []
    assert found["seen"] == sorted(set(found["seen"])), "a version came back"
    assert found["seen"][-1] <= last


def test_a_reader_beside_a_writer(store):
    writer = threading.Thread(target=watched.write, args=(store, 6, 0.05))
    writer.start()
    found = watched.read(store, 400, 0.002)
    writer.join()
    check(found, last=7)
    assert len(found["seen"]) > 1


def start(*arguments):
    command = [sys.executable, PROGRAM, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def load(directory, *, swaps, answers, seconds):
    """Two processes answer while a third one serves new versions, one a second."""
    readers = [start("reader", directory, answers, seconds) for _ in range(2)]
    writer = start("writer", directory, swaps, 1.0)
    try:
        ended = [process.communicate(timeout=600) for process in (*readers, writer)]
    finally:
        for process in (*readers, writer):
            process.kill()
    for process, (_, errors) in zip((*readers, writer), ended, strict=True):
        assert process.returncode == 0, errors[-2000:]
    return [json.loads(output) for output, _ in ended[:2]]


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_readers_under_load(store):
    for found in load(store.directory, swaps=20, answers=10_000, seconds=20):
        check(found, last=21)
        assert found["count"] == 10_000 and len(found["seen"]) > 5


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_readers_of_a_bucket(bucket):
    store = Store(bucket)
    watched.write(store, 1, 0.0)
    for found in load(bucket, swaps=8, answers=2_000, seconds=20):
        check(found, last=9)
        assert len(found["seen"]) > 2
