"""What a store, a run, records and requests promise on a disk holds in a bucket too."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_resuming import StopAfter, Stopped, data, several_loops

import mu_jax as mu
from experiments.corrective import keep_programs
from mu_jax import _objects as objects
from mu_jax import datasets, ensembles, reporting
from mu_jax._paths import absolute
from mu_jax.loops.scan import observe
from mu_jax.store import Store, _bucket, latest_state, save_state
from mu_jax.store.run_state import clear
from mu_jax.store.versions import Damaged, Overtaken

pytestmark = pytest.mark.slow
LIKE = {"w": jnp.zeros(3)}


def filled(value):
    return {"w": jnp.full(3, value)}


def names(bucket):
    return objects.below(absolute(bucket))


def test_versions_are_published_served_rolled_back_and_pruned(bucket):
    store = Store(bucket)
    assert store.history() == [] and store.serving() is None
    assert store.publish(filled(1.0), method="train") == 1
    store.swap(1)
    assert store.publish(filled(2.0), method="ssd", parent=1, forgotten=[7, 3]) == 2
    store.swap(2, expected=1)
    np.testing.assert_array_equal(store.restore(like=LIKE)["w"], 2.0)
    assert store.forgotten().tolist() == [3, 7] and store.forgotten(1).size == 0
    assert [each.version for each in store.lineage(2)] == [2, 1]
    assert store.roll_back() == 1
    with pytest.raises(FileNotFoundError, match="expected a previous version"):
        store.roll_back()
    assert store.prune(keep=0) == [2]
    assert [(v.version, v.serving, v.restorable) for v in store.history()] == [
        (1, True, True),
        (2, False, False),
    ]
    with pytest.raises(FileNotFoundError, match="since it was pruned; name one of versions 1"):
        store.swap(2)
    assert store.forgotten(2).tolist() == [3, 7]
    assert not [name for name in names(bucket) if "00000002." in name and "/arrays/" in name]
    assert Store(bucket).publish(filled(3.0), method="train") == 3


def test_an_object_of_other_bytes_is_not_restored(bucket):
    store = Store(bucket)
    store.publish(filled(1.0), method="train")
    store.swap(store.publish(filled(2.0), method="ssd", parent=1))
    stored = [n for n in names(bucket) if n.startswith("versions/00000002.") and "/arrays/d/" in n]
    data = objects.read(store.directory / stored[0])[0]
    objects.write(store.directory / stored[0], data[:-1] + bytes([data[-1] ^ 1]))
    said = "version 1, its newest intact ancestor, can serve"
    with pytest.raises(Damaged, match=said):
        store.restore(like=LIKE)
    store.swap(1)
    for serve in (lambda: store.swap(2), store.roll_back):
        with pytest.raises(Damaged, match=said):
            serve()
        assert store.serving() == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"folder": 3}', "[" * 100_000])
def test_an_object_that_names_no_folder_is_damage(bucket, text):
    store = Store(bucket)
    store.swap(store.publish(filled(1.0), method="train"))
    store.publish(filled(2.0), method="ssd", parent=1)
    objects.write(store.directory / "versions/00000002", text.encode())
    said = "00000002 to name the folder of its files, found it unreadable"
    for call in (lambda: store.restore(2, like=LIKE), lambda: store.swap(2)):
        with pytest.raises(Damaged, match=f"{said}; version 1, its newest intact ancestor"):
            call()
    for call in (store.history, lambda: store.forgotten(2), lambda: store.prune(keep=0)):
        with pytest.raises(Damaged, match=said):
            call()
    assert store.publish(filled(3.0), method="ssd", parent=1) == 3
    assert store.serving() == 1 and store.find("ab") is None


def test_of_two_swaps_from_one_parent_one_is_overtaken(bucket):
    store = Store(bucket)
    store.swap(store.publish(filled(1.0), method="train"))
    children = [store.publish(filled(2.0 + i), method="ssd", parent=1) for i in range(4)]
    gate = threading.Barrier(4)

    def swap(child):
        gate.wait()
        try:
            Store(bucket).swap(child, expected=1)
        except Overtaken:
            return None
        return child

    with ThreadPoolExecutor(4) as pool:
        won = [child for child in pool.map(swap, children) if child]
    assert len(won) == 1 and store.serving() == won[0]


def test_writers_at_once_get_numbers_of_their_own(bucket):
    with ThreadPoolExecutor(4) as pool:
        publish = lambda i: Store(bucket).publish(filled(float(i)), method="m", note=str(i))  # noqa: E731
        given = list(pool.map(publish, range(8)))
    assert sorted(given) == list(range(1, 9))
    store = Store(bucket)
    for i, version in enumerate(given):
        np.testing.assert_array_equal(store.restore(version, like=LIKE)["w"], float(i))
        assert store.history()[version - 1].note == str(i)


def test_a_prune_that_a_swap_overtakes_spares_the_version(bucket, monkeypatch):
    store = Store(bucket)
    for i in range(3):
        store.publish(filled(float(i)), method="m")
    store.swap(3)
    write, other = objects.write, Store(bucket)

    def overtaken(path, data, *, generation=None):
        if b'"pruned"' in data and b'"version": 3' in data and other.serving() == 3:
            monkeypatch.setattr(objects, "write", write)
            other.swap(1)  # prune has looked at the pointer, and is about to condemn 1 and 2
        return write(path, data, generation=generation)

    monkeypatch.setattr(objects, "write", overtaken)
    assert store.prune(keep=0) == [2]
    np.testing.assert_array_equal(store.restore(like=LIKE)["w"], 0.0)


def test_a_swap_that_a_prune_overtakes_is_refused(bucket, monkeypatch):
    store = Store(bucket)
    for i in range(3):
        store.publish(filled(float(i)), method="m")
    store.swap(3)
    write, other = objects.write, Store(bucket)

    def overtaken(path, data, *, generation=None):
        monkeypatch.setattr(objects, "write", write)
        assert other.prune(keep=0) == [1, 2]
        return write(path, data, generation=generation)

    monkeypatch.setattr(objects, "write", overtaken)
    with pytest.raises(FileNotFoundError, match="since it was pruned"):
        store.swap(1)
    assert store.serving() == 3


def test_a_run_resumes_bit_identically(bucket):
    whole = several_loops(data())
    for batches in (2, 5):
        place = f"{bucket}/{batches}"
        with (
            pytest.raises(Stopped),
            mu.resumable(place, config={"a": 1}, min_seconds=0),
            observe(StopAfter(batches)),
        ):
            several_loops(data())
        with pytest.raises(ValueError, match="of config"), mu.resumable(place, config={"a": 2}):
            several_loops(data())
        with mu.resumable(place, config={"a": 1}, min_seconds=0):
            again = several_loops(data())
        jax.tree.map(np.testing.assert_array_equal, whole, again)
        assert names(place) == []


def test_the_state_of_a_run_moves_on_and_keeps_one_copy(bucket):
    for step in (1, 5):
        save_state(bucket, step, filled(float(step)), {"config_digest": "x"})
    found = latest_state(bucket, LIKE)
    assert found.step == 5 and float(found.tree["w"][0]) == 5.0
    assert len({name.split("/")[1] for name in names(bucket)}) == 2  # the number and its folder
    with pytest.raises(ValueError, match="expected a step after 5"):
        save_state(bucket, 5, filled(1.0), {"config_digest": "x"})
    clear(bucket)
    assert latest_state(bucket, LIKE) is None and names(bucket) == []


def test_records_of_writers_at_once_are_all_kept(bucket):
    path = f"{bucket}/records.jsonl"
    forget = reporting.ForgetSet("class 3", 125)
    with ThreadPoolExecutor(4) as pool:
        write = lambda seed: reporting.append(path, reporting.Record("ssd", forget, seed=seed))  # noqa: E731
        list(pool.map(write, range(12)))
    assert sorted(record.seed for record in reporting.read(path)) == list(range(12))


def test_requests_margins_and_ensembles_are_kept(bucket):
    datasets.write_request(f"{bucket}/forget.csv", [9, 4, 4])
    assert datasets.read_request(f"{bucket}/forget.csv", index=np.arange(12)).tolist() == [4, 9]
    with pytest.raises(FileNotFoundError, match="found no file 'gs://"):
        datasets.read_request(f"{bucket}/none.csv", index=np.arange(12))
    margins = ensembles.Margins(np.eye(2, 3, dtype=np.float32), np.array([7, 8, 9]), forget="")
    ensembles.save_margins(f"{bucket}/m.npz", margins)
    np.testing.assert_array_equal(ensembles.load_margins(f"{bucket}/m.npz").values, np.eye(2, 3))
    calls = []

    def compute(numbers, x):
        calls.append(1)
        return numbers * x

    for _ in range(2):
        found = ensembles.stored(f"{bucket}/e", {"a": 1}, compute, 3, jnp.ones(()), block=2)
        np.testing.assert_array_equal(found, [0.0, 1.0, 2.0])
    assert len(ensembles.stored(f"{bucket}/e", {"a": 1}, compute, 5, jnp.ones(()), block=4)) == 5


def test_scrap_of_a_day_ago_goes_and_the_files_of_a_writer_at_work_stay(bucket, monkeypatch):
    store = Store(bucket)
    store.publish(filled(1.0), method="m")
    scrap = store.directory / "versions/00000002.0badc0de/arrays/d/x"
    objects.write(scrap, b"scrap")
    store.publish(filled(1.0), method="m")
    assert objects.exists(scrap)
    monkeypatch.setattr(_bucket, "_DAY", 0.0)
    store.publish(filled(1.0), method="m")
    assert not objects.exists(scrap)
    assert [each.restorable for each in store.history()] == [True] * 3


def test_a_write_whose_answer_was_lost_counts_as_made(bucket):
    path = absolute(f"{bucket}/x")
    assert objects.write(path, b"mine", generation=0)
    assert objects.write(path, b"mine", generation=0)  # repeated by the client, refused there
    assert not objects.write(path, b"other", generation=0)
    assert objects.read(path)[0] == b"mine"


def test_an_object_is_removed_on_condition_that_it_is_what_was_read(bucket, monkeypatch):
    path = absolute(f"{bucket}/x")
    objects.write(path, b"x")
    generation = objects.read(path)[1]
    assert 0 <= objects.age(path) < 60
    objects.remove(path, generation=generation)
    objects.remove(path, generation=generation)
    assert objects.read(path) == (None, 0) and objects.age(path) == 0
    exceptions, asked = pytest.importorskip("google.api_core.exceptions"), []

    class Changed:
        def delete(self, **conditions):
            asked.append(conditions)
            raise exceptions.PreconditionFailed("conditionNotMet")

    # The emulator deletes whatever the condition is; a bucket answers so.
    monkeypatch.setattr(objects, "_blob", lambda path: Changed())
    objects.remove(path, generation=7)
    assert asked == [{"if_generation_match": 7}]


def test_compiled_programs_are_kept(bucket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        keep_programs(absolute(f"{bucket}/programs"))
        assert jax.config.jax_compilation_cache_dir == f"{bucket}/programs"
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert list(tmp_path.iterdir()) == []
