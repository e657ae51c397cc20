from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import counted_compilations
from small_models import LOSS, setting

import mu_jax as mu
from mu_jax import probes
from mu_jax.probes import RelearnTime

KEY, ADAM = jax.random.key(3), optax.adam(0.05)
YES, NO = jnp.array(True), jnp.array(False)


@functools.cache
def sets_of(name):
    """The training set and the forget set."""
    return setting(name).data(), setting(name).sets()[0]


def curve_of(name="raw", metric=probes.correctness, key=KEY, batch_size=8, **options):
    case = setting(name)
    data, forget = sets_of(name)
    return probes.relearning_curve(
        case.model,
        options.pop("optimizer", ADAM),
        options.pop("variables", case.variables),
        options.pop("relearn_on", data),
        options.pop("evaluate_on", forget),
        key=key,
        batch_size=batch_size,
        metric=metric,
        **options,
    )


def accuracy(case, variables, data):
    logits = case.model.apply(variables, data.inputs)
    return mu.evaluation.accuracy(logits, data.targets, data.weight)


@pytest.mark.quick("raw")
@pytest.mark.parametrize("name", ["raw", "linen", "nnx"])
def test_every_entry_is_the_metric_after_that_many_steps_of_a_fit(name):
    case, (data, forget) = setting(name), sets_of(name)
    curve = curve_of(name, metric=LOSS, steps=4)
    assert curve.shape == (5,)
    objective = mu.supervised(case.model, training_mode=True)
    for steps in (0, 1, 4):
        state, _ = mu.fit(
            case.model,
            objective,
            ADAM,
            case.variables,
            data,
            key=KEY,
            steps=steps,
            batch_size=8,
        )
        loss = LOSS(case.model.apply(state.variables, forget.inputs), forget.targets).mean()
        np.testing.assert_allclose(curve[steps], loss, rtol=1e-5)


@pytest.mark.slow
def test_the_metric_is_that_of_the_whole_set_whatever_its_batches_and_weights():
    _, forget = sets_of("raw")
    weight = jnp.array([1.0, 2.0, 0.0, 1.0, 1.0, 0.5])
    whole, ragged = (forget.replace(weight=weight, batch_size=size) for size in (6, 4))
    curves = [curve_of(steps=3, evaluate_on=part) for part in (whole, ragged, list(ragged))]
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-6)
    np.testing.assert_allclose(curves[0], curves[2], rtol=1e-6)
    wanted = accuracy(setting("raw"), setting("raw").variables, whole)
    np.testing.assert_allclose(curves[0][0], wanted, rtol=1e-6)


@pytest.mark.slow
def test_a_streamed_training_set_and_a_jitted_one_give_the_same_curve():
    data, _ = sets_of("raw")
    rows = list(zip(np.asarray(data.inputs), np.asarray(data.targets), strict=True))
    curve = curve_of(metric=LOSS, epochs=2)
    assert curve.shape == (7,)
    np.testing.assert_allclose(
        jax.jit(lambda key: curve_of(key=key, metric=LOSS, epochs=2))(KEY), curve, 1e-5
    )
    whole = {"batch_size": 22, "metric": LOSS, "steps": 3}  # the order plays no part
    streamed = curve_of(relearn_on=mu.stream(rows, batch_size=22), **whole)
    np.testing.assert_allclose(streamed, curve_of(**whole), rtol=1e-5)


def test_one_program_for_many_keys_and_none_for_the_second_call():
    sets_of("raw")  # made outside of what is traced
    keys, variables = jax.random.split(jax.random.key(0), 5), setting("raw").variables
    many = jax.jit(jax.vmap(lambda key: curve_of(key=key, metric=LOSS, steps=4)))
    curves = many(keys)
    one = curve_of(key=keys[2], metric=LOSS, steps=4, variables=variables)
    np.testing.assert_allclose(curves[2], one, rtol=1e-5)
    assert len(np.unique(curves[:, -1])) == 5  # every key has its own order
    with counted_compilations() as compilations:
        curve_of(key=keys[0], metric=LOSS, steps=4, variables=variables)
    assert not compilations


def test_the_model_that_is_probed_stays_as_it_is():
    case = setting("linen")
    variables = case.variables
    before = jax.tree.map(np.array, variables)
    curves = [curve_of("linen", variables=variables, steps=4) for _ in range(2)]
    jax.tree.map(np.testing.assert_array_equal, before, variables)
    np.testing.assert_array_equal(*curves)  # the second probe does not start where the first ended


@pytest.mark.slow
def test_a_curve_of_a_regression_error_falls_to_its_target():
    inputs = jax.random.normal(jax.random.key(0), (40, 3))
    model = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
    truth = jnp.array([[1.0], [-2.0], [0.5]])
    data = mu.batches(inputs, (inputs @ truth)[:, 0] + 0.1, batch_size=8)
    forget, _ = mu.split(data, range(10))
    variables = mu.Variables(jnp.zeros((3, 1)))
    curve = probes.relearning_curve(
        model,
        optax.adam(0.1),
        variables,
        data,
        forget,
        key=KEY,
        batch_size=8,
        metric=probes.absolute_error,
    )
    first = jnp.abs(forget.targets).mean()
    np.testing.assert_allclose(curve[0], first, rtol=1e-5)
    target = probes.relearn_target(0.2, direction="fall")
    time = probes.relearn_time(curve, target, direction="fall")
    assert time.reached and 1 < time.steps < 50
    step = int(time.steps)
    assert curve[step] <= target < curve[:step].min()


@pytest.mark.slow
def test_relearning_brings_an_unlearned_model_back_sooner_than_one_that_never_saw_the_class():
    inputs = jax.random.normal(jax.random.key(0), (60, 5))
    targets = jnp.argmax(inputs @ jax.random.normal(jax.random.key(1), (5, 3)), 1)
    data = mu.batches(inputs, targets, batch_size=20)
    forget, retain = mu.split(data, np.flatnonzero(np.asarray(targets) == 0))
    predict = lambda w, state, x: x @ w  # noqa: E731
    model = mu.from_function(predict, optax.softmax_cross_entropy_with_integer_labels)
    train = mu.finetune(model, optax.adam(0.1), epochs=60)
    zeros = mu.Variables(jnp.zeros((5, 3)))
    original, _ = train(KEY, zeros, forget, data.replace(index=data.index + 1000))
    retrained, _ = train(KEY, zeros, forget, retain)
    little = mu.watched(mu.finetune(model, optax.adam(0.1), epochs=1), False)  # on purpose
    unlearned, _ = little(KEY, original, forget, retain)
    keys = jax.random.split(KEY, 5)

    def time(variables):
        curves = jax.vmap(
            lambda key: probes.relearning_curve(
                model, optax.adam(0.03), variables, data, forget, key=key, epochs=30, batch_size=20
            )
        )(keys)
        score = mu.evaluation.accuracy(model.apply(original, forget.inputs), forget.targets)
        return probes.median_relearn_time(probes.relearn_time(curves, probes.relearn_target(score)))

    index = probes.anamnesis_index(time(unlearned), time(retrained))
    assert index.is_exact and index.value < 0.7 and index.messages() == []
    again = probes.anamnesis_index(time(retrained), time(retrained))
    assert again.value == 1


def test_relearn_time_reads_both_directions_and_both_ends():
    curve = jnp.array([0.1, 0.4, 0.3, 0.6])
    times = [probes.relearn_time(curve, target) for target in (0.1, 0.35, 0.6, 0.7)]
    assert [(float(t.steps), bool(t.reached)) for t in times] == [
        (0, True),
        (1, True),
        (3, True),
        (3, False),
    ]
    fallen = probes.relearn_time(1 - curve, jnp.array(0.45), direction="fall")
    assert (float(fallen.steps), bool(fallen.reached)) == (3, True)
    with pytest.raises(ValueError, match='found "up"'):
        probes.relearn_time(curve, 0.5, direction="up")


@pytest.mark.parametrize("correct", range(1, 40))
def test_a_target_is_not_missed_by_rounding(correct):
    """What the original model scores, less nothing, is reached by the original model."""
    score = jnp.float32(correct) / jnp.float32(40)
    curve = jnp.array([0.0, 1.0]) * score
    target = probes.relearn_target(score, alpha=0.05) / jnp.float32(0.95)
    assert probes.relearn_time(curve, target).reached


def test_a_broken_curve_has_no_time_unless_it_broke_afterwards():
    curves = jnp.array([[0.1, jnp.nan, 0.9], [0.1, 0.9, jnp.nan]])
    times = probes.relearn_time(curves, 0.8)
    np.testing.assert_array_equal(times.steps, [np.nan, 1])
    np.testing.assert_array_equal(times.reached, [False, True])


def test_a_model_that_diverges_has_no_accuracy():
    infinite = jax.tree.map(lambda x: x * jnp.inf, setting("raw").variables)
    assert np.isnan(curve_of(variables=infinite, steps=1)[0])


@pytest.mark.parametrize(
    ("steps", "reached", "wanted"),
    [
        ([3, 5, 4], [1, 1, 1], (4, True)),
        ([3, 10, 10], [1, 0, 0], (10, False)),
        ([10, 3, 4], [0, 1, 1], (4, True)),
        ([3, 5], [1, 1], (4, True)),
        ([3, 10], [1, 0], (10, False)),
        ([3, np.nan, 4], [1, 0, 1], (np.nan, False)),
    ],
)
def test_the_median_knows_which_runs_were_cut_off(steps, reached, wanted):
    times = RelearnTime(jnp.array(steps, jnp.float32), jnp.array(reached, bool))
    found = probes.median_relearn_time(times)
    np.testing.assert_array_equal(found.steps, wanted[0])
    assert bool(found.reached) == wanted[1]


@pytest.mark.parametrize(
    ("unlearned", "retrained", "value", "kind"),
    [
        ((5, YES), (20, YES), 0.25, "is_exact"),
        ((0, YES), (20, YES), 0.0, "is_exact"),
        ((40, NO), (20, YES), 2.0, "is_lower_bound"),
        ((10, YES), (40, NO), 0.25, "is_upper_bound"),
        ((40, NO), (40, NO), np.nan, None),
        ((3, YES), (0, YES), np.nan, None),
        ((0, YES), (0, YES), np.nan, None),
        ((np.nan, NO), (20, YES), np.nan, None),
        ((3, YES), (np.nan, NO), np.nan, None),
    ],
)
def test_what_an_index_is_worth(unlearned, retrained, value, kind):
    index = probes.anamnesis_index(RelearnTime(*unlearned), RelearnTime(*retrained))
    np.testing.assert_array_equal(index.value, np.float32(value))
    flags = ("is_exact", "is_lower_bound", "is_upper_bound")
    assert [flag for flag in flags if getattr(index, flag)] == ([kind] if kind else [])
    assert (index.messages() == []) == (kind == "is_exact")


def test_wrong_metrics_and_sets_are_refused():
    with pytest.raises(ValueError, match="one number per example"):
        curve_of(metric=lambda logits, labels: logits, steps=1)
    with pytest.raises(ValueError, match="expected at least one batch"):
        curve_of(evaluate_on=[], steps=1)


def test_the_variables_behind_a_curve_are_those_of_its_last_entry():
    case = setting("raw")
    data, forget = sets_of("raw")
    found = probes.relearn(
        case.model, ADAM, case.variables, data, forget, key=KEY, steps=3, batch_size=8
    )
    np.testing.assert_array_equal(found.curve, curve_of(steps=3))
    np.testing.assert_allclose(found.curve[-1], accuracy(case, found.variables, forget), atol=1e-6)
    moved = jax.tree.map(lambda x, y: jnp.abs(x - y).max(), case.variables, found.variables)
    assert max(jax.tree.leaves(moved)) > 0
