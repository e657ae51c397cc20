"""`mu.watched`: losses and accuracies before and after, and whether anything was forgotten."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

import mu_jax as mu

MODEL = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)
KEY = jax.random.key(0)


def given(n=30, classes=3):
    random = np.random.default_rng(0)
    targets = random.integers(0, classes, n)
    inputs = (np.eye(classes)[targets] + 0.1 * random.normal(size=(n, classes))).astype(np.float32)
    data = mu.batches(inputs, targets, batch_size=8)
    return mu.Variables(3 * jnp.eye(classes)), *mu.split(data, np.flatnonzero(targets == 2))


def losses_in_numpy(variables, data):
    z = np.asarray(data.inputs, np.float64) @ np.asarray(variables.params, np.float64)
    return np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), np.asarray(data.targets)], z.argmax(1)


def quiet(unlearn, *arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mu.UnlearningWarning)
        return unlearn(*arguments)


def test_losses_and_accuracies_are_those_of_numpy_inside_and_outside_jit():
    variables, forget, retain = given()
    unlearn = mu.watched(mu.gradient_ascent(MODEL, optax.sgd(3.0), epochs=3))
    for run in (unlearn, jax.jit(unlearn)):
        after, info = run(KEY, variables, forget, retain)
        for change, data in ((info.effect.forget, forget), (info.effect.retain, retain)):
            for number, one in enumerate((variables, after)):
                losses, says = losses_in_numpy(one, data)
                assert change.loss[number] == pytest.approx(losses.mean(), rel=1e-4)
                expected = np.mean(says == np.asarray(data.targets))
                assert change.accuracy[number] == pytest.approx(expected)
        assert info.messages() == [] and bool(info.effect.moved)
        assert np.asarray(info.effect.unretained).all()


def test_a_step_too_small_is_said_to_have_forgotten_nothing():
    variables, forget, retain = given()
    unlearn = mu.watched(mu.iau(MODEL, optax.sgd(1e-6)))
    with pytest.warns(mu.UnlearningWarning, match="forgotten nothing: accuracy 1.000 on"):
        unlearn(KEY, variables, forget, retain)
    assert mu.iau(MODEL, optax.sgd(1e-6))(KEY, variables, forget, retain)[1].messages() == []
    _, info = jax.jit(unlearn)(KEY, variables, forget, retain)
    assert "The model has forgotten nothing" in info.messages()[0]


def test_datamodel_matching_that_changes_weights_and_forgets_nothing_says_so():
    variables, forget, retain = given()

    def nothing(model, variables, forget, examples):
        return 1e-4 * jnp.ones((examples.num_examples, 3))

    unlearn = mu.watched(mu.dmm(MODEL, nothing, optax.adam(1e-6)))
    with pytest.warns(mu.UnlearningWarning, match="forgotten nothing"):
        _, info = unlearn(KEY, variables, forget, retain)
    assert info.edit.changed > 0


def test_an_ensemble_counts_its_models():
    variables, forget, retain = given()

    def one(rate):
        return mu.watched(mu.gradient_ascent(MODEL, optax.sgd(rate), epochs=3))(
            KEY, variables, forget, retain
        )[1]

    info = jax.vmap(one)(jnp.array([1e-7, 3.0]))
    assert info.effect.forget.loss[1].shape == (2,)
    assert "1 of 2 models have forgotten nothing" in info.messages()[0]


def test_streams_and_padding_give_the_same_means():
    variables, forget, retain = given()
    unlearn = mu.watched(mu.iau(MODEL, optax.sgd(1.0)))
    expected = quiet(unlearn, KEY, variables, forget, retain)[1].effect

    def stream(data):
        pairs = list(zip(np.asarray(data.inputs), np.asarray(data.targets)))
        return mu.stream(pairs, batch_size=8, index=np.asarray(data.index))

    streamed = quiet(unlearn, KEY, variables, stream(forget), stream(retain))[1].effect
    padded = retain.take(np.r_[np.arange(retain.num_examples), 0, 1])
    padded = padded.replace(weight=padded.weight.at[-2:].set(0))
    with_padding = quiet(unlearn, KEY, variables, forget, padded)[1].effect
    for found in (streamed, with_padding):
        for part in ("forget", "retain"):
            own, wanted = getattr(found, part), getattr(expected, part)
            np.testing.assert_allclose(own.loss, wanted.loss, rtol=1e-5)
            np.testing.assert_allclose(own.accuracy, wanted.accuracy)


@pytest.mark.quick("*Explicit")
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_a_mesh_gives_the_same_means(kind):
    variables, forget, retain = given()
    unlearn = mu.watched(mu.iau(MODEL, optax.sgd(1.0)))
    expected = quiet(unlearn, KEY, variables, forget, retain)[1].effect
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(kind,))
    sets = [mu.shard(data, mesh) for data in (forget, retain)]
    for run in (unlearn, jax.jit(unlearn)):
        found = quiet(run, KEY, variables, *sets)[1].effect
        for part in ("forget", "retain"):
            own, wanted = getattr(found, part), getattr(expected, part)
            np.testing.assert_allclose(own.loss, wanted.loss, rtol=1e-5)


def test_a_chain_has_the_effect_of_the_whole_and_masks_reach_it():
    variables, forget, retain = given()
    tune = mu.finetune(MODEL, optax.sgd(0.1), epochs=1)
    chain = mu.watched(mu.chain(mu.gradient_ascent(MODEL, optax.sgd(3.0)), tune))
    after, infos = quiet(chain, KEY, variables, forget, retain)
    assert infos[0].effect == () and len(infos) == 2
    before, now = infos[1].effect.forget.loss
    assert before == pytest.approx(losses_in_numpy(variables, forget)[0].mean(), rel=1e-4)
    assert now == pytest.approx(losses_in_numpy(after, forget)[0].mean(), rel=1e-4)


def test_numbers_have_losses_and_no_accuracy():
    model = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
    forget, retain = mu.split(mu.batches(jnp.eye(4), jnp.zeros(4), batch_size=2), [3])
    unlearn = mu.watched(mu.gradient_ascent(model, optax.sgd(1.0)))
    _, info = unlearn(KEY, mu.Variables(jnp.ones(4)), forget, retain)
    assert info.effect.forget.loss == (1.0, 9.0) and info.effect.forget.accuracy is None
    assert info.messages() == []
