"""The launcher as a user starts it, against a cloud that is not one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from fake_cloud import JOB, Cloud

from launch_tpu.hosts import plan as plans
from launch_tpu.hosts.commands import render
from launch_tpu.hosts.spec import from_dict


def binary(fake, spec, *arguments, **options):
    """The launcher as a user starts it."""
    path = fake.state.parent / "job.json"
    path.write_text(json.dumps(spec))
    command = [sys.executable, "-m", "launch_tpu.launch", f"--spec={path}", *arguments]
    return subprocess.run(
        command,
        env=fake.environment,
        cwd=fake.state.parent,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        check=False,
        **options,
    )


def test_the_binary_runs_nothing_without_a_budget(tmp_path):
    fake = Cloud(tmp_path, boot=True)
    done = binary(fake, JOB, "up")
    assert done.returncode == 2
    assert "at most 16 v6e chips x 4 h = 64 chip-hours" in done.stdout
    assert "expected a yes or a budget" in done.stderr and done.stderr.count("\n") == 1
    done = binary(fake, JOB, "--budget_chip_hours=63", "up")
    assert done.returncode == 2 and "expected at most 63 chip-hours" in done.stderr
    for number in ("nan", "inf"):
        done = binary(fake, JOB, f"--budget_chip_hours={number}", "up")
        assert done.returncode == 2 and done.stderr.startswith("error: expected a number as --bud")
    done = binary(fake, JOB, "--dry_run", "up")
    assert done.returncode == 0
    assert binary(fake, JOB, "up", "--dry_run").stdout == done.stdout
    first, _, rest = done.stdout.partition("\n")
    assert first == "# digits: at most 16 v6e chips x 4 h = 64 chip-hours"
    assert rest == render(plans.plan(from_dict(JOB)))
    assert fake.calls() == []


def test_the_binary_launches_within_its_budget(tmp_path):
    fake = Cloud(tmp_path, boot=True)
    done = binary(fake, {**JOB, "python": "true"}, "--budget_chip_hours=64", "up")
    assert (done.returncode, done.stderr, fake.made) == (0, "", [])
    fake.fail(ssh=9)
    done = binary(fake, JOB, "--budget_chip_hours=64", "up")
    assert (done.returncode, fake.made) == (9, [])
    assert done.stderr.splitlines()[-1].startswith("error: expected success of gcloud compute tpus")


def test_the_binary_shows_takes_down_and_reaps(tmp_path):
    fake = Cloud(tmp_path)
    (fake.state / "made" / "digits").write_text(json.dumps(["--labels=launched-by=mu-jax,run=a"]))
    assert "ACTIVE" in binary(fake, JOB, "status").stdout
    refused = binary(fake, JOB, "reap")
    assert refused.returncode == 2 and "give --yes" in refused.stderr
    assert fake.made == ["digits"]
    assert binary(fake, JOB, "--yes", "reap").returncode == 0
    assert fake.made == []
    assert binary(fake, JOB, "down").returncode == 0
    assert binary(fake, JOB, "status").returncode == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["sideways"], "expected one of up, down, reap, status after the flags, found 'sideways'"),
        (["up", "down"], "after the flags, found 'up down'"),
        ([], "expected up, down, reap or status, found none; see --help"),
        (["--yes", "up"], "expected up without --yes, which it does not look at"),
        (["--budget_chip_hours=9", "down"], "expected down without --budget_chip_hours"),
        (["--budget_chip_hours=63", "--dry_run", "up"], "expected at most 63 chip-hours"),
        (["--budget_chip_hours=x", "up"], "flag --budget_chip_hours=x"),
        (["--v=3", "status"], "expected flags among --spec, "),
        (["--engine=slurm", "up"], "flag --engine=slurm"),
        (["--spec=", "up"], "expected a specification"),
    ],
)
def test_a_command_line_that_is_wrong_is_one_sentence(tmp_path, arguments, sentence):
    fake = Cloud(tmp_path)
    done = binary(fake, JOB, *arguments)
    assert (done.returncode, fake.calls()) == (2, [])
    assert done.stderr.startswith("error: expected ") and done.stderr.count("\n") == 1
    assert sentence in done.stderr


def test_the_binary_undoes_when_it_is_terminated(tmp_path):
    fake = Cloud(tmp_path, states=["WAITING_FOR_RESOURCES"])
    path = tmp_path / "job.json"
    path.write_text(json.dumps(JOB))
    command = [sys.executable, "-m", "launch_tpu.launch", f"--spec={path}", "up"]
    with subprocess.Popen(
        [*command, "--budget_chip_hours=64"],
        env=fake.environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while len(fake.calls("describe")) < 2:
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, fake.made) == (130, [])
    assert errors.splitlines()[-1] == "error: interrupted; nothing that was made remains"
