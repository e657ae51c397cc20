"""Workers on one work list: whatever is killed, every trial ends once, none lost, none doubled."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from launch_tpu import trial_loop
from launch_tpu.claims import Claims, Limits
from launch_tpu.trial_loop import work

SPAWN = multiprocessing.get_context("spawn")


def run_cheaply(name: str) -> str:
    """Long enough to be killed in; every run of a trial gives the same."""
    time.sleep(0.02 * (1 + len(name) % 3))
    return f"result of {name}\n" * 100


def be_a_worker(folder: Path, names: list[str]) -> None:
    run = run_cheaply
    work(Claims(folder), names, run, report=lambda line: None, poll_s=0.02)


def sweep_under_fire(folder: Path, names: list[str], *, workers: int, kills: int, seed: int) -> int:
    """Keep workers running and kill one at random moments; how many died in the middle."""
    moments, processes, killed = random.Random(seed), [], 0

    def start() -> None:
        processes.append(SPAWN.Process(target=be_a_worker, args=(folder, names)))
        processes[-1].start()

    for _ in range(workers):
        start()
    while killed < kills:
        time.sleep(moments.uniform(0.0, 0.5))
        running = [process for process in processes if process.is_alive()]
        if not running:
            break
        victim = moments.choice(running)
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        killed += victim.exitcode == -signal.SIGKILL
        start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes].count(0) == len(processes) - killed
    return killed


def assert_every_trial_ended_once(folder: Path, names: list[str]) -> None:
    claims = Claims(folder)
    table = [claims.result(name) for name in names]
    assert table == [f"result of {name}\n" * 100 for name in names]
    found = Counter(path.parent.name for path in folder.glob("*/result"))
    assert found == Counter(names)
    assert not list(folder.glob("*/error.*"))
    # Scraps of the killed have hidden names; all that has another is whole.
    assert {path.name.split(".")[0] for path in folder.glob("*/*")} <= {"claim", "result", ""}
    attempts = sum(len(list((folder / name).glob("claim.*"))) for name in names)
    assert attempts >= len(names)


def test_killed_workers_lose_and_double_nothing(tmp_path):
    names = [f"trial{'x' * (i % 3)}-{i:03d}" for i in range(100)]
    killed = sweep_under_fire(tmp_path / "trials", names, workers=2, kills=2, seed=0)
    assert killed == 2
    assert_every_trial_ended_once(tmp_path / "trials", names)


@pytest.mark.slow
@pytest.mark.multiprocess
def test_twenty_kills_lose_and_double_nothing(tmp_path):
    names = [f"trial{'x' * (i % 3)}-{i:03d}" for i in range(1_000)]
    killed = sweep_under_fire(tmp_path / "trials", names, workers=3, kills=20, seed=1)
    assert killed == 20
    assert_every_trial_ended_once(tmp_path / "trials", names)


def test_workers_that_are_alive_run_each_trial_once(tmp_path):
    ran, names = [], [f"t{i}" for i in range(30)]

    def run(name):
        ran.append(name)
        time.sleep(0.005)
        return name

    threads = [
        threading.Thread(
            target=work,
            args=(Claims(tmp_path), names, run),
            kwargs={"report": lambda line: None, "poll_s": 0.01},
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ran) == sorted(names)


def test_what_fails_is_tried_again_and_then_left_with_its_error(tmp_path):
    claims, calls, lines = Claims(tmp_path, limits=Limits(errors=2)), Counter(), []

    def run(name):
        calls[name] += 1
        if name == "bad" or (name == "shaky" and calls[name] == 1):
            raise ZeroDivisionError(f"in {name}")
        return name

    work(claims, ["bad", "shaky", "good"], run, report=lines.append)
    assert calls == {"bad": 2, "shaky": 2, "good": 1}
    assert claims.state("bad") == "failed" and claims.result("shaky") == "shaky"
    assert all("ZeroDivisionError: in bad" in error for error in claims.errors("bad"))
    assert any("bad: attempt 2 failed: in bad" in line for line in lines)
    assert "3 of 3 trials have ended" in lines[-1]
    work(claims, ["bad", "shaky", "good"], run)
    assert sum(calls.values()) == 5


def test_workers_start_at_different_places(monkeypatch):
    places = set()
    for pid in range(50):
        monkeypatch.setattr(trial_loop.os, "getpid", lambda pid=pid: pid)
        places.add(trial_loop._place(100))
    assert len(places) > 25 and all(0 <= place < 100 for place in places)
    assert trial_loop._place(0) == 0 and trial_loop._from(1, "abc") == ["b", "c", "a"]
