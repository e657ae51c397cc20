"""Optimizers without a learning rate are refused where the objective has no lower bound."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from fitting_cases import ADAM, KEY, MODEL, OBJECTIVE, data, run, start
from trees import is_one_sentence

import mu_jax as mu
from mu_jax.loops.bounds import learning_rate_free

FREE = {
    "prodigy": optax.contrib.prodigy(),
    "dadapt_adamw": optax.contrib.dadapt_adamw(),
    "dog": optax.contrib.dog(),
    "dowg": optax.contrib.dowg(),
    "mechanize": optax.contrib.mechanize(ADAM),
    "cocob": optax.contrib.cocob(),
    "momo": optax.contrib.momo(),
    "momo_adam": optax.contrib.momo_adam(),
}
OTHERS = {
    "adam": ADAM,
    "momentum": optax.sgd(0.1, momentum=0.9),
    "schedule_free": optax.contrib.schedule_free(optax.sgd(0.1), 0.1),
    "a chain": optax.chain(optax.clip(1.0), optax.adamw(0.1)),
}
CLASSIFIER = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)
LABELED = mu.batches(jnp.eye(4), jnp.array([0, 1, 2, 1]), batch_size=2)
WEIGHTS = mu.Variables(jnp.eye(4)[:, :3])
PRODIGY = FREE["prodigy"]


def unlearn(transform, jitted=False):
    forget, retain = mu.split(LABELED, [1])
    transform = jax.jit(transform) if jitted else transform
    return transform(KEY, WEIGHTS, forget, retain)


@pytest.mark.parametrize("name", FREE)
def test_each_is_known_wherever_it_stands(name):
    params = {"w": jnp.ones(2), "v": jnp.ones(3)}
    within = {
        "alone": FREE[name],
        "in a chain": optax.chain(optax.clip(1.0), FREE[name]),
        "masked": optax.masked(FREE[name], {"w": True, "v": False}),
        "a group": optax.partition({"a": FREE[name], "b": ADAM}, {"w": "a", "v": "b"}),
    }
    for optimizer in within.values():
        assert learning_rate_free(optimizer.init(params)) == (name,)


def test_others_are_not_among_them():
    for optimizer in OTHERS.values():
        assert learning_rate_free(optimizer.init({"w": jnp.ones(2)})) == ()


@pytest.mark.quick("prodigy", "dog")
@pytest.mark.parametrize("name", FREE)
def test_each_descends_and_is_refused_to_ascend(name):
    run(optimizer=FREE[name], steps=2)
    with pytest.raises(ValueError, match=f"term 'loss' is raised .*, found {name}, whose") as error:
        run(objective=mu.supervised(MODEL, sign=-1.0), optimizer=FREE[name], steps=2)
    assert is_one_sentence(str(error.value))


def test_others_may_ascend():
    for name in ("adam", "schedule_free"):
        run(objective=mu.supervised(MODEL, sign=-1.0), optimizer=OTHERS[name], steps=1)


UNBOUNDED = {
    "gradient ascent": lambda optimizer: mu.gradient_ascent(CLASSIFIER, optimizer),
    "NegGrad+": lambda optimizer: mu.neg_grad_plus(CLASSIFIER, optimizer),
    "SCRUB": lambda optimizer: mu.scrub(CLASSIFIER, optimizer, epochs=1, max_epochs=1),
}
BOUNDED = {
    "capped ascent": lambda optimizer: mu.gradient_ascent(CLASSIFIER, optimizer, cap=2.0),
    "capped NegGrad+": lambda optimizer: mu.neg_grad_plus(CLASSIFIER, optimizer, cap=2.0),
    "SCRUB without max steps": lambda optimizer: mu.scrub(
        CLASSIFIER, optimizer, epochs=1, max_epochs=0, alpha=0.5, gamma=1.0
    ),
    "fine-tuning": lambda optimizer: mu.finetune(CLASSIFIER, optimizer),
}


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("name", UNBOUNDED)
def test_unbounded_methods_refuse_them(name, jitted):
    with pytest.raises(ValueError, match=r"^expected an .*, found .*prodigy|for prodigy") as error:
        unlearn(UNBOUNDED[name](PRODIGY), jitted)
    assert is_one_sentence(str(error.value))


@pytest.mark.parametrize("jitted", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")  # a step of prodigy is small
@pytest.mark.parametrize("name", BOUNDED)
def test_bounded_methods_take_them(name, jitted):
    after, _ = unlearn(BOUNDED[name](PRODIGY), jitted)
    assert np.all(np.isfinite(after.params))


def test_the_scale_may_come_from_what_is_frozen_and_the_examples_from_a_list():
    @dataclasses.dataclass(frozen=True)
    class Scaled:
        def __call__(self, variables, batch, frozen, key):
            terms, variables = OBJECTIVE(variables, batch, {}, key)
            return {"own": terms["loss"]._replace(scale=frozen["scale"])}, variables

    for scale in (2.0, jnp.array(0.0)):
        for batches in (data(), list(data())):
            run(batches, Scaled(), PRODIGY, steps=1, frozen={"scale": jnp.asarray(scale)})
    for batches in (data(), list(data())):
        with pytest.raises(ValueError, match="term 'own' is raised"):
            run(batches, Scaled(), PRODIGY, steps=1, frozen={"scale": jnp.array(-0.1)})

    def traced(scale, optimizer):
        return run(objective=Scaled(), optimizer=optimizer, steps=1, frozen={"scale": scale})[0]

    jax.jit(lambda scale: traced(scale, ADAM))(1.0)
    with pytest.raises(ValueError, match=r"scale of its term 'own' that is traced") as error:
        jax.jit(lambda scale: traced(scale, PRODIGY))(1.0)
    assert is_one_sentence(str(error.value))


def test_an_objective_may_say_what_it_is():
    @dataclasses.dataclass(frozen=True)
    class Said:
        bounded: bool

        def __call__(self, variables, batch, frozen, key):
            terms, variables = OBJECTIVE(variables, batch, frozen, key)
            return {"own": terms["loss"]._replace(scale=-1.0)}, variables

    run(objective=Said(True), optimizer=PRODIGY, steps=1)
    with pytest.raises(ValueError, match="says that it is not bounded"):
        run(objective=Said(False), optimizer=PRODIGY, steps=1)


def test_every_phase_is_looked_at():
    up = mu.supervised(MODEL, sign=-1.0)
    phases = [mu.Phase(OBJECTIVE, PRODIGY, data()), mu.Phase(up, PRODIGY, data())]
    with pytest.raises(ValueError, match="term 'loss' is raised"):
        mu.fit_phases(MODEL, phases, start(), key=KEY)
