"""A stopped run, started again, ends where an uninterrupted one does, bit for bit."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mu_jax as mu
from mu_jax.loops.scan import observe
from mu_jax.store import resuming

N, KEY, CONFIG = 12, jax.random.key(0), {"alpha": 1.5, "seed": 0}
MODEL = mu.from_function(
    lambda p, state, x: jnp.tanh(x @ p["w"]) @ p["v"], lambda o, t: jnp.square(o - t)
)
OPTIMIZER = optax.adam(0.05)


class Stopped(Exception):
    """A machine was taken away."""


class StopAfter:
    """Stops the run after some batches, counted over all its loops."""

    def __init__(self, batches):
        self.left, self.done, self.begun = batches, 0, []

    def begin(self, total, carry, position):
        del total
        self.begun.append(position)
        return carry, position

    def advance(self, carry, position):
        del carry, position
        self.done += 1
        if self.done == self.left:
            raise Stopped

    def end(self, carry, position):
        del carry, position


def data():
    inputs = jax.random.normal(jax.random.key(1), (N, 3))
    return mu.batches(inputs, jnp.sin(inputs.sum(1)), batch_size=4)


def pairs(batches):
    rows = zip(np.asarray(batches.inputs), np.asarray(batches.targets), strict=True)
    return mu.stream(list(rows), batch_size=batches.batch_size, index=np.asarray(batches.index))


def variables(scale=1.0):
    return mu.Variables(
        {"w": scale * jnp.linspace(-1, 1, 12).reshape(3, 4), "v": jnp.arange(1.0, 5.0)}
    )


def statistic(batches):
    return mu.collect(mu.statistics.importance(MODEL), variables(), batches)


def training(batches):
    objective = mu.supervised(MODEL)
    return mu.fit(MODEL, objective, OPTIMIZER, variables(), batches, key=KEY, epochs=2)


UNLEARN = mu.chain(mu.ssd(MODEL, alpha=1.2), mu.finetune(MODEL, OPTIMIZER, epochs=2))


def several_loops(batches):
    forget, retain = mu.split(batches, [1, 4, 7])
    return UNLEARN(KEY, variables(), forget, retain)


def assert_same(first, second):
    def as_data(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    assert jax.tree.structure(first) == jax.tree.structure(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(as_data(a), as_data(b))


def stop(run, directory, batches, after, **arguments):
    arguments = {"config": CONFIG, "min_seconds": 0.0, **arguments}
    with pytest.raises(Stopped), mu.resumable(directory, **arguments), observe(StopAfter(after)):
        run(batches)


def resume(run, directory, batches, **arguments):
    """The result of the second run, and where each of its loops began."""
    watch = StopAfter(None)
    with mu.resumable(directory, **{"config": CONFIG, **arguments}), observe(watch):
        result = run(batches)
    return result, watch.begun


def saved(directory):
    return sorted(p.parts[-3] for p in directory.glob("loop-*/steps/*"))


@pytest.mark.quick("1-list", "1-arrays", "2-arrays", "2-list")
@pytest.mark.parametrize("make", [lambda b: b, pairs, list], ids=["arrays", "stream", "list"])
@pytest.mark.parametrize("after", [1, 2])
def test_a_statistic_stopped_in_its_middle(tmp_path, make, after):
    batches = make(data())
    stop(statistic, tmp_path, batches, after)
    assert saved(tmp_path) == ["loop-0000"]
    result, begun = resume(statistic, tmp_path, batches)
    assert begun == [after]
    assert_same(result, statistic(batches))


@pytest.mark.quick("2-stream", "2-list", "5-list")
@pytest.mark.parametrize("make", [lambda b: b, pairs, list], ids=["arrays", "stream", "list"])
@pytest.mark.parametrize("after", [2, 5])
def test_a_fit_stopped_in_its_middle(tmp_path, make, after):
    batches = make(data())
    stop(training, tmp_path, batches, after)
    result, begun = resume(training, tmp_path, batches)
    assert begun == [after]
    assert_same(result, training(batches))


@pytest.mark.quick("arrays-3-*", "arrays-9-*")
@pytest.mark.parametrize(
    ("after", "begun"),
    [(1, [0, 0, 0]), (3, [1, 2, 0]), (4, [1, 3, 0]), (7, [1, 3, 3]), (9, [1, 3, 5])],
)
@pytest.mark.parametrize(
    "make",
    [lambda b: b, pytest.param(pairs, marks=pytest.mark.slow)],
    ids=["arrays", "stream"],
)
def test_a_transform_of_several_loops_stopped_anywhere(tmp_path, make, after, begun):
    """Three loops: importance of the forget set (1 batch), of the retain set (3), the fit (6)."""
    batches = make(data())
    if after == 1:
        stop(several_loops, tmp_path, batches, after, min_seconds=1000.0)
    else:
        stop(several_loops, tmp_path, batches, after)
    result, found = resume(several_loops, tmp_path, batches)
    assert found == begun
    assert_same(result, several_loops(batches))


def test_stopped_twice(tmp_path):
    stop(several_loops, tmp_path, data(), 3)
    stop(several_loops, tmp_path, data(), 3)
    result, begun = resume(several_loops, tmp_path, data())
    assert begun == [1, 3, 2]
    assert_same(result, several_loops(data()))


def test_without_a_stop_it_changes_nothing(tmp_path):
    result, begun = resume(several_loops, tmp_path, data(), min_seconds=0.0)
    assert begun == [0, 0, 0]
    assert_same(result, several_loops(data()))


def test_a_long_loop_over_arrays_is_saved_between_its_segments(tmp_path):
    def run(batches):
        objective = mu.supervised(MODEL)
        return mu.fit(MODEL, objective, OPTIMIZER, variables(), batches, key=KEY, epochs=30)

    stop(run, tmp_path, data(), 7)
    result, begun = resume(run, tmp_path, data())
    assert 0 < begun[0] < 90 and begun[0] % 7 == 0
    assert_same(result, run(data()))


def test_states_are_deleted_at_the_end_and_the_next_run_starts_anew(tmp_path):
    stop(several_loops, tmp_path, data(), 5)
    assert saved(tmp_path) == ["loop-0000", "loop-0001", "loop-0002"]
    resume(several_loops, tmp_path, data())
    assert saved(tmp_path) == []
    _, begun = resume(several_loops, tmp_path, data())
    assert begun == [0, 0, 0]


def test_between_saves_lie_min_seconds(tmp_path, monkeypatch):
    clock = iter(range(0, 10_000, 4))
    monkeypatch.setattr(resuming, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    steps = []
    monkeypatch.setattr(resuming, "save_state", lambda place, step, *rest: steps.append(step))
    with mu.resumable(tmp_path, config=CONFIG, min_seconds=10.0):
        training(data())
    assert steps == [3, 6]


def test_finished_loops_are_saved_however_short(tmp_path):
    stop(several_loops, tmp_path, data(), 6, min_seconds=1000.0)
    assert saved(tmp_path) == ["loop-0000", "loop-0001"]


def test_another_configuration_is_refused_before_anything_is_computed(tmp_path):
    stop(training, tmp_path, data(), 2)
    other, watch = {**CONFIG, "seed": 1}, StopAfter(None)
    with (
        pytest.raises(ValueError, match=r"expected a state of configuration .* found one of"),
        mu.resumable(tmp_path, config=other),
        observe(watch),
    ):
        training(data())
    assert watch.begun == []
    result, begun = resume(training, tmp_path, data())
    assert begun == [2]
    assert_same(result, training(data()))


def test_another_program_is_refused(tmp_path):
    stop(training, tmp_path, data(), 2)
    with pytest.raises(ValueError, match="expected "):
        resume(statistic, tmp_path, data())


def test_a_statistic_of_other_variables_is_not_resumed(tmp_path):
    """The configuration does not tell, the fingerprint does."""

    def other(batches):
        return mu.collect(mu.statistics.importance(MODEL), variables(1.01), batches)

    stop(statistic, tmp_path, data(), 2)
    with pytest.raises(ValueError, match="expected a statistic of these variables"):
        resume(other, tmp_path, data())


def test_a_configuration_that_cannot_be_compared_leaves_nothing_behind(tmp_path):
    directory = tmp_path / "run"
    with pytest.raises(ValueError, match="a configuration of finite numbers, strings, lists"):
        resume(training, directory, data(), config={"model": MODEL})
    assert not directory.exists()


def test_a_run_on_a_mesh_resumes_bit_identically(tmp_path):
    batches = mu.shard(data(), mu.data_mesh(jax.devices()[:4]))
    expected = training(batches)
    stop(training, tmp_path, batches, 3)
    result, begun = resume(training, tmp_path, batches)
    assert begun == [3]
    assert_same(result, expected)


def test_progress_goes_with_resuming(tmp_path, capsys):
    stop(training, tmp_path, data(), 2)
    with mu.progress("training"):
        result, begun = resume(training, tmp_path, data())
    assert begun == [2]
    assert_same(result, training(data()))
    assert capsys.readouterr().out == ""
