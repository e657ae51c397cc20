"""Objectives and gradient seams are values: equal ones are one, and share one compilation."""

import dataclasses

import jax
import optax
import pytest
from compilations import counted_compilations
from small_models import setting

import mu_jax as mu
from mu_jax import objectives
from mu_jax.loops.gradients import micro_batches, per_term, sam
from mu_jax.objectives.matching import matching

MODEL = setting("raw").model
OTHER = mu.restrict(MODEL, lambda name: name == "head")


def add(gradients):
    return optax.tree.add(*gradients.values())


OBJECTIVES = {
    "supervised": (lambda m, **o: objectives.supervised(m, **o), {"sign": -1.0}),
    "matching": (lambda m, **o: matching(m, **o), {"distance": "kl"}),
    "blindspot": (lambda m, **o: objectives.blindspot(m, **o), {"training_mode": True}),
}
SEAMS = {
    "sam": (sam, (0.1,), (0.2,)),
    "per_term": (per_term, (add,), (lambda g: add(g),)),
    "micro_batches": (micro_batches, (2,), (4,)),
    "gradient_restriction": (mu.gradient_restriction, (0.1, "global"), (0.1, "per_leaf")),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_compare_by_value(name):
    make, change = OBJECTIVES[name]
    assert make(MODEL) == make(MODEL) and hash(make(MODEL)) == hash(make(MODEL))
    assert make(MODEL) != make(MODEL, **change)
    assert make(MODEL) != make(OTHER)
    with pytest.raises(dataclasses.FrozenInstanceError):
        make(MODEL).model = OTHER


@pytest.mark.parametrize("name", SEAMS)
def test_seams_compare_by_value(name):
    make, arguments, others = SEAMS[name]
    assert make(*arguments) == make(*arguments) and hash(make(*arguments)) == hash(make(*arguments))
    assert make(*arguments) != make(*others)


@pytest.mark.parametrize("name", SEAMS)
def test_equal_objectives_and_seams_compile_once(name):
    make, arguments, _ = SEAMS[name]
    chosen, optimizer = setting("raw"), optax.sgd(0.1)

    def fit():
        objective = mu.supervised(MODEL)
        retain = chosen.sets()[1]
        key, seam = jax.random.key(0), make(*arguments)
        if name == "per_term":
            seam = make(_only)
        return mu.fit(
            MODEL, objective, optimizer, chosen.variables, retain, key=key, gradients=seam
        )

    fit()
    with counted_compilations() as compilations:
        fit()
    assert compilations == []


def _only(gradients):
    return gradients["loss"]
