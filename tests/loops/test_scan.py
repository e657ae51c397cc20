"""The one loop: arrays, iterables and streams; epochs, order, stops; watching it."""

from __future__ import annotations

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import counted_compilations

import mu_jax as mu
from mu_jax.data.batches import random_order
from mu_jax.loops import scan
from mu_jax.loops.scan import fold, num_batches, observe

N = 11


def data(batch_size=4):
    inputs = jax.random.normal(jax.random.key(0), (N, 3))
    return mu.batches(inputs, jnp.arange(N), batch_size=batch_size)


def pairs(batches):
    rows = zip(np.asarray(batches.inputs), np.asarray(batches.targets), strict=True)
    return mu.stream(list(rows), batch_size=batches.batch_size)


def ragged(batches):
    """The same batches as a list without padding."""
    return [jax.tree.map(lambda x, keep=batch.index >= 0: x[keep], batch) for batch in batches]


FORMS = {"arrays": lambda b: b, "list": list, "ragged list": ragged, "stream": pairs}


@pytest.fixture(params=FORMS.values(), ids=FORMS.keys())
def form(request):
    return request.param


def remember(carry, batch, scale=1.0):
    """Depends on the order of batches and of the rows in them; counts rows and calls."""
    place = jnp.arange(1.0, batch.weight.shape[0] + 1)
    seen = jnp.sum(batch.weight * place * jnp.sin(batch.inputs.sum(axis=1)))
    return {
        "trace": 0.7 * carry["trace"] + scale * seen,
        "rows": carry["rows"] + batch.weight.sum(),
        "calls": carry["calls"] + 1,
    }


def start():
    return {"trace": jnp.float32(0), "rows": jnp.float32(0), "calls": jnp.int32(0)}


def by_hand(batches, epochs=1, scale=1.0, orders=None):
    """The loop written out, on rows without padding."""
    trace = 0.0
    inputs = np.asarray(batches.inputs, np.float64)
    for epoch in range(epochs):
        rows = np.arange(N) if orders is None else np.asarray(orders[epoch])
        for first in range(0, N, batches.batch_size):
            x = inputs[rows[first : first + batches.batch_size]]
            seen = np.sum(np.arange(1, len(x) + 1) * np.sin(x.sum(axis=1)))
            trace = 0.7 * trace + scale * seen
    return trace


def assert_same(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize("batch_size", [1, 4, 11, 20])
def test_every_form_of_the_data_gives_the_loop_written_out(form, batch_size):
    batches = data(batch_size)
    carry = fold(remember, start(), form(batches))
    np.testing.assert_allclose(carry["trace"], by_hand(batches), rtol=2e-5)
    assert carry["rows"] == N and carry["calls"] == -(-N // batch_size)


def test_several_epochs(form):
    carry = fold(remember, start(), form(data()), epochs=3)
    np.testing.assert_allclose(carry["trace"], by_hand(data(), epochs=3), rtol=2e-5)
    assert carry["rows"] == 3 * N and carry["calls"] == 9


def test_under_jit_it_is_the_same_loop():
    eager = fold(remember, start(), data(), epochs=2, key=jax.random.key(1))
    jitted = jax.jit(lambda *a: fold(remember, *a, epochs=2, key=jax.random.key(1)))
    inside = jitted(start(), data())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), eager, inside)


def test_it_maps_over_carries_and_frozen_trees():
    scales = jnp.array([1.0, 2.0])
    carries = jax.vmap(lambda scale: fold(remember, start(), data(), scale))(scales)
    np.testing.assert_allclose(
        carries["trace"], [by_hand(data()), by_hand(data(), scale=2.0)], rtol=2e-5
    )


@pytest.mark.parametrize("make", [lambda b: b, pairs], ids=["arrays", "stream"])
def test_a_key_draws_a_new_order_in_every_epoch(make):
    key = jax.random.key(5)
    orders = [random_order(jax.random.fold_in(key, epoch), N) for epoch in range(3)]
    assert not np.array_equal(orders[0], orders[1])
    carry = fold(remember, start(), make(data()), epochs=3, key=key)
    np.testing.assert_allclose(carry["trace"], by_hand(data(), 3, orders=orders), rtol=2e-5)
    other = fold(remember, start(), make(data()), epochs=3, key=jax.random.key(6))
    assert other["trace"] != carry["trace"]


@pytest.mark.parametrize("key", [None, jax.random.key(3)], ids=["given order", "shuffled"])
@pytest.mark.parametrize("cut", [1, 3, 4, 8])
def test_a_loop_cut_in_two_is_bit_identical(form, key, cut):
    if key is not None and form in (list, ragged):
        pytest.skip("a list is not shuffled")
    batches = form(data())
    whole = fold(remember, start(), batches, epochs=3, key=key)
    first = fold(remember, start(), batches, epochs=3, key=key, stop=cut)
    assert first["calls"] == cut
    second = fold(remember, first, batches, epochs=3, key=key, start=cut)
    assert_same(second, whole)


def test_start_and_stop_may_be_traced():
    step = jax.jit(lambda carry, a, b: fold(remember, carry, data(), start=a, stop=b, epochs=2))
    carry = step(step(start(), 0, 2), 2, 6)
    np.testing.assert_allclose(carry["trace"], by_hand(data(), epochs=2), rtol=2e-5)


def test_frozen_trees_are_arguments_three_teachers_one_trace(form):
    traces = []

    def step(carry, batch, teacher):
        traces.append(None)
        return remember(carry, batch, teacher["scale"])

    batches = form(data())
    batches = batches if isinstance(batches, mu.Batches | mu.Stream) else [batches[0], batches[1]]
    found = [
        fold(step, start(), batches, {"scale": jnp.float32(scale)})["trace"]
        for scale in (1.0, 2.0, 3.0)
    ]
    assert len(traces) == 1
    np.testing.assert_allclose(np.array(found) / found[0], [1, 2, 3], rtol=1e-6)


def test_the_second_call_compiles_nothing(form):
    batches = form(data())
    fold(remember, start(), batches, key=None)
    carry = start()
    with counted_compilations() as compilations:
        fold(remember, carry, batches, key=None)
    assert compilations == []


def test_a_loop_cut_anywhere_compiles_nothing_new():
    fold(remember, start(), data(), epochs=2)
    carry = start()
    with counted_compilations() as compilations:
        carry = fold(remember, carry, data(), epochs=2, stop=3)
        fold(remember, carry, data(), epochs=2, start=3)
    assert len(compilations) == 0


def test_arrays_of_the_caller_survive_donation(form):
    batches, carry, scale = form(data()), start(), jnp.float32(2)
    first = fold(remember, carry, batches, scale)
    second = fold(remember, carry, batches, scale)
    assert_same(first, second)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((carry, scale, data())))
    fold(remember, first, batches, scale)
    assert_same(first, second)


def test_a_carry_that_is_frozen_too_survives():
    """A teacher that is the student at step 0 shares its buffers."""

    def toward(student, batch, teacher):
        return jax.tree.map(lambda s, t: s + 0.1 * (t - s) + batch.weight.sum(), student, teacher)

    params = {"w": jnp.ones(3)}
    first = fold(toward, params, data(), params)
    assert_same(first, fold(toward, params, data(), {"w": jnp.ones(3)}))
    assert params["w"].tolist() == [1, 1, 1]


class Watch:
    """Notes everything; starts `skip` batches late."""

    def __init__(self, skip=0):
        self.skip, self.seen = skip, []

    def begin(self, total, carry, position):
        self.seen.append(("begin", total, position))
        return carry, position + self.skip

    def advance(self, carry, position):
        self.seen.append(("advance", position, int(carry["calls"])))

    def end(self, carry, position):
        self.seen.append(("end", position, int(carry["calls"])))


def test_observers_see_every_loop_and_change_nothing(form):
    plain = fold(remember, start(), form(data()), epochs=2)
    watch = Watch()
    with observe(watch):
        watched = fold(remember, start(), form(data()), epochs=2)
    assert_same(plain, watched)
    steps = [("advance", k, k) for k in range(1, 7)]
    assert watch.seen == [("begin", 6, 0), *steps, ("end", 6, 6)]
    fold(remember, start(), form(data()))
    assert len(watch.seen) == 8


def test_a_long_loop_over_arrays_reports_some_twenty_times():
    watch = Watch()
    with observe(watch):
        carry = fold(remember, start(), data(1), epochs=10)
    positions = [entry[1] for entry in watch.seen if entry[0] == "advance"]
    assert 15 <= len(positions) <= 25 and positions[-1] == 110 == carry["calls"]
    assert_same(carry, fold(remember, start(), data(1), epochs=10))


def test_an_observer_may_start_a_loop_in_its_middle(form):
    watch = Watch(skip=2)
    with observe(watch):
        carry = fold(remember, start(), form(data()), epochs=2)
    assert carry["calls"] == 4
    expected = fold(remember, start(), form(data()), epochs=2, start=2)
    assert_same(carry, expected)


def test_observers_nest_and_leave_when_the_block_raises():
    outer, inner = Watch(), Watch()
    with observe(outer):
        with contextlib.suppress(RuntimeError), observe(inner):
            raise RuntimeError
        fold(remember, start(), data())
    assert inner.seen == [] and len(outer.seen) == 5


def test_loops_under_jit_are_not_watched():
    watch = Watch()
    with observe(watch):
        jax.jit(lambda carry: fold(remember, carry, data()))(start())
    assert watch.seen == []


def test_a_generator_is_walked_once():
    carry = fold(remember, start(), (batch for batch in data()))
    np.testing.assert_allclose(carry["trace"], by_hand(data()), rtol=2e-5)


def test_a_generator_is_refused_for_two_epochs():
    with pytest.raises(ValueError, match="walked through 2 times, found an iterator: give a list"):
        fold(remember, start(), iter(list(data())), epochs=2)


def test_a_generator_may_stop_early_but_not_run_out():
    carry = fold(remember, start(), iter(list(data())), epochs=2, stop=2)
    assert carry["calls"] == 2
    with pytest.raises(ValueError, match="expected 5 batches, found 3: give more data or fewer"):
        fold(remember, start(), iter(list(data())), epochs=2, stop=5)


def test_an_iterable_under_jit_is_refused():
    with pytest.raises(ValueError, match="array-backed Batches under jit, found an iterable"):
        jax.jit(lambda carry: fold(remember, carry, list(data())))(start())


@pytest.mark.parametrize("empty", [[], iter(())])
def test_an_empty_iterable_is_refused(empty):
    with pytest.raises(ValueError, match="at least one batch, found an empty iterable"):
        fold(remember, start(), empty)


def test_a_larger_batch_after_the_first_is_refused():
    batches = ragged(data())[::-1]
    with pytest.raises(ValueError, match="at most 3 rows, found 4: let the first batch"):
        fold(remember, start(), batches)


def test_num_batches():
    assert num_batches(data()) == num_batches(pairs(data())) == num_batches(list(data())) == 3
    assert num_batches(iter(())) is None


def test_whole_epochs_that_are_skipped_are_not_read():
    class Counted:
        walks, read = 0, 0

        def __len__(self):
            return 3

        def __iter__(self):
            self.walks += 1
            for batch in data():
                self.read += 1
                yield batch

    examples = Counted()
    found = fold(remember, start(), examples, epochs=3, start=7)
    assert (examples.walks, examples.read, int(found["calls"])) == (1, 3, 2)
    expected = fold(remember, start(), list(data()), epochs=3, start=7)
    np.testing.assert_array_equal(found["trace"], expected["trace"])


def test_a_pass_is_compiled_quickly_unless_flags_say_otherwise(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    assert scan._block_program(None) is scan._quickly_compiled_block
    assert scan._block_program(jax.random.key(0)) is scan._compiled_block
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=3")
    assert scan._block_program(None) is scan._compiled_block


def test_a_quickly_compiled_pass_gives_the_same(monkeypatch):
    def step(total, batch, scale):
        return total + (batch.weight[:, None] * jnp.sin(scale * batch.inputs)).sum(0)

    monkeypatch.setenv("XLA_FLAGS", "")
    found = fold(step, jnp.zeros(3), data(), jnp.float32(0.7))
    np.testing.assert_allclose(found, np.sin(0.7 * data().inputs).sum(0), 1e-5)
