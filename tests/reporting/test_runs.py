"""Runs on disk: what is written comes back, and what is no run is refused in one sentence."""

from __future__ import annotations

import dataclasses
import os

import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax import reporting
from mu_jax.reporting import (
    Arrays,
    Curve,
    Edits,
    Examples,
    ForgetSet,
    Histogram,
    Record,
    Run,
    Shown,
    Similarity,
)

KIND = "id:a/b%2F c"


def examples(seed: int, n: int, **fields) -> Examples:
    random = np.random.default_rng(seed)
    losses = random.gumbel(size=(3, n)).astype(np.float32)
    values = {"margins": -losses, "predictions": random.integers(0, 9, (3, n))}
    return Examples(np.arange(n), random.integers(0, 9, n), losses, **(values | fields))


def whole_run() -> Run:
    share = np.linspace(0, 1, 6, dtype=np.float32).reshape(3, 2)
    names = ("block/0", "head")
    first = Arrays(
        examples={
            "retrain": {"forget": examples(0, 4), "test": examples(1, 6)},
            "ssd/2: 100%": {"forget": examples(2, 4, margins=None, predictions=None)},
        },
        similarity={"ssd/2: 100%": {"retain": Similarity(names, share, -share, *share[:2])}},
        edits={
            "ssd/2: 100%": Edits(names, np.array([4, 9]), share, share, None),
            "iau": Edits(names, np.array([4, 9]), share, share, share),
        },
        ratios={"ssd/2: 100%": Histogram(np.arange(4.0), np.arange(3.0), 2.5, "ratio / 1")},
        relearning={"iau": Curve(np.arange(2.0), share, "accuracy")},
        shown=Shown(np.arange(2), "text", np.array(["ein Wort", "日本 / 語"])),
        others={"a/b": np.arange(3)},
    )
    image = Shown(np.arange(1), "image", np.zeros((1, 2, 2, 1), np.uint8))
    second = Arrays({"retrain": {"forget": examples(3, 5)}}, shown=image)
    records = (
        Record("retrain", ForgetSet(KIND, 4), 0),
        Record("iau", ForgetSet("class:3", 5), 1, arrays={"sums": "sums.npz"}),
    )
    return Run(records, {KIND: first, "class:3": second}, "0a1b")


def assert_same(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert_same(found[name], value)
    elif dataclasses.is_dataclass(expected):
        for field in dataclasses.fields(expected):
            assert_same(getattr(found, field.name), getattr(expected, field.name))
    elif isinstance(expected, tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected):
            assert_same(one, other)
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    else:
        assert found == expected


def test_a_run_comes_back_as_it_was_in_two_files(tmp_path):
    run = whole_run()
    reporting.write_run(tmp_path / "deep/results.jsonl", run)
    found = reporting.read_run(tmp_path / "deep/results.jsonl")
    assert_same(dict(found.arrays), dict(run.arrays))
    assert found.digest == "0a1b"
    assert [record.config_hash for record in found.records] == ["0a1b", "0a1b"]
    assert found.records[1].arrays == {"sums": "sums.npz", "examples": "results.npz"}
    without = [dataclasses.replace(r, arrays={}, config_hash="") for r in found.records]
    assert without[0] == run.records[0]
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == [
        "results.jsonl",
        "results.npz",
    ]


def test_keys_of_the_file_are_words_for_people(tmp_path):
    reporting.write_run(tmp_path / "results.jsonl", whole_run())
    with np.load(tmp_path / "results.npz") as file:
        assert "class:3/examples/retrain/forget/losses" in file.files
        assert file["digest"] == "0a1b"


def test_targets_that_are_trees_come_back_by_path_and_odd_types_as_numbers(tmp_path):
    tree = {"tokens": np.arange(6).reshape(2, 3), "deep": (np.ones(2), {"mask": np.zeros(2)})}
    losses = jnp.ones((1, 2), jnp.bfloat16)
    arrays = Arrays({"a": {"forget": Examples(np.arange(2), tree, losses, None, None)}})
    reporting.write_run(tmp_path / "r.jsonl", Run((record(),), {"x": arrays}))
    found = reporting.read_run(tmp_path / "r.jsonl").arrays["x"].examples["a"]["forget"]
    assert sorted(found.targets) == ["deep/0", "deep/1/mask", "tokens"]
    np.testing.assert_array_equal(found.targets["tokens"], tree["tokens"])
    assert found.losses.dtype == np.float32 and found.margins is None


def record(**fields) -> Record:
    return Record("a", ForgetSet("x", 2), 0, **fields)


def test_a_run_without_arrays_is_records_alone(tmp_path):
    reporting.write_run(tmp_path / "r.jsonl", Run((record(),), digest="1f"))
    assert [path.name for path in tmp_path.iterdir()] == ["r.jsonl"]
    found = reporting.read_run(tmp_path / "r.jsonl")
    assert (
        not found.arrays and found.digest == "1f" and found.records == (record(config_hash="1f"),)
    )


def test_records_of_several_runs_in_one_file_have_the_arrays_of_all(tmp_path):
    for name in ("one", "two"):
        arrays = {name: Arrays({"a": {"forget": examples(0, 2)}})}
        reporting.write_run(tmp_path / f"{name}.jsonl", Run((record(),), arrays, name))
    text = "".join((tmp_path / f"{name}.jsonl").read_text() for name in ("one", "two"))
    (tmp_path / "both.jsonl").write_text(text)
    found = reporting.read_run(tmp_path / "both.jsonl")
    assert list(found.arrays) == ["one", "two"] and found.digest == ""


def test_nothing_is_written_of_what_the_files_cannot_hold(tmp_path):
    reporting.write_run(tmp_path / "r.jsonl", whole_run())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    objects = Arrays({}, others={"a": np.array([None, {}])})
    infinite = record(hyperparameters={"alpha": float("inf")})
    for run in (Run((record(),), {"x": objects}), Run((infinite,), {"x": Arrays({})})):
        with pytest.raises(ValueError, match=r"expected .*, found .*: "):
            reporting.write_run(tmp_path / "r.jsonl", run)
    with pytest.raises(ValueError, match=r"expected a path that ends in \.jsonl"):
        reporting.write_run(tmp_path / "r.json", whole_run())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_missing_a_foreign_and_another_runs_file_are_one_sentence(tmp_path):
    path = tmp_path / "results.jsonl"
    with pytest.raises(FileNotFoundError, match=r"expected a file of records at .*, found none"):
        reporting.read_run(path)
    reporting.write_run(path, whole_run())
    arrays = tmp_path / "results.npz"
    whole = arrays.read_bytes()
    arrays.unlink()
    with pytest.raises(FileNotFoundError, match=r"expected the arrays .*, found none: keep"):
        reporting.read_run(path)
    np.savez(arrays, losses=np.ones(3))
    with pytest.raises(ValueError, match=r"expected arrays of a run in .*, found another"):
        reporting.read_run(path)
    layouts = ({"x": np.ones(1)}, {"x/examples/a": np.ones(1)}, {"x/edits/a/sizes": np.ones(1)})
    for layout in (
        *layouts,
        {"x/examples/a/forget/ids/0": np.ones(1)},
        {"x/shown/ids": np.ones(1)},
    ):
        head = {"format": np.array("mu_jax arrays of a run 1"), "digest": np.array("")}
        np.savez(arrays, **head, number=np.array(1), **layout)
        with pytest.raises(ValueError, match=r"expected arrays of a run in .*, found another"):
            reporting.read_run(path)
    arrays.write_bytes(whole)
    reporting.write_run(tmp_path / "b/results.jsonl", dataclasses.replace(whole_run(), digest="2"))
    os.replace(tmp_path / "b/results.npz", arrays)
    with pytest.raises(ValueError, match=r"found those of a run of another configuration"):
        reporting.read_run(path)


def test_a_damaged_file_is_one_sentence_or_no_different(tmp_path):
    path, run = tmp_path / "results.jsonl", whole_run()
    reporting.write_run(path, run)
    arrays = tmp_path / "results.npz"
    whole, random = arrays.read_bytes(), np.random.default_rng(0)
    refused = 0
    for case in range(120):
        damaged = bytearray(whole)
        if case % 2:
            damaged = damaged[: int(random.integers(len(whole)))]
        else:
            damaged[int(random.integers(len(whole)))] ^= 1 << int(random.integers(8))
        arrays.write_bytes(damaged)
        try:
            found = reporting.read_run(path)
        except ValueError as error:
            assert str(error).startswith("expected arrays of a run in")
            refused += 1
        else:
            assert_same(dict(found.arrays), dict(run.arrays))
    assert refused > 60
