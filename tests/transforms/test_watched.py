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


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_few_retained_rows_are_looked_at_with_those_to_forget(kind):
    """In one pass where the rows of both sets have one form."""
    variables, forget, retain = given()
    other = retain.replace(inputs=retain.inputs.astype(kind))
    after = mu.Variables(2 * jnp.eye(3))
    found = mu.effect(MODEL, variables, after, forget, other)
    size = forget.num_examples
    assert found.retain.weight.shape == (size,)
    for change, data in ((found.forget, forget), (found.retain, other.take(np.arange(size)))):
        for losses, model in ((change.losses_before, variables), (change.losses_after, after)):
            np.testing.assert_allclose(losses, losses_in_numpy(model, data)[0], rtol=2e-3)
        np.testing.assert_array_equal(change.weight, data.weight)


def test_a_step_too_small_is_said_to_have_forgotten_nothing():
    variables, forget, retain = given()
    unlearn = mu.watched(mu.iau(MODEL, optax.sgd(1e-6)))
    with pytest.warns(mu.UnlearningWarning, match="forgotten nothing: accuracy 1.000 on"):
        unlearn(KEY, variables, forget, retain)
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


def test_by_default_a_call_says_that_nothing_was_forgotten():
    variables, forget, retain = given()
    with pytest.warns(mu.UnlearningWarning, match="forgotten nothing: accuracy 1.000 on"):
        _, info = mu.iau(MODEL, optax.sgd(1e-6))(KEY, variables, forget, retain)
    losses, says = losses_in_numpy(variables, forget)
    assert info.effect.forget.loss[0] == pytest.approx(losses.mean(), rel=1e-5)
    assert info.effect.forget.accuracy == (1.0, 1.0) == (np.mean(says == 2),) * 2
    few = losses_in_numpy(variables, retain)[0][: forget.num_examples]
    assert info.effect.retain.loss[0] == pytest.approx(few.mean(), rel=1e-5)
    assert len(repr(info)) < 700 and "forget 11 examples: loss 0.09" in repr(info)


def test_the_default_attribution_weight_of_datamodel_matching_is_judged_too():
    variables, forget, retain = given()

    def nothing(model, variables, forget, examples):
        return 1e-7 * jnp.ones((examples.num_examples, 3))

    with pytest.warns(mu.UnlearningWarning, match="forgotten nothing"):
        mu.dmm(MODEL, nothing, optax.adam(1e-7))(KEY, variables, forget, retain)


def test_a_step_that_forgets_says_nothing_and_an_unchanged_model_says_so_once():
    variables, forget, retain = given()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unlearn = mu.gradient_ascent(MODEL, optax.sgd(3.0), epochs=3)
        _, info = unlearn(KEY, variables, forget, retain)
    assert info.effect.forget.loss[1] > 10 * info.effect.forget.loss[0]
    with pytest.warns(mu.UnlearningWarning) as said:
        mu.gradient_ascent(MODEL, optax.sgd(0.0))(KEY, variables, forget, retain)
    assert [str(one.message) for one in said] == [
        "Nothing was changed: the model still knows the forget set."
    ]


def test_nothing_is_measured_where_no_warning_can_be_seen_or_none_is_wanted():
    variables, forget, retain = given()
    unlearn = mu.gradient_ascent(MODEL, optax.sgd(1e-6))
    assert jax.jit(unlearn)(KEY, variables, forget, retain)[1].effect == ()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mu.watched(unlearn, False)(KEY, variables, forget, retain)[1].effect == ()
    batches = list(forget)
    assert quiet(unlearn, KEY, variables, batches, list(retain))[1].effect == ()


def test_a_stream_to_retain_is_not_walked_for_it():
    variables, forget, retain = given()
    pairs = list(zip(np.asarray(retain.inputs), np.asarray(retain.targets)))
    read = []

    class Counted(list):
        def __getitem__(self, place):
            read.append(place)
            return super().__getitem__(place)

    stream = mu.stream(Counted(pairs), batch_size=8, index=np.asarray(retain.index))
    del read[:]
    _, info = mu.gradient_ascent(MODEL, optax.sgd(3.0))(KEY, variables, forget, stream)
    assert read == [] and info.effect.retain is None
    assert info.effect.forget.loss[1] > info.effect.forget.loss[0]


def test_losses_that_became_infinite_are_counted_and_those_that_were_are_not():
    model = mu.from_function(lambda w, state, x: x @ w, lambda z, y: jnp.exp(z) - y)
    forget, retain = mu.split(mu.batches(10.0 * jnp.eye(4), jnp.zeros(4), batch_size=2), [2, 3])
    unlearn, start = mu.gradient_ascent(model, optax.sgd(1e-3)), mu.Variables(jnp.ones(4))
    _, info = quiet(unlearn, KEY, start, forget, retain)
    assert info.messages() == [
        "The loss of 2 forget examples is not finite, of 0 before: take a smaller step."
    ]
    missing = forget.replace(inputs=forget.inputs.at[0].set(jnp.nan))
    _, info = quiet(mu.finetune(model, optax.sgd(1e-7)), KEY, start, missing, retain)
    assert not any("not finite" in message for message in info.messages())


def test_labels_that_the_loss_cannot_read_are_left_alone():
    variables, forget, retain = given()
    strange = forget.replace(targets=jnp.zeros((forget.num_examples, 7)))
    _, info = quiet(mu.finetune(MODEL, optax.sgd(0.1)), KEY, variables, strange, retain)
    assert info.effect == ()


def test_a_chain_is_judged_as_a_whole():
    variables, forget, retain = given()
    still = mu.finetune(MODEL, optax.sgd(1e-7), epochs=1)
    chain = mu.chain(mu.gradient_ascent(MODEL, optax.sgd(3.0), epochs=3), still)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, infos = chain(KEY, variables, forget, retain)
    assert infos[0].effect == () and infos[1].effect.forget.loss[1] > 1
    with pytest.warns(mu.UnlearningWarning, match="forgotten nothing") as said:
        mu.chain(still, still)(KEY, variables, forget, retain)
    assert len(said) == 1


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


@pytest.mark.slow
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


def test_an_error_of_the_model_itself_is_not_taken_for_targets_that_the_loss_cannot_read():
    from mu_jax.transforms._shared.effect import glance

    def broken(params, state, inputs):
        raise KeyError("a layer")

    data = mu.batches(jnp.eye(4), jnp.zeros(4), batch_size=4)
    forget, retain = mu.split(data, [3])
    weights = mu.Variables(jnp.ones(4))
    wanted = mu.from_function(lambda w, state, x: x @ w, lambda outputs, targets: targets["class"])
    assert glance(wanted, weights, weights, (forget, retain), jnp.asarray(True)) == ()
    with pytest.raises(KeyError, match="a layer"):
        model = mu.from_function(broken, mu.losses.squared_error)
        glance(model, weights, weights, (forget, retain), jnp.asarray(True))
