"""What becomes of a request: served, withheld for inspection, overtaken; the binary in process."""

from __future__ import annotations

import dataclasses
import errno
import json
import pathlib
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from experiments import evaluate, quickstart, train, unlearn
from experiments.lib import pending, scoring
from experiments.lib.command_line import parse
from experiments.lib.methods import Request, make_method
from experiments.lib.running import read_config, write_records
from experiments.lib.tasks import make_task
from mu_jax import reporting
from mu_jax.store.versions import Store

SLOW = pytest.mark.slow
pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
NO_EPOCH = ["--method=finetune", "--set=epochs=0"]
TINY_RATE = ["--method=finetune", "--set=learning_rate=1e-6"]
NO_RATE = ["--method=finetune", "--set=learning_rate=0"]


def call(module, workdir: pathlib.Path, *arguments: str) -> int:
    """The exit code of a binary."""
    parse(module.FLAGS, ["binary", f"--workdir={workdir}", *arguments])
    try:
        module.main(["binary"])
    except SystemExit as end:
        return end.code or 0
    return 0


@pytest.mark.parametrize(
    "request_, arguments, reason",
    [
        ("class:3", ["--method=ssd"], None),
        pytest.param("random:0.05", TINY_RATE, "forgotten examples changed by", marks=SLOW),
        pytest.param("random:0.05:seed=10", ["--method=ssd"], None, marks=SLOW),
        pytest.param("random:0.05:seed=0", ["--method=ssd"], None, marks=SLOW),
        ("class:3", ["--method=iau"], "it has forgotten nothing: accuracy"),
        ("class:3", ["--method=ssd", "--set=alpha=1000"], "nothing: no weight changed"),
        pytest.param(
            "class:3",
            NO_EPOCH,
            "nothing: no weight changed",
            marks=SLOW,
        ),
        pytest.param(
            "random:0.05",
            ["--method=finetune", "--set=learning_rate=0"],
            "no weight changed",
            marks=SLOW,
        ),
    ],
)
def test_a_request_that_did_nothing_is_not_served(workdir, capsys, request_, arguments, reason):
    code = call(unlearn, workdir, f"--request={request_}", *arguments)
    store = Store(workdir / "store")
    record = store.history()[-1]
    assert (code, store.serving()) == ((0, 2) if reason is None else (3, 1)), record
    assert record.parent == 1 and (reason or "") in record.withheld
    assert {"forget loss before", "forget loss"} <= set(record.metrics)
    if reason is None:
        assert record.withheld == ""
    else:
        assert reason in capsys.readouterr().out


def test_a_request_that_did_nothing_serves_where_it_is_wished(workdir):
    request = ["--request=class:3", "--set=alpha=1000", "--serve_anyway"]
    assert call(unlearn, workdir, *request) == 0
    store = Store(workdir / "store")
    assert store.serving() == 2 and "nothing" in store.history()[1].withheld


def test_the_quickstart_serves_the_best_of_those_that_forgot(tmp_path):
    forget_set, methods = reporting.ForgetSet("class 3", 2, "ab"), ("idle", "honest")
    accuracy = {"retrain": 0.90, "do nothing": 0.99, "idle": 0.905, "honest": 0.80}
    records = [
        reporting.Record(
            name, forget_set, 0, {"accuracy": reporting.Metric(value, unit="fraction")}
        )
        for name, value in accuracy.items()
    ]
    (table,) = reporting.summarize(records)
    assert [label for label in quickstart.ranked(table) if label in methods] == ["idle", "honest"]
    config = types.SimpleNamespace(dataset="digits", methods={name: {} for name in methods})
    models = {name: {"w": np.full(3, value)} for name, value in accuracy.items()}
    withheld = {"idle": "it has forgotten nothing: no weight changed", "honest": ""}
    store, ids = Store(tmp_path / "store"), np.array([3, 5])
    task = types.SimpleNamespace(config=config, protocol=None)
    quickstart.publish(store, task, models, withheld, records, table, ids)
    assert (store.serving(), store.history()[2].method) == (3, "honest")
    assert [each.withheld for each in store.history()] == ["", withheld["idle"], ""]
    assert store.forgotten().tolist() == [3, 5]
    # A second run trains on all examples but those of its own request, and serves only with these.
    quickstart.publish(store, task, models, withheld, records, table, np.array([5, 7]))
    assert (store.serving(), len(store.history())) == (3, 6)
    assert "1 examples that version 3 has forgotten" in store.history()[5].withheld
    quickstart.publish(store, task, models, withheld, records, table, np.array([3, 5, 7]))
    assert (store.serving(), store.forgotten().tolist()) == (9, [3, 5, 7])


STOPPED = ["--request=class:3", "--method=ssd"]


def test_what_is_forgotten_is_in_no_set_of_a_later_request(workdir, monkeypatch, capsys):
    """Nor is it in the set by which models are retrained, to compare with."""
    assert call(unlearn, workdir, *STOPPED) == 0
    store, seen = Store(workdir / "store"), []
    gone = store.forgotten()

    def noted(workdir, store, task, parent, ids):
        seen.append(task.train.index)
        return 0

    def retrained(task, store, versions, insides, forget_set):
        seen.append(insides.sets["retain"].index)
        raise KeyboardInterrupt

    monkeypatch.setattr(unlearn, "unlearn", noted)
    assert call(unlearn, workdir, "--request=class:5", "--method=finetune") == 0
    monkeypatch.setattr(evaluate, "scored", retrained)
    with pytest.raises(KeyboardInterrupt):
        call(evaluate, workdir, "--request=class:5")
    assert len(seen) == 2 and gone.size > 40
    assert not any(np.isin(gone, index).any() for index in seen)
    monkeypatch.undo()
    assert call(unlearn, workdir, *STOPPED) == 0
    assert "forgotten already; nothing to do" in capsys.readouterr().out
    assert len(store.history()) == 2


def stop(monkeypatch, where, name, *, after: bool, but=lambda *arguments: False) -> None:
    """The next call of a function kills the process, in the beginning or at its end.

    but: of the arguments, whether a call goes on as if nothing was.
    """
    real = getattr(where, name)

    def killed(*arguments, **keywords):
        if but(*arguments):
            return real(*arguments, **keywords)
        monkeypatch.undo()
        if after:
            real(*arguments, **keywords)
        raise KeyboardInterrupt

    monkeypatch.setattr(where, name, killed)


def stop_at_publish(monkeypatch, *, after: bool) -> None:
    """The process is killed where it publishes a version, not where it stores a statistic."""
    stop(monkeypatch, Store, "publish", after=after, but=lambda at, _: at.directory.name != "store")


@pytest.fixture
def stopped(workdir, monkeypatch):
    """A working directory with a request that was killed before its publish."""
    stop(monkeypatch, scoring, "measure", after=False)
    with pytest.raises(KeyboardInterrupt):
        call(unlearn, workdir, *STOPPED)
    (state,) = (workdir / "state").iterdir()
    assert any(state.glob("loop-*")) and len(Store(workdir / "store").history()) == 1
    return workdir


def test_a_stopped_request_goes_on_and_then_leaves_nothing(stopped, capsys):
    assert call(unlearn, stopped, *STOPPED) == 0
    assert "Going on with the run that was stopped, begun 20" in capsys.readouterr().out
    assert list((stopped / "state").iterdir()) == [] and Store(stopped / "store").serving() == 2


def test_a_stopped_request_is_named_and_in_the_way_of_no_other(stopped, capsys):
    assert call(unlearn, stopped, *STOPPED, "--set=alpha=4", "--noswap") == 0
    said = capsys.readouterr().out
    assert "A stopped run is pending since 20" in said and "--request=class:3 --method=ssd" in said
    assert "this is a new run, since arguments.alpha changed" in said
    assert call(unlearn, stopped, "--request=class:5", "--method=ssd", "--noswap") == 0
    said = capsys.readouterr().out
    assert "A stopped run is pending since 20" in said and "new run" not in said
    assert len(list((stopped / "state").iterdir())) == 1


def test_a_damaged_record_of_a_stopped_request_is_in_nobodys_way(stopped, capsys):
    (record,) = (stopped / "state").glob("*/RUN.json")
    record.write_text("[" * 100_000)
    assert call(unlearn, stopped, "--request=class:5", "--method=ssd", "--noswap") == 0
    assert call(unlearn, stopped, *STOPPED) == 0 and "error" not in capsys.readouterr().err
    assert list((stopped / "state").iterdir()) == []


@pytest.mark.parametrize("value", ["[" * 100_000, "9" * 5000, "abc", "null", "[1]"])
def test_a_setting_that_no_method_takes_is_one_sentence(workdir, capsys, value):
    assert call(unlearn, workdir, "--request=class:3", f"--set=alpha={value}") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: expected a number") and said.count("\n") == 1


def test_restart_deletes_what_stopped_requests_have_kept(stopped, capsys):
    assert call(unlearn, stopped, "--request=class:5", "--method=ssd", "--restart") == 0
    assert "pending" not in capsys.readouterr().out and list((stopped / "state").iterdir()) == []


def test_changed_settings_are_not_resumed(stopped, capsys):
    path = stopped / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"batch_size": 100}))
    assert call(unlearn, stopped, *STOPPED) == 0
    said = capsys.readouterr().out
    assert "a new run, since config.batch_size changed" in said and "Going on" not in said


def test_a_request_killed_after_its_publish_is_not_published_twice(workdir, monkeypatch):
    stop_at_publish(monkeypatch, after=True)
    with pytest.raises(KeyboardInterrupt):
        call(unlearn, workdir, *STOPPED)
    store = Store(workdir / "store")
    assert (len(store.history()), store.serving()) == (2, 1)
    assert call(unlearn, workdir, *STOPPED) == 0
    assert (len(store.history()), store.serving()) == (2, 2)
    assert list((workdir / "state").iterdir()) == []


def test_a_request_killed_before_its_publish_goes_on(workdir, monkeypatch, capsys):
    stop_at_publish(monkeypatch, after=False)
    with pytest.raises(KeyboardInterrupt):
        call(unlearn, workdir, *STOPPED)
    assert call(unlearn, workdir, *STOPPED) == 0
    assert "Going on with the run that was stopped" in capsys.readouterr().out


def test_the_identity_of_a_run_is_what_decides_its_result(workdir):
    task = make_task(read_config(workdir))
    train = task.train

    def with_config(**changes):
        config = task.config.copy_and_resolve_references()
        config.update(changes)
        return dataclasses.replace(task, config=config)

    def identity(task, seed=0):
        return pending.describe(workdir / "state", "a run", task, seed=seed).identity

    others = [
        *(dataclasses.replace(task, train=train.replace(inputs=train.inputs + 1)),),
        *(dataclasses.replace(task, train=train.replace(targets=train.targets[::-1])),),
        *(dataclasses.replace(task, train=train.replace(index=train.index + 1)),),
        *(with_config(batch_size=7), with_config(limit=599)),
    ]
    found = [identity(task), identity(task, seed=1), *map(identity, others)]
    assert len(set(found)) == len(others) + 2
    assert identity(with_config(data_dir="/elsewhere")) == identity(task)


def test_a_training_killed_after_its_publish_is_not_published_twice(tmp_path, monkeypatch):
    fast = ["--config.limit=300", "--config.training.epochs=1"]
    stop_at_publish(monkeypatch, after=True)
    with pytest.raises(KeyboardInterrupt):
        call(train, tmp_path / "run", *fast)
    assert call(train, tmp_path / "run", *fast) == 0
    store = Store(tmp_path / "run/store")
    assert (len(store.history()), store.serving()) == (1, 1)


def test_the_same_request_at_once_is_one_sentence(workdir, monkeypatch, capsys):
    codes = []
    real = scoring.measure

    def meanwhile(*arguments, **keywords):
        monkeypatch.undo()
        codes.append(call(unlearn, workdir, *STOPPED))
        return real(*arguments, **keywords)

    monkeypatch.setattr(scoring, "measure", meanwhile)
    assert call(unlearn, workdir, *STOPPED) == 0 and codes == [2]
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "found that another one is at it; wait until it has ended" in said
    assert len(Store(workdir / "store").history()) == 2


def test_a_request_that_is_overtaken_is_published_and_does_not_serve(workdir, monkeypatch, capsys):
    real = scoring.measure

    def meanwhile(*arguments, **keywords):
        monkeypatch.undo()
        assert call(unlearn, workdir, "--request=class:5", "--method=ssd") == 0
        return real(*arguments, **keywords)

    monkeypatch.setattr(scoring, "measure", meanwhile)
    assert call(unlearn, workdir, *STOPPED) == 4
    store = Store(workdir / "store")
    assert [each.parent for each in store.history()] == [None, 1, 1] and store.serving() == 2
    assert "Version 3 is published and not serving: " in capsys.readouterr().out


def test_two_trainings_at_once_are_one_sentence(tmp_path, monkeypatch, capsys):
    fast = ["--config.limit=300", "--config.training.epochs=1"]
    codes, real = [], scoring.quality

    def meanwhile(*arguments, **keywords):
        monkeypatch.undo()
        codes.append(call(train, tmp_path / "run", *fast, "--seed=1"))
        return real(*arguments, **keywords)

    monkeypatch.setattr(scoring, "quality", meanwhile)
    assert call(train, tmp_path / "run", *fast) == 0 and codes == [2]
    assert "expected one process at a time for training in" in capsys.readouterr().err
    assert len(Store(tmp_path / "run/store").history()) == 1


def test_a_training_that_fails_leaves_no_configuration(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device", "store")

    monkeypatch.setattr(train, "trained", full)
    assert call(train, tmp_path / "run", "--config.limit=300") == 2
    assert not (tmp_path / "run/config.json").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", "[" * 100_000, None])
def test_a_damaged_configuration_is_one_sentence(tmp_path, capsys, text):
    path = tmp_path / "config.json"
    path.write_text(text) if text is not None else path.mkdir()
    assert call(unlearn, tmp_path, *STOPPED) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: expected ") and said.count("\n") == 1


@pytest.mark.parametrize("method", ["neg_grad_plus", "blindspot"])
def test_every_method_is_there_without_settings(workdir, method):
    parse(unlearn.FLAGS, ["binary", f"--workdir={workdir}", f"--method={method}"])
    task = make_task(unlearn.configuration(workdir))
    assert callable(make_method(task, method, Request(task.train, workdir)))


def test_serve_names_a_version_and_repairs_the_pointer(workdir, capsys):
    assert call(unlearn, workdir, "--request=class:3", "--set=alpha=1000") == 3
    store = Store(workdir / "store")
    assert call(unlearn, workdir, "--serve=2") == 3 and store.serving() == 1
    assert call(unlearn, workdir, "--serve=2", "--serve_anyway") == 0 and store.serving() == 2
    (workdir / "store/SERVING").write_text("{")
    assert call(unlearn, workdir, *STOPPED) == 2
    assert call(unlearn, workdir, "--serve=1") == 0 and store.serving() == 1
    assert call(unlearn, workdir, "--serve=9") == 2
    assert "expected version 9" in capsys.readouterr().err


def test_who_reads_records_meanwhile_reads_the_old_ones(tmp_path):
    path, forget_set = tmp_path / "records.jsonl", reporting.ForgetSet("one", 1, "ab")
    write_records(path, [reporting.Record("retrain", forget_set, 0)])
    old = path.read_text()
    with path.open() as reader:
        write_records(path, [reporting.Record("ssd", forget_set, 1)])
        assert reader.read() == old != path.read_text()


def test_two_evaluations_at_once_leave_a_whole_file(tmp_path):
    path = tmp_path / "evaluation.jsonl"
    sets = [
        [
            reporting.Record("retrain", reporting.ForgetSet(name, 1, "ab"), seed)
            for seed in range(size)
        ]
        for name, size in (("one", 300), ("two", 5))
    ]
    whole = {write_records(path, records).read_text() for records in sets}

    def write(records):
        for _ in range(60):
            write_records(path, records)

    found = set()
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(write, records) for records in sets]
        while not all(job.done() for job in jobs):
            found.add(path.read_text())
    assert all(job.result() is None for job in jobs) and found <= whole
    assert [entry.name for entry in tmp_path.iterdir()] == ["evaluation.jsonl"]
