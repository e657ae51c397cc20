"""What people who delete are promised: ids, digests, the pointer and the numbers."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import mu_jax as mu
from mu_jax import _files as files
from mu_jax import datasets
from mu_jax.store.versions import Damaged, Overtaken, Store


def filled(value: float) -> dict:
    return {"w": jnp.full((16, 4), value), "b": jnp.full(4, value)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.swap(store.publish(filled(1.0), method="train"))
    return store


def test_what_an_ancestor_forgot_all_descendants_have_forgotten(store):
    store.publish(filled(2.0), parent=1, method="ssd", forgotten=np.array([9, 3, 2**40, -5]))
    store.publish(filled(3.0), parent=2, method="finetune", forgotten=[4, 3])
    store.publish(filled(4.0), parent=3, method="distill")
    assert store.forgotten(1).tolist() == store.forgotten().tolist() == []
    assert store.forgotten(2).tolist() == [-5, 3, 9, 2**40]
    assert store.forgotten(4).tolist() == [-5, 3, 4, 9, 2**40]
    assert store.forgotten(4).dtype == np.int64
    assert [each.num_forgotten for each in store.history()] == [0, 4, 5, 5]
    assert store.history()[2].forget_digest == datasets.digest([3, 4])
    store.prune(keep=0)
    assert store.forgotten(2).tolist() == [-5, 3, 9, 2**40]


def test_a_split_leaves_out_what_is_forgotten(store):
    examples = mu.batches(np.ones((6, 1)), np.arange(6), batch_size=2)
    store.publish(filled(2.0), parent=1, method="ssd", forgotten=[1, 2])
    forget, retain = store.split(examples, [2, 3], version=2)
    assert (forget.index.tolist(), retain.index.tolist()) == ([3], [0, 4, 5])
    forget, retain = store.split(examples, [2, 3])
    assert (forget.index.tolist(), retain.index.tolist()) == ([2, 3], [0, 1, 4, 5])
    with pytest.raises(ValueError, match="not forgotten yet, found that all 2 are"):
        store.split(examples, [2, 1], version=2)


def test_where_only_a_digest_was_kept_the_ids_are_not_guessed(store):
    store.publish(filled(2.0), parent=1, method="ssd", forget_digest="ab12")
    store.publish(filled(3.0), parent=2, method="ssd")
    for version in (2, 3):
        with pytest.raises(
            ValueError, match=r"version 2 .* has forgotten, found only their digest"
        ):
            store.forgotten(version)
    with pytest.raises(ValueError, match="found only their digest"):
        store.publish(filled(3.0), parent=3, method="ssd", forgotten=[1])
    with pytest.raises(ValueError, match="expected integer example ids"):
        store.publish(filled(3.0), method="ssd", forgotten=[1.5])
    assert len(store.history()) == 3


def test_records_of_an_earlier_layout_are_read(store):
    folder = store.directory / "versions/00000001"
    (folder / "DIGESTS.json").unlink()
    (folder / "forgotten.npy").unlink()
    path = folder / "metadata/metadata"
    record = json.loads(path.read_text())
    for name in ("withheld", "identity", "num_forgotten", "digests"):
        del record[name]
    path.write_text(json.dumps(record))
    assert store.history()[0].num_forgotten is None
    assert store.forgotten(1).tolist() == []
    assert float(store.restore(like=filled(0.0))["b"][0]) == 1.0


def test_every_flipped_bit_is_noticed_and_the_intact_ancestor_named(store):
    store.publish(filled(2.0), parent=1, method="ssd", forgotten=[1])
    arrays = [
        path for path in (store.directory / "versions/00000002/arrays").rglob("*") if path.is_file()
    ]
    draw = random.Random(0)
    for path in arrays * 3:
        good = path.read_bytes()
        if not good:
            continue
        bad = bytearray(good)
        bad[draw.randrange(len(bad))] ^= 1 << draw.randrange(8)
        path.write_bytes(bad)
        with pytest.raises(Damaged, match=r"00000002 as .* version 1, its newest intact ancestor"):
            store.restore(2, like=filled(0.0))
        path.write_bytes(good)
    assert float(store.restore(2, like=filled(0.0))["b"][0]) == 2.0


def flip_one_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "name", ["arrays/d/*", "leaves/*", "metadata/*", "forgotten.npy", "DIGESTS.json"]
)
def test_a_damaged_version_does_not_come_to_serve(store, name):
    store.swap(1)
    store.publish(filled(2.0), parent=1, method="ssd", forgotten=[1])
    store.swap(2)
    store.swap(store.publish(filled(3.0), parent=1, method="ssd"))
    flip_one_bit(next(path for path in (store.directory / "versions/00000002").glob(name)))
    pointer = (store.directory / "SERVING").read_bytes()
    for serve in (lambda: store.swap(2), lambda: store.swap(2, expected=3), store.roll_back):
        with pytest.raises(
            Damaged, match=r"00000002.*; version 1, its newest intact ancestor, can"
        ):
            serve()
        assert (store.directory / "SERVING").read_bytes() == pointer
    store.swap(1)
    assert store.serving() == 1


@pytest.mark.parametrize("name", ["forgotten.npy", "metadata/metadata", "DIGESTS.json"])
def test_damage_beside_the_arrays_is_noticed(store, name):
    store.publish(filled(2.0), parent=1, method="ssd", forgotten=[1])
    path = store.directory / "versions/00000002" / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Damaged, match="00000002"):
        store.forgotten(2)


def test_lost_digests_are_noticed(store):
    store.publish(filled(2.0), parent=1, method="ssd", forgotten=[1])
    (store.directory / "versions/00000002/DIGESTS.json").unlink()
    said = r"as its record promises, found no DIGESTS\.json"
    with pytest.raises(Damaged, match=f"{said}; version 1, its newest intact ancestor"):
        store.restore(2, like=filled(0.0))
    for call in (store.forgotten, store.lineage):
        with pytest.raises(Damaged, match=said):
            call(2)
    assert float(store.restore(1, like=filled(0.0))["b"][0]) == 1.0


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"number": 1e999, "files": {}, "highest": 1e999}', "9" * 5000, "null"],
    ids=["nested too deep", "infinite", "too many digits", "nothing"],
)
def test_json_that_no_reader_takes_is_damage(store, text):
    store.publish(filled(2.0), parent=1, method="ssd", forgotten=[1])
    folder = store.directory / "versions/00000002"
    (folder / "DIGESTS.json").write_text(text)
    with pytest.raises(Damaged, match=r"DIGESTS\.json unreadable; version 1, its newest intact"):
        store.restore(2, like=filled(0.0))
    (store.directory / "NUMBERS").write_text(text)
    assert store.publish(filled(3.0), parent=1, method="ssd") == 3
    (folder / "DIGESTS.json").unlink()
    if not text.startswith("{"):  # which is a record that promises no digests
        (folder / "metadata/metadata").write_text(text)
        with pytest.raises(Damaged, match="metadata/metadata unreadable"):
            store.restore(2, like=filled(0.0))


def test_a_version_with_a_reason_not_to_serve_does_not_serve(store):
    collapsed = "it answers class 5 for all retained examples"
    store.publish(filled(0.0), parent=1, method="ssd", withheld=collapsed)
    with pytest.raises(ValueError, match=f"version 2 was withheld, since {collapsed}; make"):
        store.swap(2, expected=1)
    assert store.serving() == 1
    store.swap(2, expected=1, anyway=True)
    assert store.serving() == 2


def test_a_version_is_found_by_its_identity_if_it_is_intact(store):
    assert store.find("ab") is None
    for value in (2.0, 3.0):
        store.publish(filled(value), parent=1, method="ssd", identity="ab")
    store.publish(filled(4.0), parent=1, method="ssd", identity="cd")
    assert store.find("ab") == 3
    (store.directory / "versions/00000003/DIGESTS.json").unlink()
    assert (store.find("ab"), store.find("cd"), store.find("ef")) == (2, 4, None)
    store.prune(keep=2)
    assert store.find("ab") is None and Store(store.directory / "none").find("ab") is None


def test_the_arrays_of_another_version_are_refused(store):
    store.publish(filled(2.0), parent=1, method="ssd")
    versions = store.directory / "versions"
    shutil.rmtree(versions / "00000002/arrays")
    shutil.copytree(versions / "00000001/arrays", versions / "00000002/arrays")
    with pytest.raises(Damaged, match="of another SHA-256"):
        store.restore(2, like=filled(0.0))
    shutil.rmtree(versions / "00000002")
    shutil.copytree(versions / "00000001", versions / "00000002")
    with pytest.raises(Damaged, match="found those of 1"):
        store.restore(2, like=filled(0.0))


def test_of_two_requests_to_one_parent_the_second_does_not_serve(store):
    for value in (2.0, 3.0):
        store.publish(filled(value), parent=1, method="ssd")
    store.swap(2, expected=1)
    store.swap(2, expected=1)
    with pytest.raises(Overtaken, match=r"version 1 still serves in .*, found version 2; make"):
        store.swap(3, expected=1)
    with pytest.raises(Overtaken, match="no version still serves"):
        store.swap(3, expected=None)
    assert store.serving() == 2
    store.swap(3, expected=2)
    assert (store.serving(), store.roll_back()) == (3, 2)


def test_of_two_operators_the_second_does_not_take_back_what_the_first_one_serves(store):
    for value in (2.0, 3.0):
        store.publish(filled(value), parent=1, method="ssd")
    store.swap(2)
    with pytest.raises(Overtaken, match=r"version 3 still serves in .*, found version 2; look at"):
        store.roll_back(expected=3)
    store.swap(3)  # the other operator's
    for expected, said in ((2, "version 2"), (None, "no version")):
        with pytest.raises(Overtaken, match=f"{said} still serves in .*, found version 3; look at"):
            store.roll_back(expected=expected)
    assert store.serving() == 3 and store.withdrawn() == []
    assert (store.roll_back(expected=3), store.serving()) == (2, 2)


def test_what_somebody_went_back_from_is_withdrawn_until_a_person_serves_it_again(store):
    for parent in (1, 2, 3):
        store.publish(filled(float(parent + 1)), parent=parent, method="ssd")
    root = store.publish(filled(5.0), method="retrain")
    for version in (2, 3):
        store.swap(version, expected=version - 1)
        assert store.withdrawn() == []
    store.roll_back()
    assert store.withdrawn() == [3]
    store.swap(4)
    store.prune(keep=9)
    assert store.withdrawn() == [3]  # nobody went back
    store.swap(1)  # over 2 and 3, of which 4 was made
    assert store.withdrawn() == [2, 3, 4]
    store.swap(3)
    assert store.withdrawn() == [2, 4]
    store.swap(root)
    store.swap(3)
    assert store.withdrawn() == [2, 4, 5] and store.roll_back() == 5
    assert store.withdrawn() == [2, 4] and Store(store.directory / "none").withdrawn() == []


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"version": "1"}', "[" * 100_000])
def test_a_damaged_pointer_is_named_and_repaired_by_swap(store, text):
    pointer = store.directory / "SERVING"
    pointer.write_text(text)
    for call in (store.serving, store.history, store.roll_back, store.prune):
        with pytest.raises(Damaged, match="found the file damaged; call swap"):
            call()
    store.swap(1)
    assert store.serving() == 1


def test_a_lineage_with_a_cycle_is_a_sentence(store):
    folder = store.directory / "versions/00000001"
    path = folder / "metadata/metadata"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"parent": 1, "digests": False}))
    (folder / "DIGESTS.json").unlink()
    with pytest.raises(ValueError, match="version 1 descends from itself"):
        store.lineage(1)


@pytest.mark.parametrize("make", [lambda p, t: p.write_text("x"), lambda p, t: p.symlink_to(t)])
def test_a_file_or_link_of_the_staging_name_does_not_block(store, tmp_path, make):
    target = tmp_path / "outside"
    target.mkdir()
    make(store.directory / "versions/00000002.staging", target)
    assert store.publish(filled(2.0), method="train") == 2
    assert list(target.iterdir()) == []


def test_a_link_of_a_temporary_name_is_not_followed(store, tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("kept")
    (store.directory / ".SERVING.tmp").symlink_to(outside)
    store.swap(store.publish(filled(2.0), method="train"))
    assert outside.read_text() == "kept"
    (store.directory / "SERVING").unlink()
    (store.directory / "SERVING").symlink_to(outside)
    store.swap(1)
    assert outside.read_text() == "kept" and store.serving() == 1


def test_numbers_are_never_given_twice(store):
    assert store.publish(filled(2.0), method="train") == 2
    shutil.rmtree(store.directory / "versions/00000002")
    assert store.publish(filled(3.0), method="train") == 3
    (store.directory / "versions/00000004").write_text("not a version")
    assert store.publish(filled(3.0), method="train") == 5
    assert [each.version for each in store.history()] == [1, 3, 5]


def test_temporary_files_of_dead_writers_go_and_those_of_live_ones_stay(tmp_path):
    dead = tmp_path / ".m.npz.0123456789abcdef"
    dead.write_text("scrap")
    with files.replacing(tmp_path / "m.npz") as first:
        first.write(b"first")
        with files.replacing(tmp_path / "m.npz") as second:
            second.write(b"second")
        assert (tmp_path / "m.npz").read_bytes() == b"second" and not dead.exists()
    assert (tmp_path / "m.npz").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["m.npz"]


def test_working_folders_of_dead_processes_go(tmp_path):
    old, new = tmp_path / ".preparing-0123456789", tmp_path / ".preparing-abcdefghij"
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (0, 0))
    with files.working_folder(tmp_path, ".preparing-") as ours:
        left = tmp_path / ".preparing-9876543210"
        shutil.copytree(ours, left)  # its lock is free
        with files.working_folder(tmp_path, ".preparing-"):
            assert ours.is_dir() and new.is_dir() and not old.exists() and not left.exists()


def test_a_lock_that_is_held_is_a_sentence(tmp_path):
    with (
        files.exclusive(tmp_path),
        pytest.raises(BlockingIOError, match="another process works there"),
        files.exclusive(tmp_path, wait=False),
    ):
        pass
    with files.exclusive(tmp_path, wait=False):
        pass
