"""Workers on one study: whatever is killed, every setting ends once, none lost, none doubled."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from experiments.sweep.storage import open_storage
from experiments.sweep.work_queue import Limits, Outcome, Plan, Queue, work

SPAWN = multiprocessing.get_context("spawn")
LEASE_S = 2.0


def listed(number: int, block: int = 1) -> Plan:
    items = {f"item-{i:03d}": {"x": float(i)} for i in range(number)}
    return Plan("listed", {"x": FloatDistribution(0, number)}, items, number, block)


def drawn(number: int, block: int = 1) -> Plan:
    return Plan("drawn", {"x": FloatDistribution(0, 1)}, None, number, block)


def run_cheaply(points, pace=0.02):
    """Long enough to be killed in; every run of a setting gives the same."""
    time.sleep(pace * (1 + int(points[0]["x"]) % 3))
    return [outcome(point) for point in points]


def outcome(point) -> Outcome:
    return Outcome(point["x"], f"result of {point['x']}\n" * 100)


def quietly(line: str) -> None:
    pass


def be_a_worker(folder: Path, plan: Plan, pace: float) -> None:
    queue = Queue(open_storage(folder, None), plan, lease_s=LEASE_S)
    work(queue, partial(run_cheaply, pace=pace), report=quietly, poll_s=0.1)


def sweep_under_fire(
    folder: Path, plan: Plan, *, workers: int, kills: int, seed: int, pace: float = 0.02
) -> int:
    """Keep workers running and kill one at random moments; how many died in the middle."""
    moments, processes, killed = random.Random(seed), [], 0

    def start() -> None:
        processes.append(SPAWN.Process(target=be_a_worker, args=(folder, plan, pace)))
        processes[-1].start()

    for _ in range(workers):
        start()
    while killed < kills:
        time.sleep(moments.uniform(1.0, 4.0))
        running = [process for process in processes if process.is_alive()]
        if not running:
            break
        victim = moments.choice(running)
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        killed += victim.exitcode == -signal.SIGKILL
        start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes].count(0) == len(processes) - killed
    return killed


def assert_every_setting_ended_once(folder: Path, plan: Plan) -> None:
    queue = Queue(open_storage(folder, None), plan)
    assert queue.over() and queue.failed() == {}
    found = [(t.user_attrs["item"], t.value, t.user_attrs["result"]) for t in queue.results()]
    expected = [(name, *outcome(point)) for name, point in plan.items.items()]
    assert found == expected
    ended = Counter(t.user_attrs["item"] for t in queue.trials() if t.state is TrialState.COMPLETE)
    assert ended == Counter(list(plan.items))
    assert all(t.state in (TrialState.COMPLETE, TrialState.FAIL) for t in queue.trials())


@pytest.mark.slow
def test_killed_workers_lose_and_double_nothing(tmp_path):
    plan = listed(30, 3)
    assert sweep_under_fire(tmp_path, plan, workers=2, kills=1, seed=3) == 1
    assert_every_setting_ended_once(tmp_path, plan)


def test_a_setting_that_was_asked_for_twice_leaves_no_open_trial(tmp_path):
    plan = listed(3)
    queue = Queue(open_storage(tmp_path, None), plan)
    work(queue, run_cheaply, report=quietly)
    name = next(iter(plan.items))
    for _ in range(2):
        queue.study.enqueue_trial(dict(plan.items[name]), user_attrs={"item": name})
    queue.study.ask(plan.space)  # its process died here, and a request waits
    work(queue, run_cheaply, report=quietly)
    assert_every_setting_ended_once(tmp_path, plan)


def test_a_trial_that_counts_is_left_to_its_process_where_too_many_others_were_lost(tmp_path):
    plan = drawn(3)
    queue = Queue(open_storage(tmp_path, None), plan, limits=Limits(deaths=1))
    (alive,), (lost,) = queue.claim(), queue.claim()
    lost.set_user_attr("beat", 0)
    queue.study.tell(lost.number, state=TrialState.FAIL)
    work(queue, run_cheaply, report=quietly)
    assert queue.over() and "trials" in queue.failed()
    assert queue.finish(alive, outcome({"x": 0.5}))


def test_a_trial_that_is_given_up_while_it_is_asked_for_is_asked_for_again(tmp_path):
    plan = listed(3)
    queue = Queue(open_storage(tmp_path, None), plan)
    real = queue.study.ask

    def stood_still(space):
        queue.study.ask = real
        queue.study.tell(real(space).number, state=TrialState.FAIL)
        raise optuna.exceptions.UpdateFinishedTrialError

    queue.study.ask = stood_still
    work(queue, run_cheaply, report=quietly)
    assert_every_setting_ended_once(tmp_path, plan)


@pytest.mark.slow
@pytest.mark.multiprocess
def test_twenty_kills_lose_and_double_nothing(tmp_path):
    plan = listed(500, 2)  # more than a minute of work, so that it lasts for all kills
    killed = sweep_under_fire(tmp_path, plan, workers=3, kills=20, seed=1, pace=0.4)
    assert killed == 20
    assert_every_setting_ended_once(tmp_path, plan)


def test_a_process_that_dies_before_its_first_sign_of_life_loses_nothing(tmp_path):
    storage, plan = open_storage(tmp_path, None), listed(3)
    assert len(Queue(storage, plan).claim()) == 1  # and says no more
    late = Queue(storage, plan, lease_s=0.2)
    work(late, run_cheaply, report=quietly, poll_s=0.05)
    assert_every_setting_ended_once(tmp_path, plan)


def test_what_was_asked_for_and_never_begun_is_run_by_others(tmp_path):
    storage, plan = open_storage(tmp_path, None), listed(3)
    Queue(storage, plan)._offer()
    work(Queue(storage, plan), run_cheaply, report=quietly)
    assert_every_setting_ended_once(tmp_path, plan)


def test_a_setting_that_two_have_asked_for_is_run_once(tmp_path):
    storage, plan = open_storage(tmp_path, None), listed(1)
    queue, ran = Queue(storage, plan), []
    for _ in range(2):
        queue.study.enqueue_trial({"x": 0.0}, user_attrs={"item": "item-000"})

    def run(points):
        ran.extend(points)
        return run_cheaply(points)

    work(queue, run, report=quietly)
    assert queue.claim() == [] and ran == [{"x": 0.0}]
    assert_every_setting_ended_once(tmp_path, plan)


def test_a_process_that_was_only_asleep_comes_too_late(tmp_path):
    storage, plan = open_storage(tmp_path, None), listed(1)
    asleep = Queue(storage, plan)
    (trial,) = asleep.claim()
    work(Queue(storage, plan, lease_s=0.1), run_cheaply, report=quietly, poll_s=0.05)
    assert not asleep.finish(trial, Outcome(9.0, "other"))
    assert_every_setting_ended_once(tmp_path, plan)


def test_a_process_that_shows_life_keeps_its_trial(tmp_path):
    storage, plan = open_storage(tmp_path, None), listed(1)
    slow, other = (Queue(storage, plan, lease_s=0.5) for _ in range(2))
    trials = slow.claim()
    with slow.alive(trials):
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            assert other.claim() == []
            time.sleep(0.05)
    assert slow.finish(trials[0], outcome({"x": 0.0}))
    assert_every_setting_ended_once(tmp_path, plan)


def test_workers_that_are_alive_run_each_setting_once(tmp_path):
    plan, ran = listed(12), []

    def run(points):
        ran.extend(point["x"] for point in points)
        time.sleep(0.005)
        return [outcome(point) for point in points]

    def be_one():
        queue = Queue(open_storage(tmp_path, None), plan)
        work(queue, run, report=quietly, poll_s=0.05)

    open_storage(tmp_path, None)
    threads = [threading.Thread(target=be_one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(ran) == {point["x"] for point in plan.items.values()}
    assert_every_setting_ended_once(tmp_path, plan)


@pytest.mark.parametrize("sampler", [optuna.samplers.RandomSampler, optuna.samplers.TPESampler])
def test_settings_are_drawn_in_blocks_until_there_are_enough(tmp_path, sampler):
    sizes, plan = [], drawn(14, 4)

    def run(points):
        sizes.append(len(points))
        # A setting without a value, as of a collapsed model, does not end the search.
        return [Outcome(None if p["x"] > 0.9 else p["x"], json_of(p)) for p in points]

    queue = Queue(open_storage(tmp_path, None), plan, sampler(seed=0))
    work(queue, run, report=quietly)
    assert sizes == [4, 4, 4, 2] and len(queue.results()) == 14
    assert [t.user_attrs["result"] for t in queue.results()] == [
        json_of(t.params) for t in queue.results()
    ]
    assert all(t.state is TrialState.PRUNED for t in queue.results() if t.params["x"] > 0.9)
    assert queue.claim() == []


def json_of(point) -> str:
    return f"{point['x']:.17g}"


def test_no_more_are_drawn_than_wanted_when_two_ask_at_once(tmp_path):
    storage, plan = open_storage(tmp_path, None), drawn(1)
    first, second = Queue(storage, plan), Queue(storage, plan)
    trial = first.study.ask(plan.space)
    late = second.study.ask(plan.space)
    assert first._counts(trial.number) and not second._counts(late.number)


def test_what_fails_is_tried_again_and_then_left_with_its_error(tmp_path):
    storage, plan = open_storage(tmp_path, None), listed(3)
    calls, lines = Counter(), []

    def run(points):
        x = points[0]["x"]
        calls[x] += 1
        if x == 0 or (x == 1 and calls[x] == 1):
            raise ZeroDivisionError(f"in {x}")
        return [outcome(point) for point in points]

    queue = Queue(storage, plan, limits=Limits(errors=2))
    work(queue, run, report=lines.append)
    assert calls == {0.0: 2, 1.0: 2, 2.0: 1}
    assert list(queue.failed()) == ["item-000"] and len(queue.results()) == 2
    assert "ZeroDivisionError: in 0.0" in queue.failed()["item-000"]
    assert any("1 failed: in 0.0" in line for line in lines)
    work(Queue(storage, plan, limits=Limits(errors=2)), run, report=quietly)
    assert sum(calls.values()) == 5
    again = Queue(storage, plan, limits=Limits(errors=3))
    work(again, run, report=quietly)
    assert calls[0.0] == 3


def test_a_drawn_setting_that_fails_is_not_drawn_for_ever(tmp_path):
    def run(points):
        raise ZeroDivisionError("always")

    queue = Queue(open_storage(tmp_path, None), drawn(3, 2))
    work(queue, run, report=quietly)
    assert queue.results() == [] and len(queue.failed()) == 3


@pytest.mark.parametrize("make", [listed, drawn])
def test_deaths_end_a_search_at_their_own_limit(tmp_path, make):
    storage, limits = open_storage(tmp_path, None), Limits(errors=1, deaths=2)
    watcher = Queue(storage, make(1), lease_s=0.01, limits=limits)
    for number in range(2):
        assert not watcher.over()
        (trial,) = Queue(storage, make(1), limits=limits).claim()
        trial.set_user_attr("beat", number)
        watcher._release()
        time.sleep(0.02)
        watcher._release()
    assert watcher.over() and watcher.claim() == []
    assert "2 processes were lost" in next(iter(watcher.failed().values()))


def test_a_database_that_is_none_is_one_sentence(tmp_path):
    (tmp_path / "studies.db").write_text("this is no database, as a look at it shows" * 50)
    with pytest.raises(ValueError, match="expected a database for --storage, found"):
        open_storage(tmp_path, None)
    with pytest.raises(ValueError, match="expected a database for --storage, found"):
        open_storage(tmp_path, "nosuch://host/db")


def test_a_driver_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"expected a driver for mssql.*, found none; for "):
        open_storage(tmp_path, "mssql+pymssql://host/db")
