"""UNSIR: which classes and examples it uses, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import setting
from trees import assert_close, is_one_sentence

import mu_jax as mu
from mu_jax.transforms._shared.classes import draw_by_class

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KEY, SGD = jax.random.key(0), optax.sgd(0.1)
MODEL = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)
START = mu.Variables(jnp.ones((2, 5)))
# Classes 0 to 4 of 3, 9, 4, 9 and 0 examples, in this order.
LABELS = np.repeat([0, 1, 2, 3], [3, 9, 4, 9])


def sets(*forgotten, **options):
    data = mu.batches(jnp.ones((25, 2)), LABELS, batch_size=4, **options)
    return mu.split(data, np.flatnonzero(np.isin(LABELS, forgotten)))


def drawn(forget, retain, key=KEY, *, labels=4, most=4):
    return draw_by_class(key, MODEL, START, forget, retain, labels=labels, most=most)


def test_every_class_that_stays_is_sampled():
    found, sample = drawn(*sets(1))
    assert found.labels.tolist() == [1] * 4
    real = np.asarray(sample.weight) > 0
    # No more than 4 of each of the 4 classes that may be left; one of them has no example.
    assert sample.num_examples == 16 and np.asarray(sample.targets).tolist().count(1) == 0
    assert np.bincount(np.asarray(sample.targets)[real]).tolist() == [3, 0, 4, 4]
    assert len(set(np.asarray(sample.index)[real])) == 11
    assert (int(found.number), int(found.drawn)) == (1, 11)
    others = {tuple(drawn(*sets(1), jax.random.key(i))[1].index.tolist()) for i in range(3)}
    assert len(others) == 3


def test_several_classes_have_labels_of_their_own():
    found, sample = drawn(*sets(1, 3), labels=5)
    assert found.labels.tolist() == [1, 3, 1, 3, 1] and int(found.number) == 2
    assert set(np.asarray(sample.targets).tolist()) == {0, 2}


def test_the_draw_is_the_same_under_jit_and_of_streams():
    forget, retain = sets(1)
    expected = drawn(forget, retain)
    assert_close(jax.jit(drawn)(forget, retain, KEY), expected, rtol=0, atol=0)
    pairs = [(np.ones(2, np.float32), label) for label in LABELS.astype(np.int32)]
    streams = mu.split(mu.stream(pairs, batch_size=4), np.flatnonzero(LABELS == 1))
    assert_close(drawn(*streams), expected, rtol=0, atol=0)


def test_retained_examples_of_a_forgotten_class_and_of_weight_zero_are_left_out():
    weight = jnp.where(jnp.arange(25) % 2 == 0, 1.0, 0.0)
    forget, retain = sets(1, weight=weight)
    moved = retain.replace(targets=jnp.where(retain.targets == 3, 1, retain.targets))
    found, sample = jax.jit(drawn)(forget, moved, KEY)
    kept = np.asarray(sample.index)[np.asarray(sample.weight) > 0]
    assert set(LABELS[kept]) == {0, 2} and (kept % 2 == 0).all()
    assert int(found.drawn) == len(kept) == 4


def test_it_forgets_the_class_and_keeps_the_others():
    rng = np.random.default_rng(0)
    centers, labels = 3 * np.eye(3, 5), np.arange(90) % 3
    inputs = (centers[labels] + 0.3 * rng.normal(size=(90, 5))).astype(np.float32)
    data = mu.batches(inputs, labels, batch_size=15)
    forget, retain = mu.split(data, np.flatnonzero(labels == 2))
    start = mu.Variables(jnp.asarray(centers.T, jnp.float32))
    unlearn = mu.unsir(MODEL, optax.sgd(4.0), repair_optimizer=optax.sgd(1.0), copies=10)
    after, info = unlearn(KEY, start, forget, retain)
    guesses = [mu.outputs(MODEL, after, part).argmax(1) for part in (forget, retain)]
    assert (guesses[0] == 2).mean() < 0.2 and (guesses[1] == retain.targets).mean() > 0.9
    details = info.details
    assert details.noise.loss[-1] < details.noise.loss[0]
    assert (int(details.classes), int(details.sampled)) == (1, 60)
    steps = -(-(60 + 320) // 15) + 60 // 15
    assert (info.steps, info.example_passes) == (steps, 25 * 32 + 320 + 2 * 60)
    assert details.messages() == []


def test_the_inputs_of_the_forget_set_are_not_read():
    chosen = setting("classes of raw")
    forget, retain = chosen.sets()
    unlearn = mu.watched(mu.unsir(chosen.model, SGD, copies=2), False)
    expected = unlearn(KEY, chosen.variables, forget, retain)[0]
    spoiled = forget.replace(inputs=forget.inputs * jnp.nan)
    assert_close(unlearn(KEY, chosen.variables, spoiled, retain)[0], expected, rtol=0, atol=0)


SQUARED = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
REFUSED = {
    "a part of a class": (
        lambda: mu.unsir(MODEL, SGD)(KEY, START, *split_at([0, 1, 2, 5])),
        "whole classes, found class 1 in the retain set",
    ),
    "few images": (
        lambda: mu.unsir(MODEL, SGD, noise_images=1)(KEY, START, *sets(1, 3)),
        "at most 1 forgotten classes, .* found 2: give more noise_images",
    ),
    "a regression": (
        lambda: mu.unsir(SQUARED, SGD)(KEY, mu.Variables(jnp.ones(2)), *of_type(float)),
        "expected integer labels",
    ),
    "a regression of integers": (
        lambda: mu.unsir(SQUARED, SGD)(KEY, mu.Variables(jnp.ones(2)), *sets(1)),
        "at least two classes",
    ),
    "several labels": (
        lambda: mu.unsir(SQUARED, SGD)(KEY, START, *of_type(lambda y: jnp.stack([y, y], 1))),
        r"expected one class for each example, found labels int32\[3,2\]",
    ),
    "a class beyond": (
        lambda: mu.unsir(MODEL, SGD)(KEY, mu.Variables(jnp.ones((2, 3))), *sets(1)),
        "labels of the retain set from 0 to 2, found 3",
    ),
    "integers as inputs": (
        lambda: mu.unsir(MODEL, SGD)(
            KEY, START, *(x.replace(inputs=x.inputs.astype(int)) for x in sets(1))
        ),
        r"inputs of floating point .* found int32\[",
    ),
    "no copies": (lambda: mu.unsir(MODEL, SGD, copies=0), "copies as a whole number >= 1"),
    "a negative penalty": (lambda: mu.unsir(MODEL, SGD, penalty=-1.0), "penalty >= 0, found -1"),
}


def split_at(rows):
    return mu.split(mu.batches(jnp.ones((25, 2)), LABELS, batch_size=4), rows)


def of_type(change):
    change = (lambda y: y.astype(float)) if change is float else change
    return [part.replace(targets=change(part.targets)) for part in sets(0)]


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_right_is_one_sentence(name):
    call, says = REFUSED[name]
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert is_one_sentence(str(error.value))
