"""Fits whose result is the running mean of their parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import counted_compilations
from fitting_cases import ADAM, KEY, MODEL, OBJECTIVE, assert_same, close, data, run, start
from trees import is_one_sentence

import mu_jax as mu
from mu_jax.loops import average_weights
from mu_jax.loops.averaging import AverageState


def averaging(start, every, optimizer=ADAM):
    return optax.chain(optimizer, average_weights(start, every))


def iterates(steps, **arguments):
    """The parameters before the first step and after each."""
    after = [run(steps=n, **arguments)[0].variables.params for n in range(1, steps + 1)]
    return [start().params, *after]


def mean(trees):
    return jax.tree.map(lambda *leaves: np.mean(np.stack(leaves), axis=0), *trees)


@pytest.mark.parametrize(("first", "every"), [(0, 1), (2, 3), (4, 2), (7, 1)])
def test_the_result_is_the_mean_of_the_chosen_steps(first, every):
    state, info = run(optimizer=averaging(first, every), steps=7)
    close(state.variables.params, mean(iterates(7)[first::every]))
    close(info, run(steps=7)[1])


def test_a_fit_goes_on_from_its_last_parameters_and_not_from_their_mean():
    optimizer = averaging(1, 2)
    whole, _ = run(optimizer=optimizer, epochs=3)
    for steps in (1, 4, 6):
        first, _ = run(optimizer=optimizer, steps=steps)
        assert_same(run(optimizer=optimizer, epochs=3, state=first)[0], whole)
        more = jax.jit(lambda state: run(optimizer=optimizer, epochs=3, state=state)[0])(first)
        close(more.variables, whole.variables)
    again, _ = run(optimizer=optimizer, epochs=3, state=whole)
    assert_same(again.variables, whole.variables)


class Stopped(Exception):
    pass


class StopAt:
    def __init__(self, step):
        self.step = step

    def begin(self, total, carry, position):
        return carry, position

    def advance(self, carry, position):
        if position == self.step:
            raise Stopped

    def end(self, carry, position):
        pass


def test_an_interrupted_fit_ends_with_the_same_bits(tmp_path):
    optimizer = averaging(2, 2)
    expected = run(optimizer=optimizer, epochs=3)
    interrupted = mu.resumable(tmp_path, config=0, min_seconds=0)
    with pytest.raises(Stopped), interrupted, mu.loops.observe(StopAt(5)):
        run(optimizer=optimizer, epochs=3)
    with mu.resumable(tmp_path, config=0, min_seconds=0):
        assert_same(run(optimizer=optimizer, epochs=3), expected)


MASK = {"w": np.array([[True, False], [False, True], [True, True]]), "v": np.array([False, True])}


def bits(x):
    return np.asarray(x).view(np.uint32)


@pytest.mark.parametrize("place", ["first", "last"])
def test_entries_that_are_masked_out_keep_every_bit(place):
    begin, decay = start(), optax.adamw(0.05, weight_decay=0.5)
    begin.params["w"] = begin.params["w"].at[0, 1].set(-0.0)
    links = (average_weights(1, 1), decay) if place == "first" else (decay, average_weights(1, 1))
    state, _ = mu.fit(
        MODEL,
        OBJECTIVE,
        optax.chain(*links),
        begin,
        data(),
        key=KEY,
        epochs=3,
        update_mask=MASK,
    )
    for name, mask in MASK.items():
        same = bits(state.variables.params[name]) == bits(begin.params[name])
        assert same[~mask].all() and not same[mask].any()


def test_leaves_that_are_not_trained_keep_every_bit():
    model = mu.restrict(MODEL, lambda name: name == "v")
    objective = mu.supervised(model)
    optimizer = averaging(1, 1, optax.adamw(0.05, weight_decay=0.5))
    state, _ = mu.fit(model, objective, optimizer, start(), data(), key=KEY, epochs=2)
    np.testing.assert_array_equal(state.variables.params["w"], start().params["w"])
    plain = [
        mu.fit(
            model,
            objective,
            optax.adamw(0.05, weight_decay=0.5),
            start(),
            data(),
            key=KEY,
            steps=n,
        )[0].variables.params["v"]
        for n in range(1, 7)
    ]
    close(state.variables.params["v"], jnp.mean(jnp.stack(plain), axis=0))


def test_a_part_of_the_leaves_may_be_averaged():
    parts = {"w": averaging(1, 1), "v": ADAM}
    both = optax.partition(parts, {"w": "w", "v": "v"})
    state, _ = run(optimizer=both, steps=6)
    after = iterates(6)
    close(state.variables.params, {"w": mean(after[1:])["w"], "v": after[-1]["v"]})
    first, _ = run(optimizer=both, steps=4)
    assert_same(run(optimizer=both, steps=6, state=first)[0], state)


def test_bfloat16_is_averaged_in_float32():
    def fitted(optimizer, steps):
        return mu.fit(
            MODEL, OBJECTIVE, optimizer, start(jnp.bfloat16), data(), key=KEY, steps=steps
        )[0]

    state = fitted(averaging(1, 1), 6)
    kept = [x for x in jax.tree.leaves(state.opt_state, is_leaf=_is_average) if _is_average(x)]
    assert kept[0].mean["w"].dtype == jnp.float32
    assert state.variables.params["w"].dtype == jnp.bfloat16
    after = [fitted(ADAM, n).variables.params for n in range(1, 7)]
    expected = jnp.mean(jnp.stack([x["w"] for x in after]).astype(jnp.float32), axis=0)
    np.testing.assert_array_equal(state.variables.params["w"], expected.astype(jnp.bfloat16))


def _is_average(x):
    return isinstance(x, AverageState)


def test_numbers_may_be_traced_and_compile_nothing():
    def fitted(first, every):
        return run(optimizer=averaging(first, every), epochs=2)[0].variables.params

    firsts, everies = jnp.array([0, 3, 5]), jnp.array([1, 2, 1])
    grid = jax.vmap(fitted)(firsts, everies)
    for number, chosen in enumerate(zip(firsts.tolist(), everies.tolist())):
        close(jax.tree.map(lambda x, n=number: x[n], grid), fitted(*chosen))
    with counted_compilations() as compilations:
        fitted(1, 4)
    assert not compilations


def test_phases_that_share_an_optimizer_state_share_the_mean():
    up, down = mu.supervised(MODEL, sign=-0.1), OBJECTIVE
    sgd = optax.sgd(0.1)

    def fitted(optimizer, steps=None, state=None):
        phases = [
            mu.Phase(objective, optimizer, data(), steps=1, optimizer_state="shared")
            for objective in (up, down)
        ]
        arguments = {"key": KEY, "cycles": 3, "steps": steps, "state": state}
        return mu.fit_phases(MODEL, phases, start(), **arguments)[0]

    after = [fitted(sgd, n).variables.params for n in range(2, 7, 2)]
    found = fitted(averaging(2, 2, sgd))
    close(found.variables.params, mean(after))
    first = fitted(averaging(2, 2, sgd), 3)
    assert_same(fitted(averaging(2, 2, sgd), state=first), found)


@pytest.mark.slow
def test_an_ensemble_is_averaged():
    keys = jax.random.split(KEY, 2)

    def init(key):
        return mu.Variables(jax.tree.map(lambda x: x + jax.random.normal(key), start().params))

    def trained(optimizer, epochs=1):
        batches = data().take(np.arange(4))  # one step an epoch
        return mu.ensembles.train(MODEL, optimizer, batches, keys, init=init, epochs=epochs)

    after = [trained(ADAM, epochs).params for epochs in (1, 2, 3)]
    close(trained(averaging(1, 1), 3).params, mean(after))


def test_a_start_behind_the_last_step_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match=r"within the 6 steps of the fit, found start=7") as error:
        run(optimizer=averaging(7, 1), epochs=2)
    assert is_one_sentence(str(error.value))
    phases = [mu.Phase(OBJECTIVE, averaging(4, 1), data())]
    with pytest.raises(ValueError, match="within the 3 steps") as error:
        mu.fit_phases(MODEL, phases, start(), key=KEY)
    for wrong in ({"start": -1}, {"every": 0}, {"start": 1.5}):
        with pytest.raises(ValueError, match="whole number") as error:
            average_weights(**wrong)
        assert is_one_sentence(str(error.value))


def test_inside_a_program_a_start_behind_the_last_step_leaves_the_last_parameters():
    found = jax.jit(lambda first: run(optimizer=averaging(first, 1), epochs=2)[0].variables)(7)
    close(found, run(epochs=2)[0].variables)
