"""Computations compare by what they compute; their numbers are arguments."""

from __future__ import annotations

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import counted_compilations

from mu_jax.loops import lifting
from mu_jax.loops.lifting import lift, run

PARAMS = {"a": jnp.linspace(0.1, 1, 6).reshape(2, 3), "b": jnp.ones(3)}
OPTIMIZERS = {
    "sgd": lambda x: optax.sgd(x),
    "momentum": lambda x: optax.sgd(x, momentum=x, nesterov=True),
    "adam": lambda x: optax.adam(x, b1=x),
    "adamw": lambda x: optax.adamw(x, weight_decay=x),
    "schedule": lambda x: optax.sgd(optax.cosine_decay_schedule(x, 100)),
    "clipped": lambda x: optax.chain(optax.clip_by_global_norm(x), optax.sgd(x)),
    "masked": lambda x: optax.masked(optax.sgd(x), {"a": True, "b": False}),
    "if finite": lambda x: optax.apply_if_finite(optax.adam(x), 3),
    "every second": lambda x: optax.MultiSteps(optax.adam(x), 2).gradient_transformation(),
    "adafactor": lambda x: optax.adafactor(x),
    "injected": lambda x: optax.inject_hyperparams(optax.adam)(learning_rate=x),
    "polyak": lambda x: optax.polyak_sgd(x),
}

BRANCHES = ("if finite", "every second")  # numbers inside a branch are part of the computation


def update_of(optimizer):
    update = optax.with_extra_args_support(optimizer).update
    return lambda grads, state, params, loss: update(grads, state, params, value=loss)


def given(optimizer):
    grads = jax.tree.map(jnp.sin, PARAMS)
    return grads, optimizer.init(PARAMS), PARAMS, jnp.float32(0.5)


@pytest.mark.quick("sgd", "adam", "schedule", "if finite", "every second", "adafactor")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_of_a_kind_are_one_computation_with_their_own_numbers(name):
    one, other = (OPTIMIZERS[name](x) for x in (0.25, 0.25 if name in BRANCHES else 0.375))
    first, second = (lift(update_of(each), *given(each)) for each in (one, other))
    assert first.computation == second.computation
    assert hash(first.computation) == hash(second.computation)
    for optimizer, lifted in ((one, first), (other, second)):
        expected = jax.jit(update_of(optimizer))(*given(optimizer))
        found = run(lifted, *given(optimizer))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=3e-7), found, expected)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_second_one_compiles_nothing(name):
    one, other = (OPTIMIZERS[name](x) for x in (0.25, 0.25 if name in BRANCHES else 0.375))
    args = given(one)
    run(lift(update_of(one), *args), *args)
    with counted_compilations() as compilations:
        run(lift(update_of(other), *args), *args)
    assert compilations == []


def test_what_computes_something_else_is_not_equal():
    functions = [
        lambda x: x * 0.5,
        lambda x: x + 0.5,
        lambda x: (x * 0.5).sum(),
        lambda x: x**2 * 0.5,
        lambda x: x**3 * 0.5,
        lambda x: jax.lax.fori_loop(0, 3, lambda _, y: y * 0.5, x),
        lambda x: jax.lax.fori_loop(0, 3, lambda _, y: y * 0.25, x),
        lambda x: jax.lax.fori_loop(0, 4, lambda _, y: y * 0.25, x),
        lambda x: x[::-1] * 0.5,
    ]
    found = [lift(function, jnp.ones(3)).computation for function in functions]
    found.append(lift(functions[0], jnp.ones(4)).computation)
    found.append(lift(functions[0], jnp.ones(3, jnp.bfloat16)).computation)
    assert len(set(found)) == len(found)


def test_arrays_in_a_function_are_values():
    masks = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
    first, second = (lift(lambda x, m=m: x * m, jnp.ones(2)) for m in masks)
    assert first.computation == second.computation
    np.testing.assert_array_equal(run(second, jnp.full(2, 3.0)), [0, 3])


def test_arrays_of_other_types_are_refused():
    lifted = lift(lambda x: 2.0 * x, jnp.ones(3))
    with pytest.raises(lifting.OtherTypes):
        run(lifted, jnp.ones(4))


def test_what_is_kept_for_an_owner_goes_with_it():
    class Owner:
        pass

    traces = []

    def function(x):
        traces.append(None)
        return x * 2.0

    owner = Owner()
    for _ in range(3):
        lift(function, jnp.ones(3), owners=(owner,))
    lift(function, jnp.ones(4), owners=(owner,))
    assert len(traces) == 2
    for size in range(5, 25):
        lift(function, jnp.ones(size), owners=(owner,))
    assert len(lifting._OWNERS[owner]) <= lifting._KEPT
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is None
