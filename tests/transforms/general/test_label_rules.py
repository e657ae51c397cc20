"""Rules of labels against numbers in float64, and what they refuse.

The numbers are those of `golden/classification_label_rules.npz`. They are not to be regenerated
from this code: when a test fails, either the code is wrong or the definition was changed on
purpose.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import load
from golden_networks import MODEL, params, predict
from trees import is_one_sentence

import mu_jax as mu
from mu_jax.objectives import (
    fixed_label,
    nearest_class_label,
    relabeled,
    runner_up_label,
    uniform_other_label,
)
from mu_jax.objectives.label_choices import chosen_labels
from mu_jax.objectives.relabel import kept_label, past

GOLDEN = load("classification_label_rules.npz")
KEY = jax.random.key(0)


def observe(weights, state, x):
    """The logits, and the output of `fc2` before its ReLU."""
    first = {name: leaf for name, leaf in weights.items() if not name.startswith("fc3")}
    return predict(weights, state, x), {"fc2": predict(first, state, x)}


OBSERVED = mu.from_function(predict, mu.losses.cross_entropy, observe=observe)


def chosen(rule, kind, model=OBSERVED):
    with jax.enable_x64(True):
        data = mu.batches(GOLDEN["x"], GOLDEN["y"], batch_size=64)
        sets = (data.take(GOLDEN[f"{part}_{kind}_rows"]) for part in ("forget", "retain"))
        return rule.choose(model, mu.Variables(params(GOLDEN, "before")), *sets)


@pytest.mark.parametrize("kind", ["class", "random"])
def test_rules_that_look_at_the_model(kind):
    assert (GOLDEN[f"{kind}/runner_up_margin"] > 1e-6).all()
    assert (GOLDEN[f"{kind}/nearest_class_margin"] > 1e-6).all()
    found = chosen(runner_up_label(), kind, MODEL)
    np.testing.assert_array_equal(found, GOLDEN[f"{kind}/runner_up"])
    found = chosen(nearest_class_label("fc2"), kind)
    np.testing.assert_array_equal(found, GOLDEN[f"{kind}/nearest_class"])
    by_logits = chosen(nearest_class_label(), kind)
    assert (by_logits != found).any()


@pytest.mark.parametrize("kind", ["class", "random"])
def test_rules_that_draw(kind):
    labels = GOLDEN["y"][GOLDEN[f"forget_{kind}_rows"]]
    drawn = np.floor(9 * GOLDEN[f"{kind}/uniform_draws"]).astype(np.int32)
    np.testing.assert_array_equal(past(drawn, labels), GOLDEN[f"{kind}/uniform_other"])
    found = fixed_label(7)(KEY, jnp.asarray(labels), 10)
    np.testing.assert_array_equal(found, GOLDEN[f"{kind}/fixed_to_7"])


def test_another_label_is_any_but_the_true_one():
    keys = jax.random.split(KEY, 900)
    drawn = jax.vmap(lambda key: uniform_other_label(key, jnp.int32(1), 4))(keys)
    counts = np.bincount(drawn, minlength=4)
    assert drawn.dtype == jnp.int32 and counts[1] == 0
    assert (abs(counts[[0, 2, 3]] - 300) < 60).all()


def model_of(**options):
    return mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy, **options)


def test_nothing_of_a_row_of_weight_zero_and_no_ignored_label_is_touched():
    loss = mu.losses.CrossEntropy(ignore_label=-1)
    model = mu.from_function(lambda w, state, x: x @ w, loss)
    inputs = jnp.array([[9.0, 1, 3], [0, 9, 1], [0, 1, 9], [jnp.nan] * 3, [9.0, 0, 1]])
    data = mu.batches(
        inputs, jnp.array([0, 1, 2, 2, -1]), batch_size=2, weight=jnp.array([1.0, 1, 1, 0, 1])
    )
    forget, retain = data.take([0, 4]), data.take([1, 2, 3])
    for rule, label in ((runner_up_label(), 2), (nearest_class_label(), 2)):

        def labels(forget, retain, rule=rule):
            found, draw = chosen_labels(model, mu.Variables(jnp.eye(3)), forget, retain, rule)
            assert draw is kept_label
            return found.targets

        assert labels(forget, retain).tolist() == [label, -1]
        assert jax.jit(labels)(forget, retain).tolist() == [label, -1]


def test_rows_to_retain_keep_their_labels_and_a_fixed_key_draws_once():
    model = mu.from_function(lambda w, state, x: x @ w, lambda z, labels: labels.astype(float))
    data = mu.batches(jnp.eye(8), jnp.full(8, 5), batch_size=8)
    batch = mu.data.forget_retain.marked_mix(*mu.split(data, range(4))).at(0)
    weights, objective = mu.Variables(jnp.ones((8, 99))), relabeled(model, uniform_other_label)

    def sums(batch, key, frozen):
        return objective(weights, batch, frozen, key)[0]["loss"].sum

    keep = batch._replace(weight=jnp.where(batch.targets.forget, 0.0, 1.0))
    assert sums(keep, KEY, {}) == 4 * 5
    others = [jax.random.key(i) for i in (1, 2)]
    assert sums(batch, others[0], {}) != sums(batch, others[1], {})
    once = [sums(batch, key, {"label_key": KEY}) for key in others]
    assert once[0] == once[1] != sums(batch, KEY, {"label_key": others[0]})


DATA = mu.batches(jnp.eye(3), jnp.array([0, 1, 1]), batch_size=2)
START = mu.Variables(jnp.eye(3))
REFUSED = {
    "no such layer": (
        lambda: nearest_class_label("fc9").choose(model_of(), START, DATA, DATA),
        "among none, found 'fc9'",
    ),
    "no other class": (
        lambda: nearest_class_label().choose(model_of(), START, DATA.take([1]), DATA.take([2])),
        "retained examples of a class other than 1",
    ),
    "a class beyond": (lambda: fixed_label(3)(KEY, jnp.array(0), 3), "from 0 to 2, .* found 3"),
    "a negative class": (lambda: fixed_label(-1)(KEY, jnp.array(0), 3), "from 0 to 2, .* found -1"),
    "one class": (
        lambda: relabeled(model_of(), uniform_other_label)(
            mu.Variables(jnp.ones((3, 1))), DATA.at(0), {}, KEY
        ),
        "at least two classes .* found outputs float32\\[2,1\\]",
    ),
    "a regression of integers": (
        lambda: runner_up_label().choose(
            mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error),
            mu.Variables(jnp.ones(3)),
            DATA,
            DATA,
        ),
        "at least two classes .* found outputs float32\\[3\\]",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_right_is_one_sentence(name):
    call, says = REFUSED[name]
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert is_one_sentence(str(error.value))
