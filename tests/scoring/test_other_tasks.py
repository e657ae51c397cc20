"""`mu.evaluation.score` where targets are no classes: numbers, yes and no, trees."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import mu_jax as mu
from mu_jax.scoring.kinds import kind_of


def regression_sets():
    random = np.random.default_rng(1)
    inputs = random.normal(size=(150, 2)).astype(np.float32)
    targets = (inputs @ [1.0, -2.0]).astype(np.float32)
    data = mu.batches(inputs, targets, batch_size=32)
    train_set = data.take(np.arange(100))
    forget, retain = mu.split(train_set, range(20))
    return {"forget": forget, "retain": retain, "test": data.take(np.arange(100, 150))}


def test_every_number_of_a_regression_and_metrics_of_the_caller():
    model = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
    sets = regression_sets()
    found = mu.evaluation.score(
        model,
        {"mine": mu.Variables(jnp.array([[1.1], [-1.8]]))},
        **sets,
        retrained=[mu.Variables(jnp.array([[1.0], [-2.1]]))],
        metrics={
            "MAE": lambda outputs, targets: np.abs(outputs - targets),
            "worst": (lambda o, t: np.abs(o - t).max(), "higher is better", "m"),
        },
    )
    (mine,) = (record for record in found.records if record.method == "mine")
    (constant,) = (record for record in found.records if record.method == "constant")
    median = np.median(np.asarray(sets["retain"].targets))
    for name, data in sets.items():
        wanted, inputs = np.asarray(data.targets), np.asarray(data.inputs, np.float64)
        error = inputs @ [1.1, -1.8] - wanted
        assert mine.metrics[f"{name} squared error"].value == pytest.approx(np.mean(error**2), 1e-5)
        assert mine.metrics[f"{name} MAE"].value == pytest.approx(np.abs(error).mean(), 1e-5)
        worst = mine.metrics[f"{name} worst"]
        assert (worst.direction, worst.unit) == ("higher is better", "m")
        assert worst.value == pytest.approx(np.abs(error).max(), 1e-5)
        expected = np.mean((wanted - median) ** 2)
        assert constant.metrics[f"{name} squared error"].value == pytest.approx(expected, 1e-5)
    assert constant.status == "collapsed" and mine.status == "ok"


@pytest.mark.slow
def test_one_logit_for_yes_and_no():
    model = mu.from_function(lambda w, state, x: x @ w, mu.losses.binary_cross_entropy)
    sets = regression_sets()
    sets = {n: d.replace(targets=jnp.asarray(d.targets > 0, jnp.int32)) for n, d in sets.items()}
    found = mu.evaluation.score(model, {"mine": mu.Variables(jnp.array([1.0, -1.0]))}, **sets)
    (mine,) = (record for record in found.records if record.method == "mine")
    for name, data in sets.items():
        z = np.asarray(data.inputs) @ [1.0, -1.0]
        expected = np.mean((z > 0) == np.asarray(data.targets))
        assert mine.metrics[f"{name} accuracy"].value == pytest.approx(expected)
        signs = np.where(np.asarray(data.targets), 1, -1)
        losses = found.arrays["mine"][name].losses[0]
        np.testing.assert_allclose(losses, np.log1p(np.exp(-signs * z)), rtol=1e-4)


def test_targets_of_another_form_are_scored_by_the_loss_of_the_model():
    def loss(outputs, targets):
        return jnp.square(outputs["a"] - targets["a"]) + jnp.square(outputs["b"] - targets["b"])

    model = mu.from_function(lambda w, state, x: {"a": x["x"] * w, "b": x["x"]}, loss)
    data = mu.batches(
        {"x": jnp.arange(60.0)}, {"a": jnp.zeros(60), "b": jnp.ones(60)}, batch_size=7
    )
    forget, retain = mu.split(data, range(20))
    found = mu.evaluation.score(
        model,
        {"mine": mu.Variables(jnp.array(2.0))},
        forget=forget,
        retain=retain,
        metrics={"a": lambda outputs, targets: outputs["a"] - targets["a"]},
    )
    x = np.arange(20.0)
    (record,) = found.records
    expected = np.mean(4 * x**2 + (x - 1) ** 2)
    assert record.metrics["forget loss"].value == pytest.approx(expected)
    assert record.metrics["forget a"].value == pytest.approx(np.mean(2 * x))
    assert "neither classes nor labels" in str(found)


@pytest.mark.parametrize(
    ("outputs", "targets", "kind"),
    [
        (np.zeros((5, 3)), np.arange(5), "classification"),
        (np.zeros((5, 3)), np.ones((5, 3), int), "multilabel"),
        (np.zeros((5, 1)), np.ones(5, bool), "multilabel"),
        (np.zeros((5, 1)), np.arange(5), "regression"),
        (np.zeros(5), np.zeros(5), "regression"),
        (np.zeros((5, 24, 3)), np.zeros((5, 24)), "regression"),
        (np.zeros((5, 24, 3)), np.zeros((5, 24), int), "other"),
        ({"a": np.zeros(5)}, np.zeros(5), "other"),
    ],
)
def test_the_kind_of_a_task_by_its_arrays(outputs, targets, kind):
    assert kind_of(outputs, targets) == kind
