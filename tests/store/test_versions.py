from __future__ import annotations

import datetime
import os
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.store.versions import Store


def filled(value: float) -> dict[str, Any]:
    return {"params": {"kernel": jnp.full((3, 4), value), "bias": jnp.full((4,), value)}}


def value_of(variables: Any) -> float:
    values = {float(v) for leaf in jax.tree.leaves(variables) for v in np.asarray(leaf).ravel()}
    assert len(values) == 1
    return values.pop()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.mark.parametrize(
    ("like", "sentence"),
    [
        (
            {"params": {"kernel": jnp.ones((3, 8)), "bias": jnp.ones(8)}},
            r"expected float32\[8\] at 'params/bias', found float32\[4\] in .*00000001; pass a",
        ),
        (
            {"params": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4), "scale": jnp.ones(4)}},
            r"expected float32\[4\] at 'params/scale', found no leaf",
        ),
        ({"params": {"bias": jnp.ones(4)}}, r"expected no leaf at 'params/kernel', found float32"),
        (
            {"params": {"kernel": jnp.ones((3, 4)), "bias": jax.random.key(0)}},
            r"expected key<fry>\[\] at 'params/bias', found float32\[4\]",
        ),
    ],
)
def test_another_architecture_is_refused_before_arrays_are_read(store, monkeypatch, like, sentence):
    import orbax.checkpoint as ocp

    version = store.publish(filled(1.0), method="train")
    monkeypatch.setattr(ocp.args, "StandardRestore", None)
    with pytest.raises(ValueError, match=sentence):
        store.restore(version, like=like)


NAN = {"params": {"kernel": jnp.ones(3), "bias": jnp.array([1.0, jnp.nan], jnp.bfloat16)}}


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"variables": NAN}, ValueError, r"found NaN or infinity at 'params/bias'"),
        ({"variables": {"x": np.array([np.inf])}}, ValueError, "found NaN or infinity at 'x'"),
        ({"variables": {"x": float("nan")}}, ValueError, "found NaN or infinity at 'x'"),
        ({"variables": {"x": jnp.ones(1), "y": "text"}}, ValueError, "found str at 'y'"),
        ({"variables": {"x": np.array(["text"])}}, ValueError, "found ndarray at 'x'"),
        ({"variables": {"nothing": None}}, ValueError, "at least one array to store"),
        (
            {"variables": {"a": {"b": jnp.ones(1)}, "a/b": jnp.ones(1)}},
            ValueError,
            "found two at 'a/b'",
        ),
        ({"metrics": {"accuracy": jnp.nan}}, ValueError, "expected metrics of finite numbers"),
        ({"hyperparameters": {"f": jnp.sin}}, ValueError, "expected hyperparameters of finite"),
        ({"forget_digest": b"ab12"}, ValueError, r"expected a record of .* found bytes"),
        ({"parent": 7}, FileNotFoundError, "expected a store of versions"),
    ],
)
def test_a_refused_version_leaves_nothing_behind(store, arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        store.publish(**{"variables": filled(1.0), "method": "train", **arguments})
    assert not store.directory.exists()


def test_history_and_lineage(store):
    store.publish(filled(1.0), method="train", metrics={"accuracy": jnp.float32(0.5)})
    store.publish(
        filled(2.0),
        parent=1,
        method="ssd",
        hyperparameters={"alpha": 2.0, "layers": np.arange(2)},
        forget_digest="ab12",
        note="request 7",
    )
    store.publish(filled(3.0), method="retrain")
    store.publish(filled(4.0), parent=2, method="finetune")
    store.swap(2)
    second = store.history()[1]
    created = datetime.datetime.fromisoformat(second.created)
    assert abs(datetime.datetime.now(datetime.UTC) - created) < datetime.timedelta(minutes=5)
    assert second._replace(created="") == (
        *(2, 1, "ssd", {"alpha": 2.0, "layers": [0, 1]}, "ab12", {}, "request 7", ""),
        *(True, True, None, "", None, None),
    )
    assert store.history()[0].metrics == {"accuracy": 0.5}
    assert [each.serving for each in store.history()] == [False, True, False, False]
    assert [each.version for each in store.lineage(4)] == [4, 2, 1]
    assert [each.version for each in store.lineage(3)] == [3]


def test_publishing_does_not_serve_and_swapping_does(store):
    assert (store.serving(), store.history()) == (None, [])
    assert [store.publish(filled(value), method="train") for value in (1.0, 2.0)] == [1, 2]
    assert store.serving() is None
    store.swap(1)
    store.swap(2)
    store.swap(2)
    assert (store.serving(), value_of(store.restore(like=filled(0.0)))) == (2, 2.0)
    assert store.roll_back() == 1
    assert (store.serving(), value_of(store.restore(like=filled(0.0)))) == (1, 1.0)
    with pytest.raises(FileNotFoundError, match="expected a previous version to roll back to"):
        store.roll_back()
    assert store.serving() == 1


def test_missing_things_are_named(store, tmp_path):
    for call in (
        lambda: store.restore(like=filled(0.0)),
        lambda: store.swap(1),
        lambda: store.roll_back(),
        lambda: store.lineage(1),
        lambda: store.prune(),
    ):
        with pytest.raises(FileNotFoundError, match=f"expected a store of versions in {tmp_path}"):
            call()
    assert not store.directory.exists()
    store.publish(filled(1.0), method="train")
    with pytest.raises(FileNotFoundError, match="expected a serving version"):
        store.restore(like=filled(0.0))
    for call in (lambda: store.swap(5), lambda: store.restore(5, like=filled(0.0))):
        with pytest.raises(FileNotFoundError, match=r"expected version 5 in .*, found versions 1;"):
            call()
    with pytest.raises(FileNotFoundError, match="expected version 5"):
        store.publish(filled(1.0), parent=5, method="ssd")
    assert len(store.history()) == 1


def test_prune_spares_serving_previous_newest_and_pinned(store):
    for value in range(1, 8):
        store.publish(filled(float(value)), parent=value - 1 or None, method="train")
    store.swap(2)
    store.swap(4)
    assert store.prune(keep=1, pinned=[1]) == [3, 5, 6]
    assert [each.version for each in store.history() if each.restorable] == [1, 2, 4, 7]
    assert [each.version for each in store.lineage(7)] == [7, 6, 5, 4, 3, 2, 1]
    for call in (lambda: store.restore(5, like=filled(0.0)), lambda: store.swap(5)):
        with pytest.raises(FileNotFoundError, match="name one of versions 1, 2, 4, 7"):
            call()
    assert store.prune(keep=0) == [1, 7]
    assert store.publish(filled(8.0), method="train") == 8
    assert (store.roll_back(), value_of(store.restore(like=filled(0.0)))) == (2, 2.0)


def test_relative_directory_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store("here")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.publish(filled(1.0), method="train")
    assert value_of(Store(tmp_path / "here").restore(1, like=filled(0.0))) == 1.0


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs the files behind descriptors")
def test_everything_is_synced_before_the_rename_that_shows_it(store, monkeypatch):
    synced: set[str] = set()
    renames: list[tuple[str, set[str]]] = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def record_sync(descriptor: int) -> None:
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def record_rename(move):
        def recorded(source, target):
            inside = {str(source), *(str(path) for path in Path(source).rglob("*"))}
            renames.append((Path(target).name, inside - synced))
            synced.clear()
            move(source, target)

        return recorded

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "rename", record_rename(rename))
    monkeypatch.setattr(os, "replace", record_rename(replace))
    store.publish(filled(1.0), method="train")
    assert [*renames[-2:]] == [("00000001", set()), ("NUMBERS", set())]
    assert synced == {str(store.directory)}
    store.swap(1)
    assert ("SERVING", set()) == renames[-1]
    assert synced == {str(store.directory)}


@pytest.mark.parametrize("stage", ["00000002.staging", "00000002"])
def test_a_failed_write_leaves_no_version_and_its_scrap_goes(store, monkeypatch, stage):
    rename = os.rename

    def fail_at_stage(source, target):
        if Path(target).name == stage:
            raise OSError("disk full")
        rename(source, target)

    store.publish(filled(1.0), method="train")
    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", fail_at_stage)
        with pytest.raises(OSError, match="disk full"):
            store.publish(filled(2.0), method="train")
    scrap = [path.name for path in (store.directory / "versions").iterdir()]
    assert len(scrap) == 2 and "00000002" not in scrap
    assert [each.version for each in store.history()] == [1]
    assert store.publish(filled(3.0), method="train") == 2
    names = {path.name for path in (store.directory / "versions").iterdir()}
    assert names == {"00000001", "00000002"}
    assert value_of(store.restore(2, like=filled(0.0))) == 3.0


def test_threads_publish_and_swap_while_others_read(store):
    store.swap(store.publish(filled(0.0), method="train", note="0"))
    errors: list[BaseException] = []
    done = threading.Event()

    def write(writer: int) -> None:
        for round_ in range(3):
            value = 10.0 * writer + round_
            own = Store(store.directory)
            own.swap(own.publish(filled(value), method="train", note=str(int(value))))

    def read() -> None:
        own = Store(store.directory)
        while not done.is_set():
            version = own.serving()
            note = own.lineage(version)[0].note
            assert value_of(own.restore(version, like=filled(0.0))) == float(note)

    def guarded(function, *arguments):
        try:
            function(*arguments)
        except BaseException as error:
            errors.append(error)

    writers = [threading.Thread(target=guarded, args=(write, number)) for number in (1, 2, 3)]
    reader = threading.Thread(target=guarded, args=(read,))
    for thread in (*writers, reader):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert errors == []
    history = store.history()
    assert [each.version for each in history] == list(range(1, 11))
    assert sorted(int(each.note) for each in history) == [0, 10, 11, 12, 20, 21, 22, 30, 31, 32]
