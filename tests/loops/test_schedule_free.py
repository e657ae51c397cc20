"""Fits with schedule-free optimizers end at the parameters that are to be evaluated."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from fitting_cases import KEY, MODEL, OBJECTIVE, assert_same, by_hand, close, data, run, start
from trees import is_one_sentence

import mu_jax as mu
from mu_jax.loops import average_weights

FREE = optax.contrib.schedule_free(optax.adam(0.05, b1=0.0), 0.05)


def by_optax(steps):
    """What `schedule_free_eval_params` makes of the last parameters and state of a fit."""
    state, _ = run(optimizer=FREE, steps=steps)
    kept = state.opt_state
    return optax.contrib.schedule_free_eval_params(kept.state, kept.current), kept.current


def test_the_result_is_what_optax_evaluates_at_the_last_step():
    state, _ = run(optimizer=FREE, steps=5)
    evaluated, last = by_optax(5)
    close(state.variables.params, evaluated)
    close(last, by_hand(data(), 5, FREE)[0], rtol=1e-4)
    moved = jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), evaluated, last)
    assert min(jax.tree.leaves(moved)) > 1e-4  # else the test could not tell them apart


def test_a_fit_goes_on_from_its_last_parameters_bit_for_bit():
    whole, _ = run(optimizer=FREE, epochs=3)
    for steps in (1, 4):
        first, _ = run(optimizer=FREE, steps=steps)
        assert_same(run(optimizer=FREE, epochs=3, state=first)[0], whole)
    again, _ = run(optimizer=FREE, epochs=3, state=whole)
    assert_same(again.variables, whole.variables)


def test_masked_entries_keep_every_bit():
    decayed = optax.contrib.schedule_free(optax.adamw(0.05, b1=0.0, weight_decay=0.3), 0.05)
    mask = {"w": jnp.zeros((3, 2)).at[0, 0].set(1), "v": 0}
    state, _ = run(optimizer=decayed, epochs=2, update_mask=mask)
    before = start().params
    changed = np.asarray(state.variables.params["w"] != before["w"])
    assert changed[0, 0] and changed.sum() == 1
    np.testing.assert_array_equal(state.variables.params["v"], before["v"])
    phases = [mu.Phase(OBJECTIVE, decayed, data(), update_mask=mask)]
    found, _ = mu.fit_phases(MODEL, phases, start(), key=KEY, cycles=2)
    np.testing.assert_array_equal(found.variables.params["v"], before["v"])


def test_a_part_of_the_parameters_may_be_schedule_free():
    optimizer = optax.partition({"a": FREE, "b": optax.sgd(0.1)}, {"w": "a", "v": "b"})
    state, _ = run(optimizer=optimizer, steps=4)
    free = state.opt_state.inner_states["a"].inner_state
    z, y = free.state.z["w"], free.current["w"]
    x = (y - (1 - free.state.b1) * z) / free.state.b1
    np.testing.assert_allclose(state.variables.params["w"], x, rtol=1e-5)
    np.testing.assert_array_equal(state.variables.params["v"], free.current["v"])
    more, _ = run(optimizer=optimizer, steps=6, state=state)
    assert_same(more, run(optimizer=optimizer, steps=6)[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
def test_transforms_phases_and_programs_return_them():
    classifier = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)
    sets = mu.split(mu.batches(jnp.eye(4), jnp.arange(4) % 3, batch_size=2), [1])
    weights = mu.Variables(jnp.eye(4)[:, :3])
    tune = mu.finetune(classifier, FREE, epochs=3)
    after, _ = tune(KEY, weights, *sets)
    jitted, _ = jax.jit(tune)(KEY, weights, *sets)
    close(jitted.params, after.params)
    many, _ = jax.vmap(tune, in_axes=(0, None, None, None))(KEY[None], weights, *sets)
    close(many.params[0], after.params)
    found, _ = mu.fit_phases(MODEL, [mu.Phase(OBJECTIVE, FREE, data())], start(), key=KEY)
    first = jax.random.fold_in(KEY, 0)
    close(found.variables.params, run(optimizer=FREE, key=first)[0].variables.params)


def test_two_means_are_refused():
    with pytest.raises(ValueError, match="expected one mean of the parameters") as error:
        run(optimizer=optax.chain(FREE, average_weights()))
    assert is_one_sentence(str(error.value))
