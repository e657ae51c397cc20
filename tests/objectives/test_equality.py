"""Objectives and gradient seams are values: equal ones are one, and share one compilation."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest
from compilations import counted_compilations
from small_models import setting

import mu_jax as mu
from mu_jax import objectives
from mu_jax._callables import with_numbers, without_numbers
from mu_jax.loops.gradients import micro_batches, per_term, sam
from mu_jax.loops.smoothing import random_smoothing
from mu_jax.objectives.matching import matching

MODEL, SGD = setting("raw").model, optax.sgd(0.1)
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
    "random_smoothing": (random_smoothing, (0.1, 2), (0.1, 3)),
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


NUMBERS = {
    "supervised": lambda x: {"objective": mu.supervised(MODEL, sign=x)},
    "matching": lambda x: {
        "objective": matching(MODEL, proximity=x),
        "frozen": {"start": setting("raw").variables.params},
    },
    "sam": lambda x: {"gradients": sam(x)},
    "gradient_restriction": lambda x: {"gradients": mu.gradient_restriction(x, gradients=sam(x))},
    "given": lambda x: {"objective": _Scaled(mu.supervised(MODEL), x)},
}


@pytest.mark.parametrize("name", NUMBERS)
def test_other_numbers_compile_nothing_and_count(name):
    chosen = setting("raw")

    def fit(x):
        given = {"objective": mu.supervised(MODEL), **NUMBERS[name](x)}
        retain, key = chosen.sets()[1], jax.random.key(0)
        if name == "matching":
            retain = retain.replace(targets=mu.outputs(MODEL, chosen.variables, retain) + 1.0)
        objective = given.pop("objective")
        return mu.fit(MODEL, objective, SGD, chosen.variables, retain, key=key, **given)[1].loss

    first = fit(0.25)
    with counted_compilations() as compilations:
        other = fit(1.5)
    assert compilations == []
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(first, fit(0.25))


@functools.partial(jax.tree_util.register_dataclass, data_fields=["loss", "by"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class _Scaled:
    loss: mu.supervised
    by: float

    def __call__(self, *args):
        terms, variables = self.loss(*args)
        return {name: term._replace(scale=self.by) for name, term in terms.items()}, variables


def test_a_callable_is_its_form_and_its_numbers():
    for one, other in ((sam(0.1), sam(0.2)), (_Scaled(mu.supervised(MODEL), 2.0),) * 2):
        (form, numbers), (same, _) = map(without_numbers, (one, other))
        assert form == same and hash(form) == hash(same)
        assert with_numbers(form, numbers) == one
    assert without_numbers(add) == (add, ())
    listed = per_term(_Unhashable([1]))
    assert without_numbers(listed)[0].function is listed


@dataclasses.dataclass
class _Unhashable:
    names: list

    def __call__(self, gradients):
        return gradients["loss"]


def _only(gradients):
    return gradients["loss"]
