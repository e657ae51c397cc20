"""A process that is killed at any point loses no accepted request, and none is done twice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def run(*arguments, script="crashing.py", timeout=3000):
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, str(HERE / script), *map(str, arguments)],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def points(total, number, seed):
    """Some points of the story, the last ones of calls among them."""
    return random.Random(seed).sample(range(1, total + 1), number)


def test_killed_at_some_points(tmp_path):
    # Before anything, in the making of the tables, and in each kind of call.
    run(tmp_path, tmp_path / "kept", "at", 1, 30, 100, 180, 290, 320, 360, 440, 456, 500)


@pytest.mark.slow
def test_killed_at_160_points_and_at_40_random_moments(tmp_path):
    total = int(run(tmp_path, tmp_path / "kept", "count"))
    run(tmp_path, tmp_path / "kept", "at", *points(total, 160, seed=0))
    deaths = int(run(tmp_path, tmp_path / "kept", "random", 0, 10))
    assert deaths >= 20, f"{deaths} of 40 were alive when they were killed"


@pytest.mark.slow
def test_killed_beside_a_server(server, tmp_path):
    total = int(run(server, tmp_path / "kept", "count"))
    run(server, tmp_path / "kept", "at", *points(total, 40, seed=1))
    deaths = int(run(server, tmp_path / "kept", "random", 1, 3))
    assert deaths >= 6


@pytest.mark.slow
def test_a_loop_with_a_store_is_killed_while_it_publishes_swaps_and_rolls_back(tmp_path):
    script = {"script": "crashing_loop.py"}
    total = int(run(tmp_path, "count", **script))
    run(tmp_path, "at", *points(total, 20, seed=2), **script)
    deaths = int(run(tmp_path, "random", 2, 5, **script))
    assert deaths >= 10, f"{deaths} of 20 were alive when they were killed"


def test_the_whole_loop_is_killed_at_some_points(tmp_path):
    # While a version is published that does not pass, and while the model is retrained.
    run(tmp_path, tmp_path / "kept", "at", 640, 1150, script="serving_loop.py")


@pytest.mark.slow
def test_the_whole_loop_is_killed_at_150_points_and_at_52_random_moments(tmp_path):
    script, kept = {"script": "serving_loop.py"}, tmp_path / "kept"
    total = int(run(tmp_path, kept, "count", **script))
    run(tmp_path, kept, "at", *points(total - 20, 150, seed=3), **script)
    deaths = int(run(tmp_path, kept, "random", 3, 13, **script))
    assert deaths >= 26, f"{deaths} of 52 were alive when they were killed"


@pytest.mark.slow
def test_the_whole_loop_is_killed_beside_a_server(server, tmp_path):
    script, kept = {"script": "serving_loop.py"}, tmp_path / "kept"
    total = int(run(server, kept, "count", **script))
    run(server, kept, "at", *points(total - 20, 20, seed=4), **script)
    deaths = int(run(server, kept, "random", 4, 3, **script))
    assert deaths >= 6, f"{deaths} of 12 were alive when they were killed"


def test_a_loop_is_killed_while_more_requests_arrive_and_an_operator_goes_back(tmp_path):
    # Between the first swap and the end of its run, and after the end of the second run.
    run(tmp_path, tmp_path / "kept", "at", 325, 560, script="arriving_loop.py")
    left = [path.read_text() for path in sorted((tmp_path / "kept").glob("*/left"))]
    assert left == ["2", "3"], "the points are elsewhere now: see where swaps and runs end"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["sqlite", "postgresql"])
def test_a_loop_is_killed_often_while_more_requests_arrive(place, request, tmp_path):
    where = tmp_path if place == "sqlite" else request.getfixturevalue("server")
    script, kept = {"script": "arriving_loop.py"}, tmp_path / "kept"
    total = int(run(where, kept, "count", **script))
    run(where, kept, "at", *points(total - 20, 40, seed=5), **script)
    deaths = int(run(where, kept, "random", 5, 5, **script))
    assert deaths >= 10, f"{deaths} of 20 were alive when they were killed"
