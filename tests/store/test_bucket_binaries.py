"""Training, requests and their evaluation with a bucket as working directory, kills included."""

from __future__ import annotations

import contextlib
import functools
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from test_bucket_crash import Deadline, Killed

from experiments import evaluate, train, unlearn
from experiments.lib import tasks
from experiments.lib.command_line import parse
from experiments.lib.running import read_config
from mu_jax import _files as files
from mu_jax import _objects as objects
from mu_jax import reporting
from mu_jax._paths import absolute
from mu_jax.store import Store, claims

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning"),
]
SMALL = ["--config.limit=300", "--config.training.epochs=1"]
REQUEST = ["--request=class:3", "--method=ssd", "--serve_anyway"]
OTHER = ["--request=class:5", "--method=ssd", "--serve_anyway", "--noswap"]
STRIDE = 25  # a request to the bucket out of so many is a point of a kill


def call(module, workdir, *arguments):
    """The exit code of a binary."""
    parse(module.FLAGS, ["binary", f"--workdir={workdir}", *arguments])
    try:
        module.main(["binary"])
    except SystemExit as end:
        return end.code or 0
    return 0


@pytest.fixture(scope="module")
def trained(object_store):
    workdir = "gs://bucket/trained/run"
    assert call(train, workdir, *SMALL) == 0
    return absolute(workdir)


@pytest.fixture
def once(monkeypatch):
    """A task is made and compiled once; the claim of a process that is gone is seen to be soon."""
    made = {}

    def make_task(config):
        text = config.to_json_best_effort()
        return made[text] if text in made else made.setdefault(text, tasks.make_task(config))

    for module in (train, unlearn, evaluate):
        monkeypatch.setattr(module, "make_task", make_task)
    monkeypatch.setattr(claims, "LEASE", 0.5)
    monkeypatch.setattr(claims, "BEAT", 1e6)


def copied(source, target):
    for name in objects.below(source):
        objects.write(absolute(f"{target}/{name}"), objects.read(source / name)[0])
    return absolute(target)


def assert_whole(workdir):
    """All that a reader meets: the configuration, every version, what serves, what it forgot."""
    like = jax.eval_shape(tasks.make_task(read_config(workdir)).init, jax.random.key(0))
    store = Store(workdir / "store")
    history = store.history()
    for each in history:
        restored = store.restore(each.version, like=like)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(restored))
        assert store.forgotten(each.version).size == each.num_forgotten
    assert store.serving() in [each.version for each in history]
    return store


def test_a_model_is_trained_unlearned_rolled_back_and_evaluated(trained, bucket, once, capsys):
    workdir = copied(trained, f"{bucket}/run")
    assert call(train, workdir, *SMALL) == 2
    assert "found version 1 serving in gs://" in capsys.readouterr().err
    assert call(unlearn, workdir, *REQUEST) == 0
    assert f"--workdir={workdir}" in capsys.readouterr().out
    assert call(unlearn, workdir, *REQUEST) == 0
    assert "are forgotten already; nothing to do" in capsys.readouterr().out
    assert call(unlearn, workdir, *OTHER) == 0 and assert_whole(workdir).serving() == 2
    assert call(evaluate, workdir, "--request=class:3", "--retrain=1") == 0
    records = reporting.read(workdir / "evaluation.jsonl")
    assert [record.method for record in records][-3:] == ["2: ssd", "3: ssd", "constant"]
    assert call(unlearn, workdir, "--serve=3") == 0 and call(unlearn, workdir, "--roll_back") == 0
    assert assert_whole(workdir).serving() == 2 and files.names(workdir / "state") == []


def test_a_bucket_without_a_model_is_one_sentence(bucket, capsys):
    for module in (unlearn, evaluate):
        assert call(module, f"{bucket}/none", "--request=class:3") == 2
        assert "found no config.json there; train one with" in capsys.readouterr().err
    assert objects.below(absolute(bucket)) == []


def test_a_bucket_that_is_not_there_is_one_sentence(object_store, capsys):
    assert call(train, "gs://no-such-bucket/run", *SMALL) == 2
    said = capsys.readouterr()
    assert "error: expected a bucket to use at gs://no-such-bucket/run/" in said.err
    assert "check the name of the bucket" in said.err and "train mlp" not in said.err


def test_a_request_killed_at_any_point_is_gone_on_with_and_blocks_nobody(
    trained, bucket, once, monkeypatch
):
    points, finished = 0, False
    while not finished:
        workdir = copied(trained, f"{bucket}/{points}")
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            Deadline(patch, points * STRIDE)
            assert call(unlearn, workdir, *REQUEST) == 0
            finished = True
        assert assert_whole(workdir).serving() in (1, 2)
        if points % 4 == 1:
            assert call(unlearn, workdir, *OTHER) == 0
        parent = Store(workdir / "store").serving()
        assert call(unlearn, workdir, *REQUEST) == 0
        store = assert_whole(workdir)
        made = [each for each in store.history() if each.note == "class:3"]
        assert [each.version for each in made] == [store.serving()]
        assert parent in (1, store.serving()) and files.names(workdir / "state") == []
        points += 1
    print(f"unlearn: {points - 1} points")
    assert points > 5


def test_a_training_killed_at_any_point_is_gone_on_with(bucket, once, monkeypatch):
    points, finished = 0, False
    while not finished:
        workdir = absolute(f"{bucket}/{points}/run")
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            Deadline(patch, points * STRIDE)
            assert call(train, workdir, *SMALL) == 0
            finished = True
        serves = Store(workdir / "store").serving() is not None
        code = call(train, workdir, *SMALL)
        assert code == (2 if serves else 0), "a model that serves is not trained again"
        store = assert_whole(workdir)
        assert (len(store.history()), store.serving()) == (1, 1)
        assert finished or not serves or call(unlearn, workdir, *OTHER, "--restart") == 0
        assert files.names(workdir / "state") == []
        points += 1
    print(f"train: {points - 1} points")
    assert points > 3


def test_a_killed_evaluation_leaves_the_records_before(trained, bucket, once, monkeypatch):
    workdir = copied(trained, f"{bucket}/run")
    evaluation = functools.partial(call, evaluate, workdir, "--request=class:3", "--retrain=1")
    assert evaluation() == 0
    before, points, finished = objects.read(workdir / "evaluation.jsonl"), 0, False
    while not finished:
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            Deadline(patch, points * STRIDE // 3)
            finished = evaluation() == 0
        found = objects.read(workdir / "evaluation.jsonl")
        assert len(reporting.read(workdir / "evaluation.jsonl")) == 3
        assert finished or found == before
        points += 1
    print(f"evaluate: {points - 1} points")
    assert points > 3


def test_the_same_request_at_once_is_one_sentence(trained, bucket, once, monkeypatch, capsys):
    workdir, codes = copied(trained, f"{bucket}/run"), []
    monkeypatch.setattr(claims, "BEAT", 0.1)
    real = unlearn.guard.judge

    def meanwhile(*arguments):
        monkeypatch.setattr(unlearn.guard, "judge", real)
        codes.append(call(unlearn, workdir, *REQUEST))
        return real(*arguments)

    monkeypatch.setattr(unlearn.guard, "judge", meanwhile)
    assert call(unlearn, workdir, *REQUEST) == 0 and codes == [2]
    assert "another one is at it; wait until it has ended" in capsys.readouterr().err
    assert len(assert_whole(workdir).history()) == 2


def test_a_request_that_stood_still_is_not_published_twice(
    trained, bucket, once, monkeypatch, capsys
):
    workdir, codes, real = copied(trained, f"{bucket}/run"), [], unlearn.guard.judge

    def still(*arguments):
        monkeypatch.setattr(unlearn.guard, "judge", real)
        found = real(*arguments)
        codes.append(call(unlearn, workdir, *REQUEST))  # the claim has not been renewed
        return found

    monkeypatch.setattr(unlearn.guard, "judge", still)
    assert call(unlearn, workdir, *REQUEST) == 2 and codes == [0]
    assert "another one took it over while this one stood still" in capsys.readouterr().err
    store = assert_whole(workdir)
    assert (len(store.history()), store.serving()) == (2, 2)
    assert files.names(workdir / "state") == []


BINARY = textwrap.dedent(
    """
    import sys
    from experiments import unlearn
    from experiments.lib.command_line import start
    from mu_jax.store import claims

    claims.LEASE, claims.BEAT = 3.0, 0.5
    start(unlearn.main, unlearn.FLAGS)
    """
)


def begin(workdir, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", BINARY, f"--workdir={workdir}", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def test_a_process_killed_at_any_moment_is_gone_on_with(trained, bucket):
    workdir, moments = copied(trained, f"{bucket}/run"), random.Random(0)
    for _ in range(3):
        process = begin(workdir, *REQUEST)
        while not files.names(workdir / "state") and process.poll() is None:
            time.sleep(0.05)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moments.uniform(0.0, 4.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert assert_whole(workdir).serving() in (1, 2)
    process = begin(workdir, *REQUEST)
    said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    store = assert_whole(workdir)
    assert (len(store.history()), store.serving()) == (2, 2)
    assert files.names(workdir / "state") == []


def test_two_requests_at_once_lose_none(trained, bucket):
    workdir = copied(trained, f"{bucket}/run")
    both = [begin(workdir, f"--request=class:{k}", *REQUEST[1:]) for k in (3, 5)]
    said = [process.communicate(timeout=300) for process in both]
    codes = [process.returncode for process in both]
    store = assert_whole(workdir)
    notes = {each.note: each for each in store.history()}
    assert len(store.history()) == 3 and {"class:3", "class:5"} <= set(notes), said
    if sorted(codes) == [0, 4]:  # one has overtaken the other, which says so
        assert "published and not serving" in said[codes.index(4)][0]
    else:  # the second one began when the first had ended, and descends from it
        assert codes == [0, 0] and store.history()[-1].parent == 2, said
    assert files.names(workdir / "state") == []
