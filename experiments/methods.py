"""The one table from names to unlearning methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mu_jax as mu
from experiments.tasks import Task, lookup, make_optimizer


def _ssd(task: Task, arguments: dict[str, Any]) -> mu.Transform:
    return mu.ssd(task.model, **arguments)


def _iau(task: Task, arguments: dict[str, Any]) -> mu.Transform:
    return mu.iau(task.model, **_with_optimizer(arguments))


def _finetune(task: Task, arguments: dict[str, Any]) -> mu.Transform:
    return mu.finetune(task.model, **_with_optimizer(arguments))


def _gradient_ascent(task: Task, arguments: dict[str, Any]) -> mu.Transform:
    return mu.gradient_ascent(task.model, **_with_optimizer(arguments))


METHODS: dict[str, Callable[[Task, dict[str, Any]], mu.Transform]] = {
    "ssd": _ssd,
    "iau": _iau,
    "finetune": _finetune,
    "gradient_ascent": _gradient_ascent,
}


def make_method(task: Task, name: str) -> mu.Transform:
    """The method `name` with the arguments that the configuration gives it."""
    build = lookup(METHODS, name, "method")
    return build(task, method_arguments(task, name))


def method_arguments(task: Task, name: str) -> dict[str, Any]:
    """The hyper-parameters of a method in the configuration; none if it is not there."""
    return dict(task.config.methods.get(name, {}))


def _with_optimizer(arguments: dict[str, Any]) -> dict[str, Any]:
    """Replace the name of an optimizer and its learning rate by the optimizer."""
    rest = dict(arguments)
    rest["optimizer"] = make_optimizer(rest.pop("optimizer"), rest.pop("learning_rate"))
    return rest
