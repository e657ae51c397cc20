from __future__ import annotations

import json

import pytest
from fake_cloud import JOB

from launch_tpu.compile import slices
from launch_tpu.hosts.spec import from_dict, read_spec

SEARCH = {"workdir": "gs://bucket/run", "module": "experiments.sweep"}


def test_read_from_a_file(tmp_path):
    path = tmp_path / "job.json"
    path.write_text(json.dumps({**JOB, "flags": ["--a", "b c"]}))
    spec = read_spec(path, engine="local")
    assert (spec.flags, spec.max_hours, spec.engine) == (("--a", "b c"), 4.0, "local")
    assert (spec.hosts, spec.devices, spec.chip_hours) == (4, 4, 0)
    assert (read_spec(path).hosts, read_spec(path).devices) == (4, 16)
    assert read_spec(path).chip_hours == 64


def test_no_file_and_no_json(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a specification at"):
        read_spec(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match="expected JSON in"):
        read_spec(tmp_path / "bad.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ValueError, match="expected a JSON object"):
        read_spec(tmp_path / "list.json")
    with pytest.raises(ValueError, match="found what cannot be read"):
        read_spec(tmp_path)
    for text in (b"\xff{}", b"[" * 100_000):
        (tmp_path / "odd.json").write_bytes(text)
        with pytest.raises(ValueError, match="expected JSON in"):
            read_spec(tmp_path / "odd.json")


def test_a_field_that_is_there_twice(tmp_path):
    path = tmp_path / "job.json"
    path.write_text(json.dumps(JOB).removesuffix("}") + ', "max_hours": 168}')
    with pytest.raises(
        ValueError,
        match=r"every name once .*job\.json, found max_hours again",
    ):
        read_spec(path)


def test_a_relative_workdir_on_this_machine():
    assert from_dict({**JOB, "engine": "local", "workdir": "runs/digits"}).workdir == "runs/digits"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"max_hour": 1}, "found 'max_hour'; did you mean 'max_hours'"),
        ({"zzz": 1}, "found 'zzz'; choose among name, "),
        ({"max_hours": "4"}, "expected a float as 'max_hours', found '4'"),
        ({"max_hours": True}, "expected a float as 'max_hours', found True"),
        (
            {"max_hours": 0},
            "expected 'max_hours' of at least a minute",
        ),
        ({"max_hours": 1e-9}, "expected 'max_hours' of at least a minute"),
        ({"queue_hours": 1e-5}, "expected 'queue_hours' of at least a minute"),
        ({"max_hours": float("nan")}, "expected 'max_hours' of at least a minute"),
        ({"queue_hours": 1e9}, "expected 'queue_hours' of at least a minute and at most 168"),
        ({"slices": 0}, "expected 'slices' of at least 1, found 0"),
        ({"slices": 10**400}, "expected 'slices' of at most 10000"),
        ({"max_hours": 10**400}, "expected 'max_hours' of at least a minute and at most 168"),
        ({"max_hours": -(10**400)}, "expected 'max_hours' of at least a minute and at most 168"),
        ({"spot": 1}, "expected a bool as 'spot', found 1"),
        ({"flags": "--a"}, "expected a list of strings as 'flags'"),
        ({"setup": ["a\nb"]}, "expected one line in each item of 'setup'"),
        ({"name": "Digits"}, "expected a name of at most 32"),
        ({"name": "d" * 33}, "expected a name of at most 32"),
        ({"zone": "us-east5-b; rm"}, "expected lower case letters in 'zone'"),
        ({"topology": "v6e:3x3"}, "expected a v6e slice of shape"),
        ({"topology": "v9:2x2"}, "expected a TPU generation among"),
        ({"topology": "v7x:2x2x2"}, "expected v4 or v5e or v5p or v6e with the engine queued"),
        ({"topology": "v7x:2x2x3", "engine": "xpk"}, "expected a v7x slice of shape"),
        ({"engine": "instance_groups", "slices": 2}, "expected one slice with the engine"),
        ({"topology": "v5p:4x4x16"}, "expected the shape that v5p-512 stands for"),
        ({"engine": "slurm"}, "expected an engine among"),
        ({"project": ""}, "expected 'project' with the engine queued_resources"),
        ({"workdir": "s3://bucket/run"}, "or gs://bucket/folder, found 's3://bucket/run'"),
        ({"workdir": "gs://B/run"}, "or gs://bucket/folder, found 'gs://B/run'; mount"),
        ({"workdir": "s3:/run", "engine": "local"}, "or gs://bucket/folder, found 's3:/run'"),
        ({"workdir": ""}, "or gs://bucket/folder, found ''"),
        (SEARCH, "found SQLite, which needs a local file; add --storage=postgresql://USER@HOST"),
        (SEARCH | {"flags": ["--storage=sqlite:////a"]}, "found SQLite, which needs a local"),
        (SEARCH | {"flags": ["--storage=postgresql://h/a", "--storage", "sqlite://"]}, "SQLite"),
        ({"module": ""}, "expected a module to run, found ''"),
        ({"module": "-c"}, "expected a module to run, found '-c'"),
        ({"python": ""}, "expected the interpreter of the hosts, found ''; set 'python'"),
        ({"python": " "}, "expected the interpreter of the hosts, found ' '"),
        ({"python": "-c"}, "expected the interpreter of the hosts, found '-c'"),
        ({"workdir": "runs/digits"}, "expected an absolute workdir with the engine queued_resou"),
        ({"workdir": "~/digits", "engine": "xpk"}, "expected an absolute workdir with the engine"),
        ({"flags": ["--a=\0"]}, "expected text in 'flags', found a character of code 0"),
        ({"setup": ["a\0b"]}, "expected text in 'setup', found a character of code 0"),
        ({"join_seconds": 10**12}, "expected 'join_seconds' of at most 604800"),
    ],
)
def test_bad_specifications(change, sentence):
    with pytest.raises(ValueError, match="expected") as error:
        from_dict({**JOB, **change})
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"workdir": "gs://bucket/run", "module": "experiments.train"},
        {"workdir": "gs://bucket/run", "module": "experiments.unlearn"},
        SEARCH | {"flags": ["--sweep=a.json", "--storage=postgresql://user@host/name"]},
        SEARCH | {"flags": ["--storage=sqlite://", "--storage", "postgresql://user@host/name"]},
        SEARCH | {"workdir": "/mnt/runs", "flags": []},
    ],
)
def test_a_bucket_for_a_module_that_can_write_there(change):
    assert from_dict({**JOB, **change}).workdir == change["workdir"]


@pytest.mark.parametrize("name", ["name", "module", "topology", "max_hours", "workdir"])
def test_a_missing_field(name):
    with pytest.raises(ValueError, match=f"found no '{name}'; add it"):
        from_dict({key: value for key, value in JOB.items() if key != name})


@pytest.mark.parametrize(
    ("name", "chips", "hosts", "accelerator", "machine"),
    [
        ("v4:2x2x2", 8, 2, "v4-16", None),
        ("v5e:2x4", 8, 1, "v5litepod-8", None),
        ("v5e:16x16", 256, 64, "v5litepod-256", None),
        ("v5p:2x2x1", 4, 1, "v5p-8", "ct5p-hightpu-4t"),
        ("v6e:1x1", 1, 1, "v6e-1", "ct6e-standard-1t"),
        ("v6e:2x4", 8, 1, "v6e-8", "ct6e-standard-8t"),
        ("v6e:4x4", 16, 4, "v6e-16", "ct6e-standard-4t"),
        ("v7x:4x4x4", 64, 16, "tpu7x-128", "tpu7x-standard-4t"),
    ],
)
def test_names_of_slices(name, chips, hosts, accelerator, machine):
    slice_ = slices.parse(name)
    assert (slice_.chips, slice_.hosts(), slice_.accelerator_type) == (chips, hosts, accelerator)
    if machine:
        assert slice_.machine_type == machine


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("v5p:2x4x4", True),
        ("v5p:4x4x4", True),
        ("v5p:4x8x8", True),
        ("v5p:4x4x16", False),
        ("v5p:8x12x12", True),
        ("v5p:4x4x12", True),
        ("v6e:4x8", True),
    ],
)
def test_shapes_that_follow_from_their_size(name, expected):
    assert slices.parse(name).follows_from_size is expected


def test_eight_chips_are_two_hosts_in_a_cluster():
    assert from_dict({**JOB, "topology": "v6e:2x4"}).hosts == 1
    assert from_dict({**JOB, "topology": "v6e:2x4", "engine": "xpk"}).hosts == 2


def test_two_devices_a_chip_on_v7x():
    spec = from_dict({**JOB, "topology": "v7x:2x2x2", "engine": "xpk"})
    assert (spec.devices, spec.hosts, spec.chip_hours) == (16, 2, 32)
