"""The one optimization loop, continued anywhere."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import counted_compilations
from fitting_cases import (
    ADAM,
    KEY,
    MODEL,
    OBJECTIVE,
    N,
    as_data,
    assert_same,
    by_hand,
    close,
    data,
    pairs,
    run,
    squared,
    start,
    value_and_gradient,
)

import mu_jax as mu
from mu_jax.loops.fit import FitInfo
from mu_jax.loops.gradients import Term, micro_batches, sam
from mu_jax.losses import weighted_sum
from mu_jax.objectives import blindspot
from mu_jax.objectives.matching import matching


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("make", [lambda b: b, pairs], ids=["arrays", "stream"])
def test_it_is_the_loop_written_out(make, shuffle):
    batches = data(weight=jnp.linspace(0.5, 2, N))
    if make is pairs:
        batches = data()
    state, info = run(make(batches), epochs=2, shuffle=shuffle)
    params, losses = by_hand(batches, 6, shuffle=shuffle)
    close(state.variables.params, params)
    np.testing.assert_allclose(info.loss, losses, rtol=2e-5)
    assert int(state.step) == 6 and info.loss.shape == (6,)
    np.testing.assert_allclose(info.examples.sum(), 2 * batches.weight.sum(), rtol=1e-6)


def test_info_holds_the_norm_of_each_gradient():
    _, info = run(epochs=1, optimizer=optax.sgd(0.0), shuffle=False)
    for step in range(3):
        batch = data().at(step)
        grads = value_and_gradient(start().params, batch.inputs, batch.targets, batch.weight)[1]
        norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads)))
        np.testing.assert_allclose(info.gradient_norm[step], norm, rtol=1e-5)
        assert info.examples[step] == batch.weight.sum()


def test_a_list_of_batches_is_walked_in_its_own_order():
    state, _ = run(list(data()), epochs=2)
    close(state.variables.params, by_hand(data(), 6, shuffle=False)[0])


def test_jit_and_eager_agree():
    eager = run(epochs=2)
    jitted = jax.jit(lambda batches, key: run(batches, key=key, epochs=2))(data(), KEY)
    close(as_data(eager), as_data(jitted))


def test_an_ensemble_is_fitted_as_one_program():
    keys = jax.random.split(KEY, 3)
    states, infos = jax.vmap(lambda key: run(key=key, epochs=2))(keys)
    assert infos.loss.shape == (3, 6)
    for number, key in enumerate(keys):
        one, _ = run(key=key, epochs=2)
        close(jax.tree.map(lambda x, n=number: x[n], states.variables), one.variables, rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_steps_instead_of_epochs(steps):
    state, info = run(steps=steps)
    assert int(state.step) == steps and info.loss.shape == (steps,)
    close(state.variables.params, by_hand(data(), steps)[0])


def test_no_step_leaves_everything_as_it_was():
    state, info = run(steps=0)
    assert_same(state.variables, start())
    assert info.loss.shape == (0,) and info.messages() == []


def test_another_batch_size():
    state, info = run(batch_size=6)
    close(state.variables.params, by_hand(data(6), 2)[0])
    assert info.loss.shape == (2,)


def test_an_iterable_without_a_length_needs_steps():
    with pytest.raises(ValueError, match=r"known number, found an iterable .*: give steps"):
        run(batch for batch in data())
    state, _ = run((batch for batch in data()), steps=2)
    close(state.variables.params, by_hand(data(), 2, shuffle=False)[0])
    with pytest.raises(ValueError, match="expected 4 batches, found 3"):
        run((batch for batch in data()), steps=4)


@pytest.mark.parametrize("cut", [1, 3, 5])
@pytest.mark.parametrize("make", [lambda b: b, pairs, list], ids=["arrays", "stream", "list"])
def test_a_fit_continued_from_its_state_is_bit_identical(make, cut):
    batches = make(data())
    whole, _ = run(batches, epochs=3)
    first, _ = run(batches, steps=cut)
    unused = jax.random.key(99)
    second, info = mu.fit(
        MODEL, OBJECTIVE, ADAM, start(), batches, key=unused, epochs=3, state=first
    )
    assert_same(second, whole)
    assert info.loss[cut:].all() and not info.loss[:cut].any()


def test_a_fit_is_continued_under_jit_too():
    whole, _ = run(epochs=3)
    first, _ = run(steps=4)
    second, _ = jax.jit(lambda state: run(epochs=3, state=state))(first)
    close(as_data(second), as_data(whole))


def test_randomness_within_steps_does_not_depend_on_where_a_fit_was_cut():
    def noisy(variables, batch, frozen, key):
        noise = jax.random.normal(key, batch.targets.shape)
        losses = squared(MODEL.apply(variables, batch.inputs), batch.targets + noise)
        return {"loss": Term(weighted_sum(losses, batch.weight), batch.weight.sum())}, variables

    whole, _ = run(objective=noisy, epochs=2, shuffle=False)
    first, _ = run(objective=noisy, steps=4, shuffle=False)
    second, _ = run(objective=noisy, epochs=2, shuffle=False, state=first)
    assert_same(second, whole)
    _, still = run(objective=noisy, optimizer=optax.sgd(0.0), epochs=2, shuffle=False)
    assert still.loss[0] != still.loss[3]
    other, _ = run(objective=noisy, epochs=2, shuffle=False, key=jax.random.key(1))
    assert not np.array_equal(other.variables.params["w"], whole.variables.params["w"])


def test_the_callers_arrays_survive():
    variables, batches = start(), data()
    state, _ = mu.fit(MODEL, OBJECTIVE, ADAM, variables, batches, key=KEY)
    again, _ = mu.fit(MODEL, OBJECTIVE, ADAM, variables, batches, key=KEY)
    assert_same(state, again)
    kept = jax.tree.map(np.array, as_data(state))
    mu.fit(MODEL, OBJECTIVE, ADAM, variables, batches, key=KEY, state=state, epochs=2)
    assert_same(state, state._replace(variables=kept.variables, opt_state=kept.opt_state))


def distil(variables, batch, frozen, key):
    """Towards the outputs of a teacher."""
    del key
    wanted = MODEL.apply(frozen["teacher"], batch.inputs)
    losses = squared(MODEL.apply(variables, batch.inputs), wanted)
    return {"distil": Term(weighted_sum(losses, batch.weight), batch.weight.sum())}, variables


@pytest.mark.parametrize("make", [lambda b: b, list], ids=["arrays", "list"])
def test_three_teachers_are_one_trace(make):
    traces = []

    def objective(*arguments):
        traces.append(None)
        return distil(*arguments)

    batches, found = make(data(11)), []
    teachers = [jax.tree.map(lambda x, k=k: k * x, start()) for k in (1.0, 2.0, 3.0)]
    for teacher in teachers:
        _, info = run(batches, objective, frozen={"teacher": teacher})
        found.append(float(info.loss[0]))
    assert len(traces) == 1
    assert found[0] == 0 and 0 < found[1] < found[2]


def test_the_second_fit_compiles_nothing():
    run(epochs=2)
    key, batches, variables = jax.random.key(17), data(), start()
    with counted_compilations() as compilations:
        mu.fit(MODEL, OBJECTIVE, ADAM, variables, batches, key=key, epochs=2)
    assert compilations == []


def test_equal_objectives_and_seams_share_one_compilation():
    assert mu.supervised(MODEL) == OBJECTIVE and mu.supervised(MODEL) is not OBJECTIVE
    run(epochs=2, gradients=sam(0.1))
    with counted_compilations() as compilations:
        run(epochs=2, objective=mu.supervised(MODEL), gradients=sam(0.1))
    assert compilations == []
    other = mu.supervised(MODEL, training_mode=True)
    with counted_compilations() as compilations:
        run(epochs=2, objective=other, gradients=sam(0.1))
    assert compilations
    assert sam(0.1) != sam(0.2) and micro_batches(2) == micro_batches(2)


def test_the_value_reaches_an_optimizer_that_wants_it():
    params = start().params
    batch = (data().inputs, data().targets, jnp.ones(N))
    loss, grads = jax.device_get(value_and_gradient(params, *batch))
    rate = loss / sum(np.sum(g * g) for g in jax.tree.leaves(grads))
    expected = jax.tree.map(lambda p, g: np.asarray(p) - rate * g, params, grads)
    polyak = optax.polyak_sgd(max_learning_rate=1e3)
    state, _ = run(data(N), optimizer=polyak, shuffle=False)
    close(state.variables.params, expected, rtol=1e-4)


def test_schedules_count_the_steps_of_a_continued_fit():
    optimizer = optax.sgd(optax.piecewise_constant_schedule(0.1, {4: 0.0}))
    first, _ = run(optimizer=optimizer, steps=4)
    second, _ = run(optimizer=optimizer, epochs=2, state=first)
    assert_same(second.variables, first.variables)
    assert int(second.step) == 6


def test_a_divergence_is_reported_with_its_step():
    info = FitInfo(*(np.array(x, np.float32) for x in ([1, 5, 30, np.inf], [1, 2, 3, 4], [1] * 4)))
    assert info.messages() == [
        "The fit diverged: its loss grew from 1 to 30, and the loss was inf at step 3; lower the "
        "learning rate."
    ]
    _, info = run(optimizer=optax.sgd(1e3), epochs=40)
    step = int(np.argmin(np.isfinite(info.loss) & np.isfinite(info.gradient_norm)))
    [message] = info.messages()
    assert step > 1 and f"at step {step}; lower the learning rate." in message
    assert message.startswith("The fit diverged: its ")


def test_what_is_wrong_before_the_first_update_is_not_blamed_on_the_learning_rate():
    _, info = run(data(N).replace(targets=jnp.full(N, jnp.inf)))
    [message] = info.messages()
    assert "at step 0, before any update, so the learning rate is not the cause" in message
    assert message.startswith("The loss was ")
    info = info._replace(loss=np.ones(3), gradient_norm=np.array([np.nan, 1, 1]))
    [message] = info.messages()
    assert message.startswith("The gradient was nan at step 0 while the loss was finite, before")


def test_a_sound_fit_says_nothing():
    assert run()[1].messages() == []


@pytest.mark.parametrize("field", ["loss", "gradient_norm"])
def test_messages_name_the_first_bad_step_of_an_ensemble(field):
    good = np.ones((3, 5), np.float32)
    bad = good.copy()
    bad[1, 3] = np.nan
    info = FitInfo(good, good, good)._replace(**{field: bad})
    [message] = info.messages()
    assert message.startswith(f"The {field.split('_')[0]} was nan at step 3")
    assert "had grown before: check the examples of that step, and lower" in message


@dataclasses.dataclass(frozen=True)
class Spread:
    """Squared distance of the outputs to their mean over all rows of a batch, padding too."""

    training_mode: bool = False

    def __call__(self, variables, batch, frozen, key):
        outputs = MODEL.apply(variables, batch.inputs)
        apart = jnp.square(outputs - outputs.mean())
        return {"spread": Term(weighted_sum(apart, batch.weight), batch.weight.sum())}, variables


@dataclasses.dataclass(frozen=True)
class Mean:
    """The mean output, of which every row has its own part."""

    rows_are_independent = True

    def __call__(self, variables, batch, frozen, key):
        outputs = MODEL.apply(variables, batch.inputs)
        return {"mean": Term(weighted_sum(outputs, batch.weight), batch.weight.sum())}, variables


def test_sets_are_not_filled_up_for_an_objective_whose_rows_may_see_one_another():
    few = data(batch_size=64).take(range(5))
    _, info = run(few, Spread(), epochs=1, shuffle=False)
    outputs = MODEL.apply(start(), few.inputs)
    np.testing.assert_allclose(info.loss, [np.var(outputs)], rtol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_every_objective_says_whether_its_rows_are_independent(training):
    assert mu.supervised(MODEL, training_mode=training).rows_are_independent is not training
    assert matching(MODEL, training_mode=training).rows_are_independent is not training
    for name in ("training_mode", "teacher_in_training_mode"):
        objective = blindspot(MODEL, **{name: training})
        assert objective.rows_are_independent is not training


def test_small_sets_share_a_program_where_the_objective_says_that_rows_are_independent():
    sets = [data(batch_size=64).take(range(rows)) for rows in (5, 9)]
    run(sets[0], Mean(), epochs=1, shuffle=False)
    with counted_compilations() as compilations:
        _, info = run(sets[1], Mean(), epochs=1, shuffle=False)
    assert compilations == []
    expected = np.mean(MODEL.apply(start(), sets[1].inputs))
    np.testing.assert_allclose(info.loss, [expected], rtol=1e-5)
