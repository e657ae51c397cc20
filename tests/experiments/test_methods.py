"""Methods by name: each builds for every task that it is offered for, with or without defaults."""

from __future__ import annotations

import dataclasses
import importlib
import typing
from pathlib import Path

import jax
import numpy as np
import pytest

import mu_jax as mu
from experiments import configs
from experiments.lib import arguments, configurations
from experiments.lib.language import methods as of_language
from experiments.lib.methods import METHODS, Request, complete, make_method
from experiments.lib.tasks import make_task, split
from mu_jax import models

ALL = sorted(p.stem for p in Path(configs.__file__).parent.glob("[!_]*.py"))
LANGUAGE = [name for name in ALL if name.startswith("language_")]
CONFIGS = [name for name in ALL if name not in LANGUAGE]
EMBEDDED = ["digits", "nomus_digits", "corrective_digits", "diabetes", "digits_regression"]
ATTRIBUTION = {"checkpoints": 2, "calibration": ("random:0.1:seed=9",), "calibration_models": 2}


def config_of(name):
    return importlib.import_module(f"experiments.configs.{name}").get_config()


# One task of each kind is quick; the others have the same methods with other numbers.
SLOW = {"nomus_digits", "corrective_digits", "digits_regression"}


def quick(*names, slow=SLOW):
    return [pytest.param(n, marks=pytest.mark.slow if n in slow else ()) for n in names]


@pytest.fixture(scope="module", params=quick(*EMBEDDED, "labels of yes and no"))
def task(request):
    config = config_of(request.param if request.param in EMBEDDED else "digits")
    config.limit, config.training.epochs = 120, 1
    task = make_task(config)
    return task if request.param in EMBEDDED else of_two_labels(task)


def of_two_labels(task):
    """Digits as two labels of yes and no: odd, and at least five."""
    module = models.MLP((8,), 2)

    def targets(examples):
        digit = np.asarray(examples.targets)
        return examples.replace(targets=np.stack([digit % 2, digit > 4], -1).astype(np.int32))

    return dataclasses.replace(
        task,
        train=targets(task.train),
        test=targets(task.test),
        info=task.info._replace(task="multilabel", num_classes=2),
        model=mu.from_linen(module, mu.losses.binary_cross_entropy),
        init=lambda key: module.init(key, task.train.inputs[:1]),
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("ensembles")


def trace(task, name, directory):
    """The shapes that the method returns for variables of the task."""
    forget, retain = split(task, np.asarray(task.train.index)[:20])
    variables = jax.eval_shape(task.init, jax.random.key(0))
    request = Request(forget, directory, lambda: task.init(jax.random.key(1)))
    transform = make_method(task, name, request)
    found, _ = jax.eval_shape(transform, jax.random.key(0), variables, forget, retain)
    return jax.tree.structure(found) == jax.tree.structure(variables)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_builds_for_every_task_or_is_not_offered(task, directory, method):
    kind = task.info.task
    if method in task.config.methods:
        del task.config.methods[method]
    if method not in arguments.offered(kind):
        with pytest.raises(ValueError, match=f"expected a method for a {kind} task among ssd"):
            trace(task, method, directory)
        return
    task.config.methods[method] = arguments.defaults(task.config, kind, method)
    if method == "dmm":
        task.config.methods.dmm.attribution.update(ATTRIBUTION)
    assert trace(task, method, directory)


def test_a_configuration_is_completed_by_what_it_does_not_name():
    config = config_of("digits")
    given = config.methods.ssd.to_dict()
    for method in ("ssd", "neg_grad_plus", "blindspot"):
        complete(config, method)
    assert config.methods.ssd.to_dict() == given
    assert config.methods.neg_grad_plus.learning_rate == pytest.approx(
        0.01
    )  # a tenth of training's
    assert config.methods.blindspot.teacher_epochs == 5
    with pytest.raises(ValueError, match="expected a method for a regression task"):
        complete(config_of("diabetes"), "dmm")


@pytest.mark.parametrize("name", quick(*EMBEDDED, slow={"digits", *SLOW} - {"nomus_digits"}))
def test_every_method_of_a_configuration_builds(name, directory):
    config = config_of(name)
    config.limit, config.training.epochs = 120, 1
    if "dmm" in config.methods:
        config.methods.dmm.attribution.update(ATTRIBUTION)
    task = make_task(config)
    assert all(trace(task, method, directory) for method in config.methods)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_and_its_defaults_are_in_order(name):
    config = config_of(name)
    configurations.check(config)
    for setting, found in config.to_dict()["methods"].items():
        arguments.check(setting, found.pop("method", setting), found)
    for kind in ("classification", "multilabel", "regression"):
        for method in arguments.offered(kind):
            arguments.check(method, method, arguments.defaults(config, kind, method))


@pytest.mark.parametrize("name", LANGUAGE)
def test_every_configuration_of_language_models_is_in_order(name):
    config = config_of(name)
    assert all(of_language.checked(config, setting) for setting in config.methods)


def test_every_rule_of_labels_has_a_name(directory):
    config = config_of("digits")
    config.limit = 120
    task = make_task(config)
    fit = {"optimizer": "sgd", "learning_rate": 0.1}
    for rule in (*typing.get_args(arguments.LABEL_RULES), 7):
        task.config.methods["random_labels"] = {**fit, "label_rule": rule}
        assert trace(task, "random_labels", directory)
    task.config.methods["random_labels"] = {**fit, "label_rule": 10}
    with pytest.raises(ValueError, match="from 0 to 9, a class of the model, found 10"):
        trace(task, "random_labels", directory)


def test_every_method_is_offered_for_some_task():
    assert set(METHODS) == set(arguments.offered("classification"))


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"nosuch": 1}, "expected hyper-parameters of 'ssd' among alpha, dampening"),
        ({"alpha": "abc"}, "expected a number or 'adaptive' for alpha of 'ssd', found 'abc'"),
        ({"alpha": None}, "found None"),
        ({"alpha": float("nan")}, "found nan"),
        ({"alpha": float("inf")}, "found inf"),
        ({"alpha": True}, "found True"),
        ({"alpha": [1.0]}, "found [1.0]"),
        ({"definition": "fischer"}, "expected 'per_example' or 'grouped'"),
        ({"group_size": 2**31}, "whole number or nothing from 1 to 2147483647 for group_size"),
        ({"alpha": 10**400}, "expected a number"),
        ({"group_size": 0}, "expected a whole number or nothing from 1 on for group_size"),
        ({"group_size": 2.5}, "found 2.5"),
    ],
)
def test_hyperparameters_that_cannot_be_meant_are_refused(changes, said):
    with pytest.raises(ValueError, match=r"^expected ") as caught:
        arguments.check("ssd", "ssd", {"alpha": 1.0, **changes})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "method, given, said",
    [
        ("ssd", {}, "expected alpha of 'ssd' in the configuration, found nothing"),
        ("neg_grad_plus", {"epochs": 3}, "expected optimizer and learning_rate of"),
        ("finetune", {"optimizer": "sgd", "learning_rate": -1.0}, "from 0 on"),
        ("finetune", {"optimizer": "sgd", "learning_rate": 1.0, "epochs": -1}, "from 0 on"),
        ("finetune", {"optimizer": "sgd", "learning_rate": 1.0, "batch_size": 0}, "from 1 on"),
        ("finetune", {"optimizer": 3, "learning_rate": 1.0}, "expected text for optimizer"),
        ("finetune", {"optimizer": "sgd", "learning_rate": 1.0, "training_mode": "no"}, "true or"),
        (
            "salun",
            {"optimizer": "sgd", "learning_rate": 1.0, "label_rule": "nearest"},
            "expected 'uniform' or 'uniform_other' or 'runner_up' or 'nearest_class' or a whole",
        ),
        (
            "dmm",
            {"optimizer": "sgd", "learning_rate": 1.0, "attribution": {"checkpoints": 0}},
            "expected a whole number from 1 on for checkpoints of the attribution",
        ),
        (
            "dmm",
            {"optimizer": "sgd", "learning_rate": 1.0, "attribution": {"models": 3}},
            "expected fields of the attribution of 'dmm' among checkpoints",
        ),
    ],
)
def test_hyperparameters_of_a_fit_are_checked_too(method, given, said):
    with pytest.raises(ValueError, match=r"^expected ") as caught:
        arguments.check(method, method, given)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "base, changes, said",
    [
        ("digits", {"training": {"batch_size": 0}}, "from 1 on for training.batch_size"),
        ("digits", {"training": {"batch_size": 10**20}}, "from 1 to 2147483647 for training.batch"),
        ("digits", {"training": {"learning_rate": 10**400}}, "from 0 to 3e+38 for training.learn"),
        ("digits", {"training": {"epochs": 2.5}}, "a whole number from 1 on for training.epochs"),
        ("digits", {"training": 3}, "a group of fields for training"),
        ("digits", {"methods": {"ssd": 3}}, "the arguments of the method ssd as a group"),
        ("diabetes", {"forget": None}, "text for forget"),
        ("diabetes", {"relearning": {"epochs": 0}}, "for relearning.epochs"),
    ],
)
def test_fields_that_cannot_be_meant_are_refused(base, changes, said):
    config = config_of(base).unlock()
    with config.ignore_type():
        for name, value in changes.items():
            both = isinstance(value, dict)
            config[name] = {**config[name].to_dict(), **value} if both else value
    with pytest.raises(ValueError, match=r"^expected ") as caught:
        configurations.check(config)
        configurations.check_fields(config, configurations.REGRESSION)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "width", [0, -1, 10**12, 10**20, 10**400], ids=["0", "-1", "1e12", "1e20", "1e400"]
)
def test_a_model_that_no_program_can_hold_is_one_sentence(width):
    config = config_of("digits").unlock()
    config.model.features = (width,)
    with pytest.raises(ValueError, match=r"^expected a model that .*; correct config\.model$"):
        make_task(config)


def test_a_field_that_is_missing_is_named():
    for name in ("dataset", "training", "methods"):
        config = config_of("digits").unlock()
        del config[name]
        with pytest.raises(ValueError, match=f"expected the field {name}"):
            configurations.check(config)
