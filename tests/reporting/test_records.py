from __future__ import annotations

import dataclasses
import fcntl
import json
from concurrent.futures import ThreadPoolExecutor

import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax import reporting
from mu_jax.reporting import Cost, ForgetSet, Metric, Oracle, Record

FORGET_SET = ForgetSet("class 3", 125, "ab12")


def full_record(seed=0):
    return Record(
        "ssd",
        FORGET_SET,
        seed,
        metrics={
            "retain accuracy": Metric(
                0.93, n=1075, stderr=0.008, oracle=Oracle(0.95, 0.94, 0.96), unit="fraction"
            ),
            "klom": Metric(2.2, n=100, null=0.35, direction="lower is better"),
            "relearn steps": reporting.missing("never reached the accuracy"),
        },
        hyperparameters={"alpha": 2.0, "definition": "per_example", "layers": [1, 2]},
        selection="fixed default",
        cost=Cost(forward=1200, backward=1200, wall_s=1.5, device="cpu"),
        arrays={"margins": "arrays/0.npz"},
        run_id="r1",
        config_hash="c1",
    )


def test_append_then_read_returns_the_same_records_in_order(tmp_path):
    path = tmp_path / "runs" / "records.jsonl"
    records = [full_record(seed) for seed in range(3)]
    for record in records:
        reporting.append(path, record)
    assert reporting.read(path) == records
    assert len(path.read_text().splitlines()) == 3


def test_a_line_has_the_fields_of_the_schema(tmp_path):
    values = json.loads(reporting.to_json(full_record()))
    assert set(values) == {
        *("schema", "run_id", "config_hash", "method", "hyperparameters", "selection"),
        *("forget_set", "seed", "cost", "metrics", "arrays", "status", "reason"),
    }
    assert set(values["forget_set"]) == {"kind", "size", "hash"}
    assert set(values["cost"]) == {
        *("forward", "backward", "wall_s", "compile_s", "precompute_s", "peak_bytes", "device")
    }
    metric = values["metrics"]["retain accuracy"]
    assert set(metric) == {
        *("value", "n", "stderr", "null", "oracle", "status", "reason", "direction", "unit"),
        *("low", "high"),
    }
    assert metric["oracle"] == {"mean": 0.95, "low": 0.94, "high": 0.96}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.float32("nan"), jnp.nan])
def test_nan_is_never_written_as_a_number(bad, tmp_path):
    metric = Metric(bad, n=10, stderr=bad, null=bad, oracle=Oracle(bad))
    assert metric.status == "missing" and metric.value is None
    assert metric.reason == f"the value was {float(bad)}"
    path = tmp_path / "records.jsonl"
    reporting.append(path, Record("ssd", FORGET_SET, 0, {"m": metric}, cost=Cost(wall_s=bad)))
    text = path.read_text()
    assert "NaN" not in text and "Infinity" not in text
    (record,) = reporting.read(path)
    assert record.metrics["m"] == metric and record.cost.wall_s is None


def test_scalars_of_arrays_become_python_numbers():
    record = Record(
        "ssd",
        FORGET_SET,
        np.int64(1),
        {"m": Metric(jnp.float32(0.5), n=np.int64(3))},
        hyperparameters={"alpha": jnp.float32(2.0), "steps": np.arange(2)},
    )
    values = json.loads(reporting.to_json(record))
    assert values["metrics"]["m"]["value"] == 0.5
    assert repr(record.metrics["m"].n) == "3"
    assert values["hyperparameters"] == {"alpha": 2.0, "steps": [0, 1]}


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Metric(None), "say why it is missing"),
        (lambda: Metric(0.5, status="missing", reason="?"), "no value and a reason"),
        (lambda: Metric("high"), "a number for metric.value"),
        (lambda: Metric(np.zeros(2)), "a number for metric.value"),
        (lambda: Metric(0.5, direction="up"), "expected a direction among closer to retrain"),
        (lambda: Record("ssd", FORGET_SET, 0, {"m": 0.5}), "expected a Metric for 'm'"),
        (lambda: Record("ssd", FORGET_SET, 0, status="collapsed"), "say what happened"),
        (lambda: Record("ssd", FORGET_SET, 0, status="bad", reason="?"), "say what happened"),
        (lambda: Record("ssd", FORGET_SET, 0, reason="odd"), "say what happened"),
        (lambda: Record("ssd", FORGET_SET, 0, schema=2), "expected schema 1, found 2"),
    ],
)
def test_a_record_that_cannot_be_read_right_is_refused(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda v: v | {"metric": {}}, "found metric: remove or rename it"),
        (lambda v: v | {"cost": {"hours": 1}}, "in cost, found hours"),
        (lambda v: v | {"metrics": {"m": {"value": 1, "error": 2}}}, "metric 'm', found error"),
        (lambda v: v | {"metrics": {"m": {"value": 1, "oracle": {"x": 1}}}}, "oracle of 'm'"),
        (lambda v: v | {"metrics": {"m": 1}}, "a JSON object for metric 'm', found 1"),
        (lambda v: v | {"metrics": [1]}, "a JSON object for the metrics"),
        (lambda v: v | {"forget_set": "class 3"}, "a JSON object for forget_set"),
        (lambda v: {"method": "ssd"}, "all required fields in the record, found method"),
        (lambda v: [1, 2], "a JSON object for the record"),
    ],
)
def test_unknown_or_wrong_fields_are_named_with_the_line(change, message, tmp_path):
    path = tmp_path / "records.jsonl"
    reporting.append(path, full_record())
    values = change(json.loads(path.read_text()))
    with open(path, "a") as file:
        file.write(json.dumps(values) + "\n")
    with pytest.raises(ValueError, match=message) as error:
        reporting.read(path)
    assert f"{path}, line 2: expected" in str(error.value)


def test_values_that_json_cannot_hold_leave_the_file_unchanged(tmp_path):
    path = tmp_path / "records.jsonl"
    reporting.append(path, full_record())
    before = path.read_bytes()
    for value in (object(), float("inf")):
        bad = Record("ssd", FORGET_SET, 0, hyperparameters={"alpha": value})
        with pytest.raises(ValueError, match="as text"):
            reporting.append(path, bad)
    assert path.read_bytes() == before


def test_a_full_disk_leaves_no_half_line(tmp_path, monkeypatch):
    path = tmp_path / "records.jsonl"
    reporting.append(path, full_record())
    before = path.read_bytes()

    def no_room(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", no_room)
    with pytest.raises(OSError, match="no space"):
        reporting.append(path, full_record(1))
    assert path.read_bytes() == before


def test_a_line_cut_off_by_a_crash_is_reported_and_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "records.jsonl"
    reporting.append(path, full_record(0))
    path.write_bytes(path.read_bytes() + b'{"method": "ss')
    reporting.append(path, full_record(1))
    with pytest.raises(ValueError, match="line 2: expected a JSON object, found text that"):
        reporting.read(path)
    lines = path.read_text().splitlines()
    assert reporting.from_json(lines[2]) == full_record(1)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="found none: run an evaluation"):
        reporting.read(tmp_path / "none.jsonl")


def test_writers_at_once_lose_nothing(tmp_path):
    path = tmp_path / "records.jsonl"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: reporting.append(path, full_record(seed)), range(60)))
    assert sorted(record.seed for record in reporting.read(path)) == list(range(60))


def test_a_writer_waits_for_the_lock(tmp_path):
    path = tmp_path / "records.jsonl"
    with open(path, "w") as file, ThreadPoolExecutor(1) as pool:
        fcntl.flock(file, fcntl.LOCK_EX)
        writing = pool.submit(reporting.append, path, full_record())
        with pytest.raises(TimeoutError):
            writing.result(timeout=0.3)
        fcntl.flock(file, fcntl.LOCK_UN)
        writing.result(timeout=10)
    assert reporting.read(path) == [full_record()]


@pytest.mark.parametrize(
    "name, value",
    [
        *(("method", None), ("seed", "0"), ("seed", True), ("status", 3), ("hyperparameters", [])),
        *(("forget_set", {"kind": 3, "size": 9}), ("forget_set", {"kind": "a", "size": None})),
        *(("cost", {"device": None}), ("metrics", {"MIA": {"value": 1.0, "unit": 3}})),
    ],
)
def test_a_field_of_another_kind_is_one_sentence(name, value):
    values = json.loads(reporting.to_json(full_record()))
    with pytest.raises(ValueError, match=r"^expected \w+ for \w+ in .*, found"):
        reporting.from_json(json.dumps({**values, name: value}))


def test_the_number_of_a_request_is_kept_and_stands_in_no_other_line():
    record = full_record()
    one = dataclasses.replace(record.forget_set, request=7)
    line = reporting.to_json(dataclasses.replace(record, forget_set=one))
    assert reporting.from_json(line).forget_set == one != record.forget_set
    assert "request" not in reporting.to_json(record)
    for wrong in ('"7"', "-1", "true", "null", "1.5"):
        with pytest.raises(
            ValueError, match=r"^expected (int for request|the number of a request)"
        ):
            reporting.from_json(line.replace('"request": 7', f'"request": {wrong}'))


@pytest.mark.parametrize("line", ["[" * 100_000, '{"seed": ' + "9" * 5_000 + "}"])
def test_a_line_that_no_reader_takes_is_one_sentence(line):
    with pytest.raises(ValueError, match=r"^expected a JSON object, found one with a number too"):
        reporting.from_json(line)


def test_bytes_that_are_no_text_are_named(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match=r"^expected JSON lines in .*records\.jsonl, found bytes"):
        reporting.read(path)
