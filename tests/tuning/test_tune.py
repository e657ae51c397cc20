"""Choosing hyper-parameters on half of the oracles and reporting on the other half."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mu_jax as mu
from mu_jax.transforms._shared.transform import method, report
from mu_jax.tuning import Log, Uniform, criteria, spaces, trying
from mu_jax.tuning.drawing import draw

NUMBERS = np.random.default_rng(0)
INPUTS = NUMBERS.normal(size=(260, 3)).astype(np.float32)
CLASSES = (INPUTS + 0.8 * NUMBERS.normal(size=INPUTS.shape)).argmax(1).astype(np.int32)
MODEL = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)
DATA = mu.batches(INPUTS, CLASSES, batch_size=50)
TRAIN, TEST = DATA.take(slice(0, 150)), DATA.take(slice(150, 260))
FORGET, RETAIN = mu.split(TRAIN, range(30))
KEY = jax.random.key(0)


def near(seed, scale=1.0):
    """A model around the identity."""
    noise = np.random.default_rng(seed).normal(size=(3, 3)) / 5
    return mu.Variables(jnp.asarray(scale * (np.eye(3) + noise), jnp.float32))


BEFORE, RETRAINED = near(1, 3.0), [near(seed) for seed in range(2, 8)]


TARGET = jnp.asarray([[1.0, 0.3, 0.0], [0.0, 1.0, 0.3], [0.3, 0.0, 1.0]])


@method
def mixed(model, share):
    """A transform of our own: a share of the way to other weights; at 2 all weights are 0."""

    def unlearn(key, variables, forget, retain):
        weights = jnp.where(share < 1.5, variables.params + share * (TARGET - variables.params), 0)
        after = mu.Variables(weights)
        return report(model, variables, after, (forget, retain), steps=0, example_passes=0)

    return unlearn


def mix(share):
    return mixed(MODEL, share)


def tune(factory=mix, space=None, **options):
    options = {"retrained": RETRAINED, "test": TEST, "key": KEY, **options}
    space = {"share": [0.0, 0.9, 2.0]} if space is None else space
    return mu.tune(factory, space, BEFORE, forget=FORGET, retain=RETAIN, **options)


def at(share):
    before = np.asarray(BEFORE.params)
    return before + share * (np.asarray(TARGET) - before)


def values(variables):
    """The metrics of one model by slow, separate code."""
    found = {}
    kept = {"retain": RETAIN, "forget": FORGET, "test": TEST}
    for name, part in kept.items():
        logits = np.asarray(part.inputs) @ np.asarray(variables.params)
        found[f"{name} accuracy"] = np.mean(logits.argmax(1) == np.asarray(part.targets))
    return found


def test_chosen_is_the_closest_to_the_half_that_chooses_and_reported_the_other():
    found = tune(criterion=lambda v, ref: sum(abs(v[k] - ref[k]) for k in ref if k != "MIA"))
    assert len(found.trials) == 3
    halves = []
    for part in (RETRAINED[:3], RETRAINED[3:]):
        each = [values(one) for one in part]
        halves.append({k: np.mean([v[k] for v in each]) for k in each[0]})
    for trial in found.trials:
        share = trial.settings["share"]
        mine = values(mu.Variables(at(share)))
        gaps = [sum(abs(mine[k] - half[k]) for k in half) for half in halves]
        if share < 2:
            np.testing.assert_allclose([trial.chosen_by, trial.reported], gaps, rtol=1e-5)
    assert found.trials[0].chosen_by == min(trial.chosen_by for trial in found.trials)
    assert found.settings == found.trials[0].settings
    np.testing.assert_allclose(found.variables.params, at(found.settings["share"]), rtol=1e-5)
    assert found.optimism == found.trials[0].reported - found.trials[0].chosen_by


@pytest.mark.slow
def test_a_collapsed_setting_is_last_and_never_chosen():
    found = tune()
    last = found.trials[-1]
    assert last.settings == {"share": 2.0} and np.isinf(last.chosen_by) and last.reason
    with pytest.raises(ValueError, match="found that all 1 have collapsed"):
        tune(space={"share": [2.0]})


@pytest.mark.slow
def test_the_result_says_what_choosing_was_worth():
    found = tune(default={"share": 0.0})
    text = repr(found)
    assert "Chosen among 3 settings: share=" in text
    assert f"which are {found.floor:.2f} away from those" in text
    looks = (
        f"look {found.optimism:.2f} better" if found.optimism > 0 else "has not made the setting"
    )
    assert looks in text
    gain = found.default.reported - found.trials[0].reported
    assert f"choosing has gained {gain:.2f}" in text
    assert {row.label for row in found.score.rows} >= {"retrain", "do nothing", "chosen"}


def test_without_oracles_the_rule_is_named():
    found = tune(retrained=())
    assert "Without retrained models this is a guess" in repr(found)
    assert found.floor is None and found.optimism is None and found.trials[0].reported is None


def test_the_rule_without_oracles_expects_the_forget_set_to_be_like_the_test_set():
    metric = mu.reporting.Metric
    names = {"retain accuracy": 0.9, "forget accuracy": 1.0, "test accuracy": 0.8, "MIA": 0.7}
    before = mu.reporting.Record(
        "do nothing",
        mu.reporting.ForgetSet("some", 3),
        0,
        {name: metric(value, unit="fraction") for name, value in names.items()},
    )
    assert criteria.without_oracles(before) == {
        "retain accuracy": 0.9,
        "forget accuracy": 0.8,
        "test accuracy": 0.8,
        "MIA": 0.5,
    }


def record_of(**metrics):
    units = {"recall": "fraction", "MIA": "fraction"}
    return mu.reporting.Record(
        "ssd",
        mu.reporting.ForgetSet("some", 3),
        0,
        {k: mu.reporting.Metric(v, unit=units.get(k, "")) for k, v in metrics.items()},
    )


def test_the_gap_reads_units_and_not_names():
    own, other = record_of(recall=0.6, accuracy=30.0), record_of(recall=0.5, accuracy=40.0)
    reference = criteria.mean_of([other])
    found = criteria.distance(own, reference, criteria.average_gap)
    assert found == pytest.approx((10 + 25) / 2, rel=1e-5)
    assert criteria.mean_of([own, other]) == {"recall": 0.55, "accuracy": 35.0}
    assert criteria.mean_of([own, other])["recall"].unit == "fraction"
    guess = criteria.without_oracles(record_of(MIA=0.7))
    assert guess["MIA"] == 0.5 and guess["MIA"].unit == "fraction"


def test_settings_that_differ_in_floats_are_one_program():
    traced = []

    def factory(learning_rate, epochs):
        traced.append(epochs)
        return mu.finetune(MODEL, optax.sgd(learning_rate), epochs=epochs, batch_size=60)

    settings = draw({"learning_rate": [0.1, 0.3, 0.5], "epochs": [1, 2]}, 6, 0)
    found = trying.unlearn_each(factory, settings, KEY, BEFORE, FORGET, RETAIN, at_once=2)
    assert sorted(traced) == [1, 2]
    for setting, variables in zip(settings, found):
        alone, _ = factory(**setting)(KEY, BEFORE, FORGET, RETAIN)
        np.testing.assert_allclose(variables.params, alone.params, rtol=2e-5, atol=1e-6)


def test_a_method_that_looks_at_the_number_runs_one_by_one():
    def factory(share):
        return mix(share if share > 0.5 else 0.5)

    settings = [{"share": 0.2}, {"share": 0.8}]
    found = trying.unlearn_each(factory, settings, KEY, BEFORE, FORGET, RETAIN, at_once=2)
    np.testing.assert_allclose([v.params for v in found], [at(0.5), at(0.8)], rtol=1e-5)


def test_every_transform_has_a_space_of_its_own_arguments():
    import inspect

    for name in mu.transforms.__all__:
        factory = getattr(mu.transforms, name)
        if inspect.isfunction(factory):
            known = {*inspect.signature(factory).parameters, "learning_rate"}
            assert set(getattr(spaces, name)) <= known, name


def test_a_hypercube_has_one_value_in_every_part_of_a_range():
    found = draw({"a": Uniform(2, 4), "b": Log(1e-3, 1e3), "c": ["x", "y"]}, 8, seed=3)
    assert sorted(int((s["a"] - 2) / 2 * 8) for s in found) == list(range(8))
    assert sorted(int((np.log10(s["b"]) + 3) / 6 * 8) for s in found) == list(range(8))
    assert sorted(s["c"] for s in found) == ["x"] * 4 + ["y"] * 4


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: tune(space={}), "found an empty space"),
        (lambda: tune(space={"share": 0.3}), "for share, found 0.3"),
        (lambda: tune(space={"share": []}), "for share"),
        (lambda: tune(space={"share": "big"}), "for share, found 'big'"),
        (lambda: tune(trials=0), "at least one trial, found 0"),
        (lambda: tune(retrained=RETRAINED[:3]), "expected four retrained models or more"),
        (lambda: Log(0.0, 1.0), "expected 0 < low"),
        (lambda: Uniform(1.0, 1.0), "expected low < high"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(make, said):
    with pytest.raises(ValueError, match=said):
        make()
