"""Trials: a grid as one program equals its settings one by one, against models of its own half."""

from __future__ import annotations

import inspect

import jax
import numpy as np
import pytest

import mu_jax as mu
from experiments.configs import digits
from experiments.lib.rows import SEEDS, make_bench
from experiments.lib.tasks import make_task, read_ids
from experiments.sweep import trials
from experiments.sweep.trials import Trial, run_method, run_trial
from mu_jax import ensembles, evaluation, reporting
from mu_jax.scoring.ensembles import collapse, measure

MODELS = 4
FIT = {"optimizer": "momentum", "weight_decay": 1e-3, "epochs": 2, "batch_size": 32}


@pytest.fixture(scope="module")
def task():
    config = digits.get_config()
    config.limit, config.training.epochs = 120, 20
    return make_task(config)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("ensembles")


@pytest.fixture(scope="module")
def bench(task, directory):
    return make_bench(task, directory, "tuning", "class:3", 0, MODELS)


def trial(method, *points, half="tuning", seed=0):
    return Trial(half, method, "class:3", seed, MODELS, points, {})


def direct(task, bench, transform):
    """What the transform gives when it is called as in a program of one's own."""
    keys, variables, _, _, examples = bench.arguments
    sets = mu.split(task.train, read_ids(task, "class:3"))
    program = jax.jit(lambda *a: ensembles.unlearn(transform, *a)[0])
    found = program(keys, variables, *sets)
    return np.asarray(ensembles.ensemble_outputs(task.model, found, examples))


@pytest.mark.slow
def test_a_grid_is_its_settings_one_by_one(task, bench):
    points = [{"alpha": a, "dampening": d} for a in (1.5, 5) for d in (0.1, 1.0)]
    found = run_method(bench, "ssd", points)
    for number in (1, 2):
        expected = direct(task, bench, mu.ssd(task.model, **points[number]))
        np.testing.assert_allclose(found[number].values, expected, atol=1e-4)
        assert found[number].passes == 120 and found[number].wall_s is None


@pytest.mark.slow
def test_words_and_numbers_may_both_vary_and_the_order_stays(task, bench):
    points = [
        {"optimizer": name, "learning_rate": rate}
        for rate in (1e-3, 1e-1)
        for name in ("adam", "sgd")
    ]
    found = run_method(bench, "plain", [{"method": "iau", **point} for point in points])
    for number in (1, 2):
        step = trials.METHODS["iau"](task, points[number], None)
        np.testing.assert_allclose(found[number].values, direct(task, bench, step), atol=1e-4)


def test_a_fit_with_another_rate_compiles_nothing(task, bench):
    first, second = ({**FIT, "learning_rate": rate} for rate in (0.01, 0.02))
    run_method(bench, "finetune", [first])
    before = trials._compiled.cache_info()
    (found,) = run_method(bench, "finetune", [second])
    after = trials._compiled.cache_info()
    assert (after.misses, after.hits) == (before.misses, before.hits + 1)
    expected = direct(task, bench, trials.METHODS["finetune"](task, second, None))
    np.testing.assert_allclose(found.values, expected, atol=1e-3)
    assert found.wall_s > 0


@pytest.mark.slow
def test_a_method_that_prepares_on_the_host_runs_too(task, directory):
    settings = {
        **digits.get_config().methods.dmm.to_dict(),
        "attribution": {
            "checkpoints": 2,
            "dim": None,
            "retain_only": True,
            "calibration": ["nearest:0.05:seed=98"],
            "calibration_models": 2,
        },
    }
    (record,) = run_trial(task, directory, trial("dmm", settings))
    assert record.status == "ok" and record.hyperparameters == settings
    assert record.cost.wall_s > 0


@pytest.mark.slow
def test_records_have_the_oracles_beside_them_and_say_what_was_tried(task, directory, bench):
    found = run_trial(task, directory, trial("ssd", {"alpha": 1.5}, {"alpha": 1e6}))
    assert [record.hyperparameters for record in found] == [{"alpha": 1.5}, {"alpha": 1e6}]
    untouched = run_trial(task, directory, trial(trials.REFERENCES, {}))
    assert [record.method for record in untouched] == ["retrain", "do nothing"]
    for name in ("forget accuracy", "retain accuracy", "test accuracy", "MIA"):
        oracle = untouched[0].metrics[name].value
        assert (
            found[1].metrics[name].value == untouched[1].metrics[name].value
        )  # nothing is selected
        for record in (*found, untouched[1]):
            if record.metrics[name].value is not None:
                assert record.metrics[name].oracle.mean == oracle
    floor = untouched[0].metrics["KLoM forget p95"]
    assert floor.value == floor.null == found[0].metrics["KLoM forget p95"].null
    correct = bench.retrained.argmax(-1) == bench.targets
    expected = correct[:, bench.positions["forget"]].mean()
    assert untouched[0].metrics["forget accuracy"].value == pytest.approx(expected)
    # Beside the retrained models stand other retrained models: the floor of the average gap.
    others = (bench.others.argmax(-1) == bench.targets)[:, bench.positions["forget"]].mean()
    assert untouched[0].metrics["forget accuracy"].oracle.mean == pytest.approx(others)
    assert not np.array_equal(bench.others, bench.retrained)
    assert reporting.render([*untouched, *found])


@pytest.mark.slow
def test_halves_and_seeds_share_no_model(task, directory):
    first = make_bench(task, directory, "tuning", "class:3", 0, MODELS)
    others = [
        make_bench(task, directory, "reporting", "class:3", 0, MODELS),
        make_bench(task, directory, "tuning", "class:3", 1, MODELS),
    ]
    for name in ("untouched", "retrained", "oracles"):
        for other in others:
            one, another = getattr(first, name), getattr(other, name)
            same = [[np.allclose(a, b, atol=1e-3) for a in one] for b in another]
            assert not np.any(same)
    margins = np.asarray(evaluation.margins(first.retrained, first.targets))
    assert not np.allclose(margins, first.oracles, atol=1e-2)
    assert len({seed for pair in SEEDS.values() for seed in pair}) == 4


@pytest.mark.slow
def test_the_reporting_half_has_the_models_of_the_benchmark(task, directory):
    from experiments.lib.populations import ORIGINALS, train_population

    bench = make_bench(task, directory, "reporting", "class:3", 0, MODELS)
    originals = train_population(task, directory, "o", models=MODELS, seed=ORIGINALS)
    np.testing.assert_array_equal(bench.untouched, originals.outputs)


def test_most_models_collapse_a_setting_and_their_number_stands_beside(bench):
    assert collapse(bench, bench.untouched) == ""
    assert measure(bench, bench.untouched)["collapsed models"].value == 0
    outputs = bench.untouched.copy()
    outputs[1:3] = np.eye(10)[0]
    assert collapse(bench, outputs) == ""  # half of them is not most
    assert measure(bench, outputs)["collapsed models"].value == 2
    outputs[0, :, 0] = np.nan
    said = collapse(bench, outputs)
    assert "3 of 4 models collapsed, the first with non-finite outputs" in said
    metrics = measure(bench, outputs)
    assert set(metrics) == set(bench.reference)
    counted = metrics.pop("collapsed models")
    assert (counted.value, counted.n, counted.null) == (3, MODELS, None)
    assert all("1 of 4 models have outputs" in metric.reason for metric in metrics.values())


def test_a_setting_that_diverges_is_a_record_of_its_own(task, directory):
    points = [{"optimizer": "sgd", "learning_rate": rate} for rate in (1e-3, 1e38)]
    good, bad = run_trial(task, directory, trial("iau", *points))
    assert good.status == "ok" and bad.status == "collapsed"
    assert reporting.from_json(reporting.to_json(bad)) == bad


def test_what_is_traced_follows_the_annotations(task, bench):
    """Another value of a number that may be an array compiles nothing, of another one it does."""
    base = {**FIT, "learning_rate": 0.01, "forget_weight": 0.1}
    run_method(bench, "neg_grad_plus", [base])
    before = trials._compiled.cache_info()
    (found,) = run_method(bench, "neg_grad_plus", [{**base, "forget_weight": 0.2}])
    assert trials._compiled.cache_info().misses == before.misses
    step = trials.METHODS["neg_grad_plus"](task, {**base, "forget_weight": 0.2}, None)
    np.testing.assert_allclose(found.values, direct(task, bench, step), atol=1e-3)
    run_method(bench, "neg_grad_plus", [{**base, "epochs": 1}])
    assert trials._compiled.cache_info().misses == before.misses + 1


def test_every_argument_annotated_as_an_array_is_traced():
    for method in trials.METHODS:
        hints = inspect.get_annotations(getattr(mu, method))
        arrays = {name for name, hint in hints.items() if str(hint).startswith("jax.Array |")}
        expected = set() if trials.is_prepared(method) else arrays
        assert expected <= trials.traced(method)
        assert trials.traced(method) - expected <= {
            *("learning_rate", "weight_decay", "attention_weight")
        }
