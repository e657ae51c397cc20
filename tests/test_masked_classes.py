"""A class that a model rules out by a logit of minus infinity is as a class it does not have."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mu_jax as mu

N, CLASSES = 10, 4
X = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
KEY, SGD = jax.random.key(0), optax.sgd(0.1)


def masked(w, state, x):
    return jnp.where(jnp.arange(CLASSES + 1) < CLASSES, x @ w, -jnp.inf)


MASKED = mu.from_function(masked, mu.losses.cross_entropy)
SMALLER = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)


def weights(seed, classes):
    w = np.random.default_rng(seed).normal(size=(3, CLASSES + 1)).astype(np.float32)
    return mu.Variables(jnp.asarray(w[:, :classes]))


def sets():
    data = mu.batches(X, np.arange(N) % CLASSES, batch_size=5)
    return mu.split(data, [1, 2, 6])


def recipes(model, classes):
    oracles = jax.tree.map(lambda *x: np.stack(x), weights(3, classes), weights(4, classes))
    matching = functools.partial(mu.oracle_matching, model, SGD, oracles=oracles)

    def init(key):
        return weights(5, classes)

    return {
        "kl": matching(recipe=mu.MatchingRecipe(distance="kl")),
        "squared": matching(),
        "blindspot": mu.blindspot(model, init=init, optimizer=SGD, epochs=3),
        "finetune": mu.finetune(model, SGD, epochs=3),
    }


@pytest.mark.quick("squared", "finetune")
@pytest.mark.parametrize("name", list(recipes(MASKED, CLASSES + 1)))
def test_methods_do_as_with_the_smaller_head(name):
    results = []
    for model, classes in ((MASKED, CLASSES + 1), (SMALLER, CLASSES)):
        unlearn = mu.watched(recipes(model, classes)[name], False)
        after, info = unlearn(KEY, weights(1, classes), *sets())
        fit = info.details.student if name == "blindspot" else info.details
        assert info.messages() == []
        results.append((after.params[:, :CLASSES], fit.loss, fit.gradient_norm))
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("definition", ["per_example", "loss_free", "fisher"])
def test_importance_is_that_of_the_smaller_head(definition):
    data = sets()[1]
    found, expected = (
        mu.collect(mu.statistics.importance(model, definition), weights(1, classes), data).value
        for model, classes in ((MASKED, CLASSES + 1), (SMALLER, CLASSES))
    )
    np.testing.assert_allclose(found[:, :CLASSES], expected, rtol=1e-5)
    assert not np.any(found[:, CLASSES])


def test_a_class_that_only_the_outputs_rule_out_is_infinitely_far():
    wanted = jnp.array([[0.0, 0.0], [0.0, -jnp.inf]])
    found = mu.losses.softmax_divergence(jnp.array([[0.0, -jnp.inf], [0.0, 0.0]]), wanted)
    np.testing.assert_allclose(found, [np.inf, np.log(2)], rtol=1e-6)


def test_targets_may_hold_masks_of_which_those_to_forget_are_not_read():
    """The loss is a mean over positions that the targets mark; zeros there would divide by 0."""

    def loss(outputs, targets):
        errors = jnp.square(outputs - targets["y"]) * targets["mask"]
        return errors.sum(1) / targets["mask"].sum(1)

    def distance(outputs, wanted):
        return jnp.square(outputs - wanted).mean(1)

    model = mu.from_function(lambda w, state, x: x @ w, loss)
    mask = np.arange(N * 2).reshape(N, 2) % 3 != 1
    data = mu.batches(X, {"y": X[:, :2], "mask": mask.astype(np.float32)}, batch_size=N)
    forget, retain = mu.split(data, [1, 2, 6])
    recipe = mu.BlindspotRecipe(distance=distance)
    start, teacher = weights(1, 2), weights(5, 2)
    unlearn = mu.blindspot(
        model, init=lambda key: teacher, optimizer=SGD, teacher_epochs=0, recipe=recipe
    )
    after, info = unlearn(KEY, start, forget, retain)

    def by_hand(w):
        wanted = X @ teacher.params
        rows = np.isin(np.arange(N), [1, 2, 6])
        kept = loss(X @ w, {"y": X[:, :2], "mask": mask.astype(np.float32)})
        return jnp.where(rows, distance(X @ w, wanted), kept).mean()

    value, gradient = jax.jit(jax.value_and_grad(by_hand))(start.params)
    np.testing.assert_allclose(info.details.student.loss, [value], rtol=1e-6)
    np.testing.assert_allclose(after.params, start.params - 0.1 * gradient, rtol=1e-5)
    assert info.messages() == []
