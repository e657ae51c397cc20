"""Claims on trials: one holder at a time, taken over from the dead, results exactly once."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from launch_tpu import claims as module
from launch_tpu.claims import Claims, Limits, replace


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "trials"


def test_a_claim_is_held_once_and_its_result_is_final(folder):
    first, second = Claims(folder), Claims(folder)
    with first.claim("a") as claim:
        assert claim.number == 1
        assert second.state("a") == "running"
        with second.claim("a") as other:
            assert other is None
        (folder / "a" / ".result.of-a-killed-process").touch()
        assert claim.finish("one")
    assert first.state("a") == second.state("a") == "done"
    assert second.result("a") == "one" and second.result("b") is None
    with second.claim("a") as again:
        assert again is None
    assert not claim._replace(number=2).finish("two")
    assert first.result("a") == "one"
    assert sorted(path.name for path in (folder / "a").iterdir()) == ["claim.1", "result"]


def test_of_many_threads_one_gets_each_attempt(folder):
    start, held = threading.Barrier(8), []
    release = threading.Event()

    def contend():
        claims = Claims(folder)
        start.wait()
        with claims.claim("a") as claim:
            if claim is not None:
                held.append(claim.number)
                release.wait(10)

    threads = [threading.Thread(target=contend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads[:-1]:
        thread.join(0.2)
    release.set()
    for thread in threads:
        thread.join()
    assert held[0] == 1 and len(set(held)) == len(held)
    assert len(held) == 1 or held[1] == 2


HOLDER = """
import sys
from pathlib import Path
from launch_tpu.claims import Claims
with Claims(Path(sys.argv[1])).claim("a") as claim:
    print(claim.number, flush=True)
    sys.stdin.read()
"""


def hold(folder: Path) -> subprocess.Popen:
    """A process that holds a claim on trial a."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout.readline() == b"1\n"
    return process


def test_the_claim_of_a_killed_process_is_free_at_once(folder):
    process = hold(folder)
    claims = Claims(folder)
    assert claims.state("a") == "running"
    process.kill()
    process.communicate()
    assert claims.state("a") == "open"
    with claims.claim("a") as claim:
        assert claim.number == 2
        assert claims.deaths("a") == 1
    assert claims.deaths("a") == 2


def test_another_machines_claim_is_free_when_its_heart_has_stood_still(folder, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    claims = Claims(folder, lease_s=10.0)
    with claims.claim("a"):
        pass
    path = folder / "a" / "claim.1"
    path.write_text(json.dumps({**json.loads(path.read_text()), "machine": "another"}))
    assert claims.state("a") == "running"
    now[0] = 9.0
    assert claims.state("a") == "running"
    module.os.utime(path, ns=(0, 1))  # whatever the other clock says, it beats
    assert claims.state("a") == "running"
    now[0] = 18.9
    assert claims.state("a") == "running"
    now[0] = 19.0
    assert claims.state("a") == "open"


def test_the_heart_beats_while_a_claim_is_held(folder):
    with Claims(folder, lease_s=0.1).claim("a"):
        path = folder / "a" / "claim.1"
        before, beats = path.stat().st_mtime_ns, threading.Event()
        for _ in range(200):
            if path.stat().st_mtime_ns != before:
                break
            beats.wait(0.02)
        assert path.stat().st_mtime_ns > before


def test_errors_are_kept_and_end_a_trial_at_the_limit(folder):
    claims = Claims(folder, limits=Limits(errors=2))
    for number in (1, 2):
        assert claims.state("a") == "open"
        with claims.claim("a") as claim:
            claim.fail(f"reason {number}")
    assert claims.state("a") == "failed" and claims.result("a") is None
    assert claims.errors("a") == ["reason 1", "reason 2"] and claims.deaths("a") == 0
    assert Claims(folder, limits=Limits(errors=3)).state("a") == "open"


def test_deaths_end_a_trial_at_their_own_limit(folder):
    claims = Claims(folder, limits=Limits(errors=1, deaths=3))
    for _ in range(3):
        with claims.claim("a"):
            pass
    assert claims.state("a") == "failed" and claims.deaths("a") == 3


def test_a_result_that_came_between_look_and_claim_is_seen(folder, monkeypatch):
    claims = Claims(folder)
    with claims.claim("a") as claim:
        pass
    look = claims._look

    def late(path):
        found = look(path)
        claim.finish("late")
        return found

    monkeypatch.setattr(claims, "_look", late)
    with claims.claim("a") as other:
        assert other is None
    assert claims.result("a") == "late"


def test_a_file_system_without_hard_links_is_refused(folder, monkeypatch):
    def link(*args):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(module.os, "link", link)
    with pytest.raises(ValueError, match="expected a file system with hard links and locks at"):
        Claims(folder)
    assert not list(folder.iterdir())


def test_replacing_is_whole_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "records" / "table.jsonl"
    replace(path, "one\n")
    replace(path, "two\n")
    assert path.read_text() == "two\n" and [path] == list(path.parent.iterdir())
