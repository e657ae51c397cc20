"""Fits of several phases: the loop written out, its states, and continuing anywhere."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import counted_compilations
from fitting_cases import KEY, MODEL, OBJECTIVE, as_data, assert_same, close, data, pairs, start
from trees import is_one_sentence, stack

import mu_jax as mu
from mu_jax.loops.recording import record

UP, DOWN = mu.supervised(MODEL, sign=-1.0), OBJECTIVE
ADAM, MOMENTUM = optax.adam(0.02), optax.sgd(0.05, momentum=0.9)
SOURCES = pytest.mark.parametrize(
    "make", [lambda b: b, pairs, list], ids=["arrays", "stream", "list"]
)


def two(make=lambda b: b, memory="kept", optimizers=(ADAM, MOMENTUM), **options):
    """Two steps up in the first two cycles, then in every cycle three steps down."""
    batches = make(data(6).take(np.arange(8))), make(data(4))
    return [
        mu.Phase(UP, optimizers[0], batches[0], cycles=range(2), optimizer_state=memory, **options),
        mu.Phase(DOWN, optimizers[1], batches[1], optimizer_state=memory),
    ]


def run(phases, variables=None, *, key=KEY, cycles=3, **options):
    return mu.fit_phases(MODEL, phases, variables or start(), key=key, cycles=cycles, **options)


def by_hand(phases, memory, cycles=3):
    """The same with `mu.fit` for every step: one optimizer state each, or one for both."""
    keys = [jax.random.fold_in(KEY, number) for number in range(2)]
    opt_states = [phase.optimizer.init(start().params) for phase in phases]
    variables, steps, losses = start(), [0, 0], [[], []]
    for cycle in range(cycles):
        for number, phase in enumerate(phases):
            if phase.cycles is not None and cycle not in phase.cycles:
                continue
            owner = 0 if memory == "shared" else number
            if memory == "fresh":
                opt_states[number] = phase.optimizer.init(variables.params)
            for _ in range(phase.batches.num_batches):
                step = jnp.asarray(steps[number], jnp.int32)
                state = mu.FitState(step, variables, opt_states[owner], keys[number])
                state, info = mu.fit(
                    MODEL, phase.objective, phase.optimizer, None, phase.batches,
                    key=None, steps=steps[number] + 1, state=state,
                )  # fmt: skip
                variables, opt_states[owner] = state.variables, state.opt_state
                losses[number].append(info.loss[steps[number]])
                steps[number] += 1
    return variables, losses


@pytest.mark.parametrize("memory", ["kept", "fresh", "shared"])
def test_it_is_the_loop_written_out(memory):
    optimizers = (ADAM, ADAM if memory == "shared" else MOMENTUM)
    phases = two(memory=memory, optimizers=optimizers)
    state, info = run(phases)
    variables, losses = by_hand(phases, memory)
    assert_same(state.variables, variables)
    assert [int(steps) for steps in state.steps] == [4, 9]
    for fit, expected in zip(info.fits, losses, strict=True):
        np.testing.assert_array_equal(fit.loss, np.stack(expected))


def test_the_three_states_differ():
    found = [run(two(memory=m, optimizers=(ADAM, ADAM)))[0] for m in ("kept", "fresh", "shared")]
    weights = [np.asarray(state.variables.params["w"]) for state in found]
    assert all(np.abs(weights[i] - weights[j]).max() > 1e-4 for i, j in ((0, 1), (0, 2), (1, 2)))
    assert found[2].opt_states[1] == ()


def test_one_phase_is_a_fit():
    state, info = run([mu.Phase(DOWN, ADAM, data(), shuffle=True)], cycles=4)
    expected, fit = mu.fit(
        MODEL, DOWN, ADAM, start(), data(), key=jax.random.fold_in(KEY, 0), epochs=4
    )
    assert_same((state.variables, state.opt_states[0]), (expected.variables, expected.opt_state))
    assert_same(info.fits[0], fit)


@pytest.mark.quick(
    "1-kept-arrays",
    "1-fresh-arrays",
    "1-fresh-list",
    "2-kept-stream",
    "2-kept-list",
    "2-shared-arrays",
    "6-kept-stream",
    "6-fresh-stream",
    "6-shared-stream",
    "9-kept-arrays",
    "9-fresh-arrays",
    "9-shared-arrays",
)
@SOURCES
@pytest.mark.parametrize("memory", ["kept", "fresh", "shared"])
@pytest.mark.parametrize("cut", [1, 2, 6, 9])
def test_continued_anywhere_is_bit_identical(make, memory, cut):
    phases = two(make, memory=memory, optimizers=(ADAM, ADAM))
    whole, info = run(phases)
    first, _ = run(phases, steps=cut)
    assert sum(int(steps) for steps in first.steps) == cut
    second, rest = run(phases, None, key=jax.random.key(99), state=first)
    assert_same(second, whole)
    for all_steps, later, done in zip(info.fits, rest.fits, first.steps, strict=True):
        np.testing.assert_array_equal(later.loss[int(done) :], all_steps.loss[int(done) :])


def test_under_jit_a_continued_fit_too():
    phases = two()
    whole, _ = run(phases)
    first, _ = run(phases, steps=6)
    second, _ = jax.jit(lambda state: run(phases, state=state))(first)
    close(as_data(second), as_data(whole))


@pytest.mark.quick("kept")
@pytest.mark.parametrize("memory", ["kept", "fresh", "shared"])
def test_jit_and_eager_agree(memory):
    def fit(batches, key):
        phases = two(lambda b: b, memory=memory, optimizers=(ADAM, ADAM))
        phases[1] = mu.Phase(DOWN, ADAM, batches, optimizer_state=memory)
        return run(phases, key=key, record=lambda v: v.params["w"].sum())

    close(as_data(jax.jit(fit)(data(), KEY)), as_data(fit(data(), KEY)))


def test_a_program_holds_each_phase_once_whatever_the_number_of_cycles():
    def size(cycles):
        program = jax.make_jaxpr(lambda key: run(two(), key=key, cycles=cycles)[0])(KEY)
        return str(program).count("tanh")

    assert size(2) == size(9) > 0


def test_a_second_fit_compiles_nothing():
    run(two())
    other, key = jax.tree.map(lambda x: 2 * x, start()), jax.random.key(5)
    with counted_compilations() as compilations:
        run(two(), other, key=key)
    assert compilations == []


@pytest.mark.slow
def test_an_ensemble_and_step_sizes_are_one_program():
    keys, rates = jax.random.split(KEY, 3), jnp.array([0.01, 0.02, 0.05])

    def fit(key, rate):
        return run(two(optimizers=(optax.adam(rate), MOMENTUM)), key=key)[0].variables

    close(
        jax.vmap(fit)(keys, rates),
        stack([fit(key, float(rate)) for key, rate in zip(keys, rates)]),
        rtol=1e-4,
    )


@pytest.mark.quick("arrays")
@SOURCES
def test_resumed_in_the_middle_of_a_cycle_is_bit_identical(make, tmp_path):
    class Stopped(Exception):
        pass

    class Watch:
        def __init__(self, at=None):
            self.steps, self.at = 0, at

        def begin(self, total, carry, position):
            return carry, position

        def advance(self, carry, position):
            self.steps += 1
            if self.steps == self.at:
                raise Stopped

        def end(self, carry, position):
            pass

    phases = two(make, memory="shared", optimizers=(ADAM, ADAM))
    whole = run(phases)
    with (
        pytest.raises(Stopped),
        mu.resumable(tmp_path, config=0, min_seconds=0),
        mu.loops.observe(Watch(7)),
    ):
        run(phases)
    rest = Watch()
    with mu.resumable(tmp_path, config=0, min_seconds=0), mu.loops.observe(rest):
        found = run(phases)
    assert rest.steps == 13 - 7
    assert_same(found, whole)


def test_records_are_taken_after_every_cycle():
    def records(variables):
        return run(two(), variables, record=lambda variables: variables.params)[1].records

    for call in (records, jax.jit(records)):
        found = call(start())
        for cycle in range(3):
            expected = run(two(), cycles=cycle + 1)[0].variables.params
            close(jax.tree.map(lambda x, c=cycle: x[c], found), expected)


def test_steps_of_a_phase_go_on_through_its_data():
    phases = [mu.Phase(DOWN, ADAM, data(), steps=2)]
    found, _ = run(phases, cycles=3)
    expected, _ = mu.fit(
        MODEL, DOWN, ADAM, start(), data(), key=jax.random.fold_in(KEY, 0), steps=6
    )
    assert_same(found.variables, expected.variables)


def test_adversaries_train_their_own_parts():
    halves = [mu.restrict(MODEL, lambda name, part=part: name == part) for part in ("w", "v")]
    phases = [
        mu.Phase(mu.supervised(m, sign=s), ADAM, data(), steps=1, model=m)
        for m, s in zip(halves, (1.0, -1.0))
    ]
    one, _ = run(phases, cycles=1, steps=1)
    assert_same(one.variables.params["v"], start().params["v"])
    both, _ = run(phases, cycles=1)
    assert_same(both.variables.params["w"], one.variables.params["w"])
    assert not np.array_equal(both.variables.params["v"], one.variables.params["v"])


def test_a_recording_notes_each_phase_once_with_all_its_steps():
    with record() as programs:
        jax.eval_shape(lambda v: run(two(), v), start())
    assert [program.times for program in programs] == [4, 9]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: run([]), "at least one phase"),
        (lambda: run(two(), cycles=0), "and one cycle"),
        (lambda: run(two(), steps=14), "up to 13, those of all cycles, found 14"),
        (lambda: run(two(memory="shared")), "optimizers of one kind"),
        (lambda: run([mu.Phase(DOWN, ADAM, iter(data()))]), "without a length: give steps"),
    ],
)
def test_refused_in_one_sentence(call, says):
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert is_one_sentence(str(error.value))


def test_a_phase_that_diverges_is_named():
    _, info = run([mu.Phase(DOWN, ADAM, data()), mu.Phase(UP, optax.sgd(1e30), data())])
    assert any(message.startswith("Phase 1: The loss was") for message in info.messages())
    assert run(two())[1].messages() == []
