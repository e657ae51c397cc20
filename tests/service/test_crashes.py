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
    run(tmp_path, "at", 640, 1150, script="serving_loop.py")


@pytest.mark.slow
def test_the_whole_loop_is_killed_at_150_points_and_at_52_random_moments(tmp_path):
    script = {"script": "serving_loop.py"}
    total = int(run(tmp_path, "count", **script))
    run(tmp_path, "at", *points(total - 20, 150, seed=3), **script)
    deaths = int(run(tmp_path, "random", 3, 13, **script))
    assert deaths >= 26, f"{deaths} of 52 were alive when they were killed"
