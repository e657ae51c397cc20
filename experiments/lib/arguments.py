"""The hyper-parameters of the methods: which there are, what they may be, and their defaults."""

from __future__ import annotations

import functools
import inspect
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
from ml_collections import ConfigDict

import mu_jax as mu
from experiments.lib import configurations

# What the binaries make themselves, from a model, a store and a configuration.
_OBJECTS = {"model", "init", "initial", "attribution", "multiplier", "recipe", "gradients"}
_OBJECTS |= {"alignment_optimizer", "vae_optimizer", "new_row"}
_OBJECTS |= {"full_importance", "full_gradient", "teacher_optimizer", "optimizer"}
_OBJECTS |= {"label_rule", "noise_optimizer", "repair_optimizer"}
_OBJECTS |= {"inverse_curvature", "solver"}
_FROM_ZERO = {"epochs", "steps", "learning_rate", "weight_decay", "teacher_epochs"}
_FROM_ZERO |= {"noise_steps"}
_FROM_ONE = {"batch_size", "group_size", "checkpoints", "dim", "calibration_models"}
_FROM_ONE |= {"noise_images", "copies", "samples_per_class", "iterations"}
# Of margins, softmaxes and classes.
_CLASSIFICATION_ONLY = ("dmm", "bad_teacher", "fisher_forgetting", "modhifi", "ntk_scrub", "unsir")
LABEL_RULES = Literal["uniform", "uniform_other", "runner_up", "nearest_class"]
ATTRIBUTION = {
    "checkpoints": 20,
    "retain_only": True,
    "calibration": ("random:0.05:seed=99", "random:0.05:seed=98"),
    "calibration_models": 8,
}


class Argument(NamedTuple):
    """hint: what it may be, as an annotation. required: whether it has no default."""

    hint: Any
    required: bool


@functools.cache
def arguments_of(method: str) -> Mapping[str, Argument]:
    """What a method of `experiments.lib.methods` takes in a configuration, by name.

    It is read off the signature of the function of that name in `mu_jax`.

    Example:
      >>> [name for name, argument in arguments_of("iau").items() if argument.required]
      ['optimizer', 'learning_rate']
    """
    function = getattr(mu, method)
    parameters = inspect.signature(function).parameters
    hints = typing.get_type_hints(function)
    found = {
        name: Argument(hints[name], parameter.default is parameter.empty)
        for name, parameter in parameters.items()
        if name not in _OBJECTS
    }
    if "recipe" in parameters:
        recipe = type(parameters["recipe"].default)
        found |= {
            name: Argument(hint, False) for name, hint in typing.get_type_hints(recipe).items()
        }
    if "optimizer" in parameters:  # made by the binaries, of numbers that may be traced
        number = jax.Array | float
        found |= {"optimizer": Argument(str, True), "learning_rate": Argument(number, True)}
        if method != "dmm":
            found["weight_decay"] = Argument(number, False)
    if "label_rule" in parameters:  # a whole number is one and the same class for all
        found["label_rule"] = Argument(LABEL_RULES | int, False)
    if reads_initial(method):  # of conjugate gradients, the one solver
        found["iterations"] = Argument(int, False)
    elif "solver" in parameters:
        found["solver"] = Argument(str, False)
    if "attribution" in parameters:
        found["attribution"] = Argument(Mapping, False)
    return found


def reads_initial(method: str) -> bool:
    """Whether a method reads the variables from which its model was trained.

    Example:
      >>> reads_initial("ntk_scrub"), reads_initial("ssd")
      (True, False)
    """
    return "initial" in inspect.signature(getattr(mu, method)).parameters


def check(name: str, method: str, arguments: Mapping[str, Any]) -> None:
    """Refuse hyper-parameters that a method does not have, lacks, or cannot take.

    Args:
      name: of the setting, as the configuration has it. method: which method it is.
      arguments: the hyper-parameters.

    Raises:
      ValueError: an unknown or a missing one, or one of the wrong kind or sign.
    """
    known = arguments_of(method)
    for argument in arguments:
        if argument not in known:
            raise ValueError(
                f"expected hyper-parameters of {name!r} among {', '.join(known)}, found "
                f"{argument!r}; correct or remove it"
            )
    missing = [
        each for each, argument in known.items() if argument.required and each not in arguments
    ]
    if missing:
        raise ValueError(
            f"expected {' and '.join(missing)} of {name!r} in the configuration, found "
            f"{', '.join(arguments) or 'nothing'}; add what is missing"
        )
    for argument, value in arguments.items():
        _check_value(f"{argument} of {name!r}", argument, known[argument].hint, value)
    fields = {each: type(value) for each, value in ATTRIBUTION.items()} | {"dim": int | None}
    for argument, value in (arguments.get("attribution") or {}).items():
        if argument not in fields:
            raise ValueError(
                f"expected fields of the attribution of {name!r} among {', '.join(fields)}, "
                f"found {argument!r}; correct or remove it"
            )
        hint = fields[argument]
        _check_value(f"{argument} of the attribution of {name!r}", argument, hint, value)


def _check_value(what: str, argument: str, hint: Any, value: Any) -> None:
    least = 0 if argument in _FROM_ZERO else 1 if argument in _FROM_ONE else -math.inf
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    most = configurations.largest(_alternatives(hint))
    if _fits(hint, value) and not (number and not max(least, -most) <= value <= most):
        return
    bound = configurations.range_in_words(least, most, value) if math.isfinite(least) else ""
    raise ValueError(
        f"expected {' or '.join(_words(hint))}{bound} for {what}, found {value!r}; correct it"
    )


def _alternatives(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(each for part in typing.get_args(hint) for each in _alternatives(part))
    return (hint,)


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value of a configuration may stand for an annotation."""
    return any(_fits_one(each, value) for each in _alternatives(hint))


def _fits_one(hint: Any, value: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is Literal:
        return value in typing.get_args(hint)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    kind = origin or hint
    if kind is tuple:
        return isinstance(value, (tuple, list))
    if kind is Mapping:
        return isinstance(value, Mapping)
    return kind in (bool, str, type(None)) and isinstance(value, kind)


def _words(hint: Any) -> list[str]:
    """An annotation in words; of what a configuration cannot hold, nothing."""
    plain = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
    plain |= {type(None): "nothing", tuple: "a list", Mapping: "a group of fields"}
    found = []
    for each in _alternatives(hint):
        if typing.get_origin(each) is Literal:
            found += [repr(value) for value in typing.get_args(each)]
        elif (kind := typing.get_origin(each) or each) in plain:
            found.append(plain[kind])
    return list(dict.fromkeys(found))


def offered(kind: str) -> list[str]:
    """The methods for a kind of task: "classification", "multilabel" or "regression"."""
    names = list(_defaults(ConfigDict({"training": dict.fromkeys(_RECIPE, 1)})))
    if kind == "classification":
        return [*names, *(name for name in _of_optimizers() if name not in names)]
    return [name for name in names if name not in _CLASSIFICATION_ONLY]


def _of_optimizers() -> list[str]:
    """Methods that need a model and an optimizer alone: they take the settings of a fit."""
    found = []
    for name in sorted(set(mu.transforms.__all__) - mu.transforms.LANGUAGE - mu.transforms.ADAPTED):
        factory = getattr(mu.transforms, name)
        if inspect.isfunction(factory):
            given = inspect.signature(factory).parameters.values()
            if [p.name for p in given if p.default is p.empty] == ["model", "optimizer"]:
                found.append(name)
    return found


def defaults(config: ConfigDict, kind: str, method: str) -> dict[str, Any]:
    """The hyper-parameters of a method that the configuration of a task does not name.

    Published values for the methods that come with some, and a fit at a tenth of the rate of
    training for the others: a beginning, which is not tuned to the task.

    Args:
      config: of the task. kind: of the task. method: one of `experiments.lib.methods`.

    Raises:
      ValueError: a method that is not for this kind of task.
    """
    if method not in offered(kind):
        raise ValueError(
            f"expected a method for a {kind} task among {', '.join(offered(kind))}, found "
            f"{method!r}; choose one"
        )
    return _defaults(config).get(method, _fit(config))


_RECIPE = ("optimizer", "learning_rate", "weight_decay", "batch_size", "epochs")


def _fit(config: ConfigDict) -> dict[str, Any]:
    """A short fit at a tenth of the rate of training."""
    training = config.training
    return {
        "optimizer": training.optimizer,
        "learning_rate": training.learning_rate / 10,
        "epochs": min(5, training.epochs),
        "batch_size": training.batch_size,
    }


def _defaults(config: ConfigDict) -> dict[str, dict[str, Any]]:
    recipe = {name: config.training[name] for name in _RECIPE}
    rate, few, fit = recipe["learning_rate"], min(5, recipe["epochs"]), _fit(config)
    adam = {**fit, "optimizer": "adam", "learning_rate": 1e-3}
    return {
        "ssd": {"alpha": 10.0, "dampening": 1.0},
        "iau": {"optimizer": "adam", "learning_rate": 1e-3},
        "dmm": {"attribution": dict(ATTRIBUTION), **adam},
        "fisher_forgetting": {"alpha": 1e-6},
        "finetune": {**fit, "weight_decay": recipe["weight_decay"]},
        "gradient_ascent": {**fit, "learning_rate": rate / 20},
        "bad_teacher": adam,
        "blindspot": {**adam, "teacher_epochs": few},
        "gaussian_amnesiac": adam,
        "influence": {"damping": 1e-2},
        "neg_grad_plus": {**fit, "forget_weight": 0.05},
        "unsir": {**adam, "learning_rate": 0.02, "epochs": 1},
        "l1_sparse": {**fit, "gamma": 5e-4},
        "modhifi": {"share": 0.1},
        "ntk_scrub": {"weight_decay": 0.1},
        "retrain": recipe,
    }
