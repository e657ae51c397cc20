"""The one table from names to unlearning methods."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import optax

import mu_jax as mu
from experiments.lib import attributions
from experiments.lib.tasks import Task, lookup, make_optimizer


class Request(NamedTuple):
    """What a method may look at before it is given models.

    forget: the examples to forget. directory: where ensembles are kept.
    """

    forget: mu.Batches
    directory: pathlib.Path


Build = Callable[[Task, dict[str, Any], Request], mu.Transform]


def _ssd(task: Task, arguments: dict[str, Any], request: Request) -> mu.Transform:
    return mu.ssd(task.model, **arguments)


def _iau(task: Task, arguments: dict[str, Any], request: Request) -> mu.Transform:
    return mu.iau(task.model, **_with_optimizer(arguments))


def _dmm(task: Task, arguments: dict[str, Any], request: Request) -> mu.Transform:
    rest = dict(arguments)
    settings, name, peak = (rest.pop(k) for k in ("attribution", "optimizer", "learning_rate"))
    recipe = mu.MatchingRecipe(**rest)
    forget = request.forget.num_examples
    steps = recipe.num_steps(forget, task.train.num_examples - forget)
    found = attributions.prepare(task, settings, request.directory)
    return mu.dmm(
        task.model,
        found.store.directions(request.forget, retain_only=settings.get("retain_only", False)),
        make_optimizer(name, optax.cosine_decay_schedule(peak, steps)),
        multiplier=found.multiplier,
        recipe=recipe,
    )


def _finetune(task: Task, arguments: dict[str, Any], request: Request) -> mu.Transform:
    return mu.finetune(task.model, **_with_optimizer(arguments))


def _gradient_ascent(task: Task, arguments: dict[str, Any], request: Request) -> mu.Transform:
    return mu.gradient_ascent(task.model, **_with_optimizer(arguments))


def _blindspot(task: Task, arguments: dict[str, Any], request: Request) -> mu.Transform:
    rest = _with_optimizer(arguments)
    fixed = {
        name: rest.pop(name) for name in ("optimizer", "epochs", "teacher_epochs") if name in rest
    }
    if task.config.get("loss") == "quantile_loss":  # a teacher's quantiles are no targets
        rest["distance"] = mu.losses.absolute_error
    return mu.blindspot(task.model, init=task.init, recipe=mu.BlindspotRecipe(**rest), **fixed)


def _gaussian_amnesiac(task: Task, arguments: dict[str, Any], request: Request) -> mu.Transform:
    return mu.gaussian_amnesiac(task.model, **_with_optimizer(arguments))


def _neg_grad_plus(task: Task, arguments: dict[str, Any], request: Request) -> mu.Transform:
    return mu.neg_grad_plus(task.model, **_with_optimizer(arguments))


def _retrain(task: Task, arguments: dict[str, Any], request: Request) -> mu.Transform:
    return mu.retrain(task.model, init=task.init, **_with_optimizer(arguments))


METHODS: dict[str, Build] = {
    "ssd": _ssd,
    "iau": _iau,
    "dmm": _dmm,
    "finetune": _finetune,
    "gradient_ascent": _gradient_ascent,
    "blindspot": _blindspot,
    "gaussian_amnesiac": _gaussian_amnesiac,
    "neg_grad_plus": _neg_grad_plus,
    "retrain": _retrain,
}


def make_method(task: Task, name: str, request: Request) -> mu.Transform:
    """The method `name` with the arguments that the configuration gives it.

    Several settings of one method have names of their own and the field `method`.
    """
    arguments = method_arguments(task, name)
    build = lookup(METHODS, arguments.pop("method", name), "method")
    return build(task, arguments, request)


def method_arguments(task: Task, name: str) -> dict[str, Any]:
    """The hyper-parameters of a method in the configuration; none if it is not there."""
    found = task.config.methods.get(name, {})
    return found if isinstance(found, dict) else found.to_dict()


def _with_optimizer(arguments: dict[str, Any]) -> dict[str, Any]:
    """Replace an optimizer's name, learning rate and weight decay by the optimizer."""
    rest = dict(arguments)
    decay = optax.add_decayed_weights(rest.pop("weight_decay", 0.0))
    step = make_optimizer(rest.pop("optimizer"), rest.pop("learning_rate"))
    rest["optimizer"] = optax.chain(decay, step)
    return rest
