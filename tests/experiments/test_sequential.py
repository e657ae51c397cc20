"""Requests one after another: what each method is given, what it goes on from, what is recorded."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
from compilations import counted_compilations
from in_process import call, refused

import mu_jax as mu
from experiments.configs import tuned_digits
from experiments.lib import sequence_tables
from experiments.lib.populations import everything
from experiments.lib.sequence_runs import begin, run_sequence
from experiments.lib.sequences import Touched, ask, draw_requests, with_room
from experiments.lib.tasks import make_task
from mu_jax import ensembles, plots, reporting

MODELS, REQUESTS, SIZE = 3, 3, 3  # of fewer than ten examples there is no membership attack


@pytest.fixture(scope="module")
def task():
    config = tuned_digits.get_config()
    config.limit, config.training.epochs, config.training.batch_size = 160, 4, 16
    return make_task(config)


@pytest.fixture(scope="module")
def requests(task):
    return draw_requests(task, REQUESTS, SIZE, seed=1)


@pytest.fixture(scope="module")
def lineages(task, requests, tmp_path_factory):
    where = tmp_path_factory.mktemp("ensembles")
    return begin(task, requests, ["ssd"], where, models=MODELS, shards=2, slices=2)


@pytest.fixture(scope="module")
def steps(task, requests, lineages):
    """The run; of each request what SSD began with and ended with, and what was compiled."""
    ssd, seen, answer = lineages.methods[0], [], type(lineages).rows

    class Watched(type(lineages)):
        def rows(self, task, asked):
            before = jax.device_get(ssd.variables)
            with counted_compilations() as compiled:
                found = answer(self, task, asked)
            seen.append((asked, before, jax.device_get(ssd.variables), len(compiled)))
            return found

    return seen, run_sequence(task, requests, Watched(*lineages), every=REQUESTS)


def test_no_retain_set_holds_what_was_asked_for_before(task, requests):
    assert np.unique(requests).size == requests.size
    inputs = {i: x.tobytes() for i, x in zip(np.asarray(task.train.index), task.train.inputs)}
    for number in range(1, REQUESTS + 1):
        asked = ask(task, requests, number)
        gone = set(requests[:number].ravel().tolist())
        assert set(asked.so_far.tolist()) == gone
        assert set(asked.forget.index.tolist()) == set(requests[number - 1].tolist())
        contents = {inputs[i] for i in gone}
        for retain in (asked.retain, asked.filled):
            assert not gone & set(retain.index.tolist())
            assert not contents & {np.asarray(x).tobytes() for x in retain.inputs}
        left = task.train.num_examples - SIZE * number
        assert asked.retain.num_examples == left == asked.filled.weight.sum()
        assert asked.filled.num_examples == task.train.num_examples - SIZE


def test_every_request_runs_the_programs_of_the_first(steps):
    assert [number for *_, number in steps[0]][1:] == [0] * (REQUESTS - 1)


def test_a_method_goes_on_from_its_own_result_on_the_retain_set_of_the_request(task, steps):
    seen = steps[0]
    for (_, _, ended, _), (_, began, found, _) in itertools.pairwise(seen):
        assert all(jax.tree.leaves(jax.tree.map(np.array_equal, ended, began)))
        assert any(jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), began, found)))
    config, (asked, began, found, _) = task.config.methods.ssd, seen[-1]
    unlearn = mu.ssd(task.model, alpha=config.alpha, dampening=config.dampening)
    keys = jax.random.split(jax.random.key(0), MODELS)
    wanted, _ = ensembles.unlearn(unlearn, keys, began, asked.forget, asked.retain)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_rows_without_weight_say_nothing(task):
    some = task.train.take(np.arange(10))
    filled = with_room(some, 16)
    assert filled.weight.tolist() == [1.0] * 10 + [0.0] * 6
    assert set(filled.index.tolist()) == set(some.index.tolist())


def test_sisa_equals_its_protocol_trained_without_what_was_asked_for(
    task, requests, lineages, steps
):
    sharded = lineages.sharded
    retain = ask(task, requests, REQUESTS).retain
    lineage = sharded.lineages[0]
    again, _ = sharded.protocol.train(lineage.key, retain)
    same = jax.tree.map(
        np.array_equal, (lineage.last, lineage.earlier), (again.last, again.earlier)
    )
    assert all(jax.tree.leaves(same))
    touched = sharded.touched
    assert len(touched) == REQUESTS and all(isinstance(one, Touched) for one in touched)
    rows = lineage.rows
    assert int(rows.counts.sum()) == retain.num_examples
    for asked, one in zip((asked for asked, *_ in steps[0]), touched):
        retrained = (one.first < 2).any(axis=1)
        assert retrained.all() and (one.steps > 0).all() and (one.passes > 0).all()
        assert (one.passes < task.config.training.epochs * asked.retain.num_examples * 1.5).all()


def test_retraining_is_of_fresh_models_for_every_request(task, requests, lineages, steps):
    asked = ask(task, requests, REQUESTS)
    row = lineages.retrained.answer(asked)
    both = np.concatenate([lineages.retrained.others, row.outputs])
    assert np.unique(both.reshape(len(both), -1), axis=0).shape[0] == 2 * MODELS
    other = lineages.retrained.answer(asked._replace(number=1))  # on the same retain set
    assert not np.isclose(other.outputs, row.outputs).all(axis=(1, 2)).any()


def test_records_have_the_request_and_what_was_forgotten_so_far(task, requests, steps):
    run = steps[1]
    rows = sequence_tables.by_request(run.records)
    assert list(rows) == [1, 2, 3]
    for number, found in rows.items():
        assert list(found) == ["retrain", "do nothing", "constant", "ssd", "sisa"]
        for record in found.values():
            assert record.forget_set.size == SIZE * number
            assert record.forget_set.kind == "3 random requests of 3"
            assert record.metrics["forget accuracy"].value is not None
        assert found["retrain"].cost.wall_s > 0 and found["sisa"].cost.forward > 0
        measured = {name for name in found["ssd"].metrics if "KLoM" in name or name == "MIA"}
        assert bool(measured) == (number in (1, 3))
    assert rows[1]["constant"].status == "collapsed"
    (arrays,) = run.arrays.values()
    forgotten = arrays.examples["ssd"]["forget"]
    assert sorted(forgotten.ids.tolist()) == sorted(requests.ravel().tolist())
    outputs = ensembles.ensemble_outputs(task.model, steps[0][-1][2], everything(task))
    where = np.isin(np.asarray(everything(task).index)[: task.train.num_examples], requests)
    right = np.asarray(outputs)[:, : where.size][:, where].argmax(-1) == forgotten.targets
    assert rows[3]["ssd"].metrics["forget accuracy"].value == pytest.approx(right.mean())
    assert arrays.others["sisa first"].shape == (REQUESTS, MODELS, 2)
    np.testing.assert_array_equal(arrays.others["requests"], requests)


def test_the_sequence_is_drawn_and_has_its_table(steps):
    records = steps[1].records
    found = plots.drift(records).to_dict(validate=False)
    titles = [panel["title"]["text"] for panel in found["concat"]]
    assert titles[-2:] == ["KLoM forget p95", "run time of a request"]
    lines = sequence_tables.page(records).splitlines()
    assert sum(line.startswith("| 3 |") for line in lines) == 1
    assert any(line.startswith("* sisa: ") and "of the passes" in line for line in lines)


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--models=4"], "expected at least 20 models, below which KLoM is noise, found 4"),
        (["--methods=sdd"], "expected a method of the configuration among bad_teacher, "),
        (["--methods=dmm"], "expected a method whose program suits every request, found 'dmm'"),
        (["--shards=126"], "found 126 shards of 4 slices for 1000 training examples"),
        (["--size=11"], "at most half of 1000 training examples, found 50 of 11"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_trained(tmp_path, flags, said):
    assert said in refused("sequential", f"--workdir={tmp_path / 'run'}", *flags)
    assert not (tmp_path / "run" / "ensembles").exists()


@pytest.mark.slow
def test_the_binary_leaves_records_arrays_a_table_and_the_page(tmp_path):
    small = ["--config.limit=160", "--config.training.epochs=4", "--config.training.batch_size=16"]
    flags = ["--models=20", "--requests=2", "--methods=ssd", "--shards=2", "--slices=2"]
    ended = call("sequential", f"--workdir={tmp_path}", *flags, *small)
    assert ended.returncode == 0, ended.stderr
    run = reporting.read_run(tmp_path / "results.jsonl")
    assert {record.forget_set.request for record in run.records} == {1, 2} and run.digest
    table = (tmp_path / "table.md").read_text()
    assert table == sequence_tables.page(run.records) and table in ended.stdout
    assert 'id="set0-drift-title"' in (tmp_path / "report.html").read_text()
    assert run.arrays["2 random requests of 4"].others["requests"].shape == (2, 4)
