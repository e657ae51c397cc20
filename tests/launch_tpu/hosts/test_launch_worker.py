from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from fake_cloud import JOB, ROOT, Cloud

from launch_tpu.hosts import worker
from launch_tpu.hosts.engines import local

SECONDS = 120
SUM = """\
import sys
import jax, jax.numpy as jnp
from jax.experimental import multihost_utils

mine = jnp.float32(jax.process_index() + 1)
total = float(multihost_utils.process_allgather(mine).sum())
sys.stdout.write(f"sum {total} {sys.argv[1:]}\\n")
"""
PAIR = {**JOB, "topology": "v6e:1x1", "slices": 2, "module": "job", "join_seconds": 100}
FLAGS = ['--note=it\'s a "test"', "--text=two\nlines"]


RESUMABLE = """\
import os, signal, sys
from pathlib import Path
import jax, jax.numpy as jnp
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from mu_jax.store.run_state import latest_state, save_state

workdir = Path(sys.argv[-1].removeprefix("--workdir="))
mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
rows = NamedSharding(mesh, PartitionSpec("data"))
value = jax.make_array_from_callback((4,), rows, lambda index: jnp.arange(1.0, 5.0)[index])
saved = latest_state(workdir, {"value": value})
start, value = (saved.step, saved.tree["value"]) if saved else (0, value)
sys.stdout.write(f"starts at {start}\\n")
advance = jax.jit(lambda x: jnp.sin(x) + 0.1 * x.mean(), out_shardings=rows)
for step in range(start + 1, 7):
    value = advance(value).block_until_ready()
    save_state(workdir, step, {"value": value})
    if step == 3 and jax.process_index() == 1 and "--preempted" in sys.argv and not start:
        os.kill(os.getpid(), signal.SIGKILL)
result = multihost_utils.process_allgather(value, tiled=True).tobytes().hex()
sys.stdout.write(f"result {result}\\n")
"""


def run(command, directory, environment, seconds=SECONDS):
    """Run a launcher in its own session; all that it started is killed if it takes too long."""
    with subprocess.Popen(
        command,
        env=environment,
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            return process.communicate(timeout=seconds)[0], process.returncode
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def launcher(directory, spec, *arguments):
    """The command line of the launcher."""
    (directory / "job.json").write_text(json.dumps(spec))
    return [sys.executable, "-m", "launch_tpu.launch", "--spec=job.json", *arguments, "up"]


def alone(*arguments, environment=()):
    """One worker that has no partner."""
    command = [sys.executable, "-m", "launch_tpu.hosts.worker", *arguments]
    given = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", **dict(environment)}
    return subprocess.run(
        command, env=given, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False
    )


@pytest.mark.multiprocess
def test_two_hosts_of_the_cloud_join_and_sum(tmp_path):
    fake = Cloud(tmp_path, states=["WAITING_FOR_RESOURCES", "ACTIVE"], boot=True)
    spec = {**PAIR, "flags": FLAGS, "setup": [f"cp {tmp_path}/job.py ."]}
    (tmp_path / "job.py").write_text(SUM)
    command = launcher(tmp_path, spec, "--budget_chip_hours=8")
    output, code = run(command, tmp_path, fake.environment)
    assert code == 0, output
    for index in range(2):
        assert f"process {index} of 2: 1 local and 2 global cpu devices" in output
    assert output.count(f"sum 3.0 {[*FLAGS, '--workdir=/mnt/runs/digits']}") == 2, output
    assert fake.made == []


@pytest.mark.multiprocess
def test_a_command_sent_to_one_host_only_ends_with_a_sentence(tmp_path):
    fake = Cloud(tmp_path, workers=1, boot=True)
    spec = {**PAIR, "join_seconds": 3, "setup": [f"cp {tmp_path}/job.py ."]}
    (tmp_path / "job.py").write_text(SUM)
    output, code = run(
        launcher(tmp_path, spec, "--budget_chip_hours=8"), tmp_path, fake.environment
    )
    assert code == 124
    assert "expected 2 hosts to join within 3 s, found fewer; was the command sent with" in output
    assert fake.made == []


@pytest.mark.multiprocess
def test_the_local_engine_runs_the_same_specification(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    (tmp_path / "job.py").write_text(SUM)
    command = launcher(tmp_path, PAIR, "--engine=local")
    output, code = run(command, tmp_path, environment)
    assert code == 0, output
    assert output.count("sum 3.0 ['--workdir=/mnt/runs/digits']") == 2, output
    (tmp_path / "job.py").write_text("import jax, sys; sys.exit(7 * jax.process_index())")
    output, code = run(command, tmp_path, environment)
    assert code == 7, output
    assert "expected job to succeed, found exit code 7" in output


@pytest.mark.multiprocess
def test_a_preempted_job_goes_on_and_ends_with_the_same_bits(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    (tmp_path / "job.py").write_text(RESUMABLE)
    whole = launcher(tmp_path, {**PAIR, "workdir": "whole"}, "--engine=local")
    expected, code = run(whole, tmp_path, environment)
    assert code == 0 and "starts at 0" in expected, expected
    spec = {**PAIR, "workdir": "preempted", "flags": ["--preempted"]}
    again = launcher(tmp_path, spec, "--engine=local")
    output, code = run(again, tmp_path, environment)
    assert code and "result" not in output, output
    output, code = run(again, tmp_path, environment)
    assert code == 0 and "starts at 3" in output, output
    assert results(output) == results(expected)


def results(output):
    """What the hosts print in the end, the same on all."""
    found = set(re.findall(r"result ([0-9a-f]{32})", output))
    assert len(found) == 1, output
    return found


def test_local_processes_end_together(tmp_path):
    script = "import os, time; time.sleep(60 * (os.environ['MU_JAX_PROCESS_ID'] == '0')); exit(5)"
    start = time.monotonic()
    assert local.run_together([sys.executable, "-c", script], processes=2, seconds=50) == 5
    assert time.monotonic() - start < 30
    stuck = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert local.run_together(stuck, processes=2, seconds=0.3) == 124


def test_a_program_that_does_not_start_here(tmp_path, capfd):
    assert local.run_together([str(tmp_path / "none")], processes=2, seconds=5) == 127
    assert local.run_together([str(tmp_path)], processes=2, seconds=5) == 126
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("error: expected to run") for line in lines)


NUMBERS = {"--processes": "1", "--devices": "1", "--max_seconds": "60", "--join_seconds": "60"}


@pytest.mark.parametrize("module", ["launch_tpu.hosts.worker", "launch_tpu.hosts.engines.local"])
@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *(("--processes", "0"), ("--processes", "-1"), ("--processes", "1" + "0" * 30)),
        *(("--max_seconds", "0"), ("--max_seconds", "nan"), ("--max_seconds", "x")),
    ],
)
def test_numbers_that_would_run_nothing(module, flag, value):
    numbers = {**NUMBERS, flag: value}
    if module.endswith("local"):
        rest = ["--", sys.executable, "-c", "print(1)"]
        numbers = {k: v for k, v in numbers.items() if k in ("--processes", "--max_seconds")}
    else:
        rest = ["--module=tokenize", "--", "-h"]
    given = [f"{name}={number}" for name, number in numbers.items()]
    done = subprocess.run(
        [sys.executable, "-m", module, *given, *rest], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: expected ") and done.stderr.count("\n") == 1
    assert f"flag {flag}={value}" in done.stderr.replace(".0:", ":")


def test_no_more_local_processes_than_this_machine_bears():
    from launch_tpu.hosts import plan as plans
    from launch_tpu.hosts.spec import from_dict

    with pytest.raises(ValueError, match="expected at most 16 hosts with the engine local"):
        plans.plan(from_dict({**JOB, "topology": "v5e:16x16", "engine": "local"}))


def test_one_host_runs_a_module_with_its_flags():
    done = alone(
        *("--processes=1", "--devices=1", "--max_seconds=60", "--module=tokenize", "--", "-h")
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("process 0 of 1: 1 local and 1 global cpu devices\nusage:")


def test_the_wrong_number_of_devices():
    done = alone("--processes=1", "--devices=4", "--max_seconds=60", "--module=tokenize")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: expected 4 devices on 1 hosts, found 1; correct 'topology' and 'slices' of the "
        "specification"
    )


def test_fewer_hosts_than_the_specification_says():
    with pytest.raises(ValueError, match="expected 4 hosts, found that 2 joined; was the command"):
        worker._check(4, 2, 16, 8)
    worker._check(4, 4, 16, 16)


def test_a_host_that_belongs_to_no_slice():
    done = alone(
        *("--processes=2", "--devices=2", "--max_seconds=60", "--module=tokenize"),
        environment={"TPU_SKIP_MDS_QUERY": "1"},
    )
    assert done.returncode == 2
    assert "expected one of 2 hosts of a TPU slice, found none" in done.stderr.splitlines()[-1]


def test_a_job_ends_when_its_time_is_over(tmp_path):
    (tmp_path / "forever.py").write_text("import time; time.sleep(100)")
    done = alone(
        *("--processes=1", "--devices=1", "--max_seconds=4", "--module=forever"),
        environment={"PYTHONPATH": f"{ROOT}:{tmp_path}"},
    )
    assert done.returncode == 124
    assert done.stderr.endswith(
        "error: expected the job to end within 4 s, found it running; ended\n"
    )


@pytest.mark.parametrize("module", ["nosuch", "", ".", "-c", "a\0b"])
def test_a_module_that_is_not_there_is_refused_before_anybody_waits(module, capsys):
    with pytest.raises(SystemExit) as end:
        worker._check_module(module)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: expected a module as --module, found that")


@pytest.mark.parametrize("module", ["experiments", "experiments.nosuch", "tokenize.x"])
def test_a_module_that_its_package_lacks_is_one_sentence(module, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)
    worker._check_module(module)
    assert worker._run(module, []) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: expected a module") and said.count("\n") == 1


def test_an_import_that_fails_in_the_job_keeps_its_traceback(tmp_path, monkeypatch, capsys):
    (tmp_path / "imports.py").write_text("import nosuch")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    assert worker._run("imports", []) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"MU_JAX_PROCESS_ID": "x"}, "expected MU_JAX_PROCESS_ID from 0 to 1, found 'x'"),
        ({"MU_JAX_PROCESS_ID": "2"}, "expected MU_JAX_PROCESS_ID from 0 to 1, found '2'"),
        ({"MU_JAX_PROCESS_ID": "1"}, "expected JAX_COORDINATOR_ADDRESS beside MU_JAX_PROCESS_ID"),
    ],
)
def test_hosts_that_are_not_told_how_to_join(environment, sentence, monkeypatch):
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=sentence):
        worker._initialize(1, 2)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("raise SystemExit(3)", 3),
        ("raise SystemExit('no')", 1),
        ("raise SystemExit", 0),
        ("1 / 0", 1),
        ("x = 1", 0),
    ],
)
def test_exit_codes_of_a_module(tmp_path, monkeypatch, text, code):
    (tmp_path / "ends.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    assert worker._run("ends", []) == code
