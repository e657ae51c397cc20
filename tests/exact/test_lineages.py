"""Lineages in a store: one serving loop for all methods, stops and crashes, meshes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from lineages import KEY, assert_same_bits, base, data, ids_in, requests, s3t, sisa
from linear_lineage import REQUESTS, examples, protocol
from trees import is_one_sentence, snapshot

import mu_jax as mu
from mu_jax.store import Store


def serve(store, unlearn, like, everything, forget_ids):
    """One request of any method, approximate or exact."""
    parent = store.serving()
    forget, retain = store.split(everything, forget_ids)
    variables = store.restore(like=like)
    after, info = unlearn(jax.random.key(parent), variables, forget, retain)
    version = store.publish(after, method=unlearn.words, parent=parent, forgotten=forget.index)
    store.swap(version, expected=parent)
    return info


def begun(directory, variables):
    store = Store(directory)
    store.swap(store.publish(variables, method="train"))
    return store


def test_one_serving_loop_does_for_exact_and_approximate_methods(tmp_path):
    own = protocol()
    start = own.train(KEY, examples())[0]
    single = jax.tree.map(lambda x: x[0], start.last.variables)
    tune = mu.watched(mu.finetune(own.base, optax.sgd(1e-2)), False)
    for name, unlearn, variables in (("sisa", own.unlearn, start), ("tune", tune, single)):
        store = begun(tmp_path / name, variables)
        for forget_ids in REQUESTS[:3]:
            info = serve(store, unlearn, variables, examples(), forget_ids)
            assert info.messages() == []
        assert store.forgotten().tolist() == sorted(k for part in REQUESTS[:3] for k in part)
        assert len(store.history()) == 4
    left = mu.split(examples(), store.forgotten())[1]
    exact = Store(tmp_path / "sisa").restore(like=start)
    assert_same_bits(exact, own.train(KEY, left)[0])


def test_the_store_knows_what_is_forgotten_already(tmp_path):
    own = protocol()
    variables = own.train(KEY, examples())[0]
    store = begun(tmp_path, variables)
    serve(store, own.unlearn, variables, examples(), [3, 4])
    serve(store, own.unlearn, variables, examples(), [4, 5])  # one of them is new
    assert store.forgotten().tolist() == [3, 4, 5]
    with pytest.raises(ValueError, match="not forgotten yet"):
        serve(store, own.unlearn, variables, examples(), [3, 5])
    assert store.serving() == 3


@pytest.mark.parametrize("make, given", [(sisa, (data(),)), (s3t, (base(), data()))])
def test_a_process_that_has_not_trained_knows_the_shapes_of_a_lineage(tmp_path, make, given):
    own = make(capacity=32)
    variables = own.train(KEY, *given)[0]
    store = begun(tmp_path, variables)
    like = own.like(jax.random.key(0), *(jax.eval_shape(lambda x: x, each) for each in given[:-1]))
    restored = store.restore(like=like)
    assert_same_bits(restored, variables)
    after = [requests(own, each, [3])[0] for each in (restored, variables)]
    assert_same_bits(*after)
    with pytest.raises(ValueError, match="a protocol with a capacity, found one") as error:
        make().like(jax.random.key(0), *given[:-1])
    assert is_one_sentence(str(error.value))


def test_rows_may_come_in_any_order():
    own = protocol()
    variables = own.train(KEY, examples())[0]
    forget, retain = mu.split(examples(), [3])
    shuffled = retain.take(np.random.default_rng(0).permutation(retain.num_examples))
    found = [own.unlearn(None, variables, forget, rows)[0] for rows in (retain, shuffled)]
    assert_same_bits(*found)


class Stop(Exception):
    pass


class StopsAfter:
    """Watches a training, and stops it after so many stages."""

    def __init__(self, stages):
        self.stages = stages

    def begin(self, total, carry, position):
        return carry, position

    def advance(self, carry, position):
        self.stages -= 1
        if self.stages == 0:
            raise Stop

    def end(self, carry, position):
        raise AssertionError


@pytest.mark.parametrize("stages", [1, 2])
def test_a_stopped_removal_goes_on_after_the_last_stage(tmp_path, stages):
    own = protocol()
    variables = own.train(KEY, examples())[0]
    before, sets = snapshot(variables), mu.split(examples(), [6])  # of a first slice
    config = {"forget": mu.datasets.digest(sets[0].index)}

    def resumable():
        return mu.resumable(tmp_path, config=config, min_seconds=0)

    with pytest.raises(Stop), resumable(), mu.loops.scan.observe(StopsAfter(stages)):
        own.unlearn(None, variables, *sets)
    assert_same_bits(snapshot(variables), before)  # the old lineage is whole
    taken = Taken()
    with resumable(), mu.loops.scan.observe(taken):
        after, info = own.unlearn(None, variables, *sets)
    assert taken.positions == list(range(stages + 1, own.slices + 1))
    expected, whole = own.unlearn(None, variables, *sets)
    assert_same_bits(after, expected)
    assert info.details.steps.tolist() == whole.details.steps.tolist()
    with pytest.raises(ValueError, match="configuration"):
        with pytest.raises(Stop), resumable(), mu.loops.scan.observe(StopsAfter(stages)):
            own.unlearn(None, variables, *sets)
        with mu.resumable(tmp_path, config={"forget": "another"}):
            own.unlearn(None, variables, *mu.split(examples(), [4]))


class Taken(StopsAfter):
    """Notes the stages that were trained."""

    def __init__(self):
        self.positions = []

    def advance(self, carry, position):
        self.positions.append(position)

    def end(self, carry, position):
        pass


def test_a_lineage_of_another_model_is_refused(tmp_path):
    own, other = protocol(), protocol(width=7)
    variables = own.train(KEY, examples())[0]
    forget, retain = mu.split(examples(), [3])
    with pytest.raises(ValueError, match="of this recipe, model and rows") as error:
        other.unlearn(None, variables, forget, retain)
    assert is_one_sentence(str(error.value))
    store = begun(tmp_path, variables)
    with pytest.raises(ValueError, match="expected"):
        store.restore(like=other.train(KEY, examples(7))[0])


@pytest.mark.slow
def test_kill_at_any_moment_leaves_the_old_or_the_new_lineage(tmp_path):
    """A process serves requests and is killed again and again; in the end all are done, once."""
    own = protocol()
    like = own.train(KEY, examples())[0]
    moments = random.Random(0)
    script = [sys.executable, str(Path(__file__).with_name("linear_lineage.py")), str(tmp_path)]
    root = Path(__file__).parents[1]
    path = os.pathsep.join(map(str, (root, root.parent, os.environ.get("PYTHONPATH", ""))))
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    kills = 0
    while True:
        process = subprocess.Popen(script, stdout=subprocess.PIPE, env=environment)
        assert process.stdout.readline() == b"ready\n"
        time.sleep(moments.uniform(0.0, 2.0 + kills))  # ends on a slow machine, too
        if process.poll() is not None:
            process.stdout.close()
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        kills += 1
        store = Store(tmp_path)
        if (store.directory / "SERVING").exists():
            served, gone = store.restore(like=like), store.forgotten().tolist()
            done = [part for part in REQUESTS if set(part) <= set(gone)]
            assert sorted(gone) == sorted(k for part in done for k in part)
            left = mu.split(examples(), gone)[1] if gone else examples()
            assert_same_bits(served, own.train(KEY, left)[0])
        assert kills < 60
    assert process.returncode == 0 and kills > 2
    assert Store(tmp_path).forgotten().tolist() == sorted(k for part in REQUESTS for k in part)


@pytest.mark.slow
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("layout", ["together", "one_by_one"])
@pytest.mark.parametrize("devices", [2, 4])
def test_the_same_on_a_mesh(axis_type, layout, devices):
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(axis_type,))
    asked = [ids_in(1, 1)[:1], [*ids_in(3, 0)[:1], *ids_in(0, 2)[:1]]]
    for make, given in ((sisa, (data(),)), (s3t, (base(), data()))):
        alone, divided = make(layout=layout), make(layout=layout, mesh=mesh)
        trained = [each.train(KEY, *given)[0] for each in (alone, divided)]
        assert_all_close(*trained)
        after, again = [requests(*pair, *asked) for pair in zip((alone, divided), trained)]
        assert_all_close(after[0], again[0])
        left = again[2]
        options = {} if make is sisa else {"without": again[0].gone}
        fresh = divided.train(KEY, *given[:-1], left, **options)[0]
        assert_same_bits(again[0], fresh)
        answers = [p.model.apply(v[0], left.inputs) for p, v in ((alone, after), (divided, again))]
        np.testing.assert_allclose(*answers, rtol=1e-4, atol=1e-5)


def assert_all_close(found, expected):
    for one, other in zip(*map(jax.tree.leaves, map(snapshot, (found, expected))), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_shards_have_to_divide_over_the_devices():
    mesh = mu.data_mesh()
    for make in (sisa, s3t):
        with pytest.raises(ValueError, match="divide over 8 devices, found 4") as error:
            make(mesh=mesh)
        assert is_one_sentence(str(error.value))
