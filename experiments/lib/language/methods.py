"""The table from names to unlearning methods of language models."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import optax

import mu_jax as mu
from experiments.lib import arguments as catalog
from experiments.lib.language.task import Task
from experiments.lib.tasks import lookup
from mu_jax.loops.gradients import sam

METHODS: dict[str, Callable[..., mu.Transform]] = {
    name: getattr(mu, name)
    for name in (
        *("npo", "simnpo", "grad_diff", "wga", "satimp", "ce_u", "undial", "pdu", "rmu"),
        *("code_eraser", "task_negation", "finetune", "gradient_ascent", "ssd", "iau"),
    )
}
OWN = {"clip": 1.0, "sam": 0.0}  # most norm of a gradient; rho of SAM on the forget term


def make_method(task: Task, name: str) -> mu.Transform:
    """The method `name` of the configuration; it says nothing of what it forgot, the table does.

    Several settings of one method have names of their own and the field `method`. What a setting
    does not name is the default of the method.

    Raises:
      ValueError: an unknown method, or hyper-parameters that it does not have, lacks, or cannot
        take.
    """
    method, arguments, own = checked(task.config, name)
    parameters = inspect.signature(METHODS[method]).parameters
    if "optimizer" in parameters:
        step = optax.adam(arguments.pop("learning_rate"))
        arguments["optimizer"] = optax.chain(optax.clip_by_global_norm(own["clip"]), step)
    if "recipe" in parameters:
        default = parameters["recipe"].default
        fields = [field for field in default._fields if field in arguments]
        changed = {field: arguments.pop(field) for field in fields}
        if own["sam"]:
            changed["gradients"] = sam(own["sam"], term="forget")
        arguments["recipe"] = default._replace(**changed)
    return mu.watched(METHODS[method](task.model, **arguments), False)


def checked(config: Any, name: str) -> tuple[str, dict[str, Any], dict[str, float]]:
    """Which method a name of the configuration means, its arguments, and those of `OWN`."""
    arguments = arguments_of(config, name)
    method = arguments.pop("method", name)
    lookup(METHODS, method, "method of language models")
    own = {field: arguments.pop(field, default) for field, default in OWN.items()}
    for field, value in own.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e6:
            raise ValueError(
                f"expected a number from 0 to 1e6 as {field} of {name!r}, found {value!r}; "
                "correct it"
            )
    parameters = inspect.signature(METHODS[method]).parameters
    if own["sam"] and "recipe" not in parameters:
        raise ValueError(
            f"expected sam of a method on pairs of rows, found it of {name!r}, a {method}; leave "
            "it out"
        )
    given = {"optimizer": "adam"} if "optimizer" in parameters else {}
    catalog.check(name, method, given | arguments)
    return method, arguments, own


def arguments_of(config: Any, name: str) -> dict[str, Any]:
    """The hyper-parameters of a method in the configuration."""
    found = config.methods[name]
    return found if isinstance(found, dict) else found.to_dict()


def method_arguments(task: Task, name: str) -> dict[str, Any]:
    """The hyper-parameters of a method of the task."""
    return arguments_of(task.config, name)
