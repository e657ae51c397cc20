"""The one table from names to unlearning methods."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import optax
from ml_collections import ConfigDict

import mu_jax as mu
from experiments.lib import arguments as catalog
from experiments.lib import attributions
from experiments.lib.stored_statistics import OverAll
from experiments.lib.tasks import (
    OPTIMIZERS,
    Task,
    check_kind,
    decayed_optimizer,
    kind_of,
    lookup,
    make_optimizer,
    make_task,
    recipe,
)

PyTree = Any


def _unknown() -> PyTree:
    raise ValueError(
        "expected the variables from which the model was trained, found no way to make them "
        "again; choose a method that does not read them"
    )


class Request(NamedTuple):
    """What a method may look at before it is given models.

    forget: the examples to forget. directory: where ensembles are kept. initial: makes the
    variables from which the model was trained, or refuses; called where a method reads them.
    over_all: gives statistics over all examples at the one model that is edited; None for more.
    """

    forget: mu.Batches
    directory: pathlib.Path
    initial: Callable[[], PyTree] = _unknown
    over_all: OverAll | None = None


Build = Callable[[Task, dict[str, Any], Request], mu.Transform]


def _ssd(task: Task, arguments: dict[str, Any], request: Request) -> mu.Transform:
    definition, size = arguments.get("definition", "per_example"), arguments.get("group_size")
    importance = mu.statistics.importance(task.model, definition, size)
    known = {}
    # A group is of consecutive examples, and the adaptive threshold asks for the retain set.
    if request.over_all and importance.group_size == 1 and arguments["alpha"] != "adaptive":
        known["full_importance"] = request.over_all(importance)
    return mu.ssd(task.model, **arguments, **known)


def _modhifi(task: Task, arguments: dict[str, Any], request: Request) -> mu.Transform:
    return mu.modhifi(task.model, **arguments)


def _iau(task: Task, arguments: dict[str, Any], request: Request) -> mu.Transform:
    known = {}
    if request.over_all:
        known["full_gradient"] = request.over_all(mu.statistics.mean_gradient(task.model))
    return mu.iau(task.model, **_with_optimizer(arguments), **known)


def _dmm(task: Task, arguments: dict[str, Any], request: Request) -> mu.Transform:
    rest = dict(arguments)
    settings = {**catalog.ATTRIBUTION, **(rest.pop("attribution", None) or {})}
    name, peak = rest.pop("optimizer"), rest.pop("learning_rate")
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


def _fitted(factory: Callable[..., mu.Transform]) -> Build:
    """A method whose arguments are numbers and one optimizer."""

    def build(task: Task, arguments: dict[str, Any], request: Request) -> mu.Transform:
        return factory(task.model, **_with_optimizer(arguments))

    return build


def _blindspot(task: Task, arguments: dict[str, Any], request: Request) -> mu.Transform:
    rest = _with_optimizer(arguments)
    fixed = {
        name: rest.pop(name) for name in ("optimizer", "epochs", "teacher_epochs") if name in rest
    }
    if task.config.get("loss") == "quantile_loss":  # a teacher's quantiles are no targets
        rest["distance"] = mu.losses.absolute_error
    return mu.blindspot(task.model, init=task.init, recipe=mu.BlindspotRecipe(**rest), **fixed)


def _initialized(factory: Callable[..., mu.Transform]) -> Build:
    """A method of numbers and one optimizer that initializes a model anew."""

    def build(task: Task, arguments: dict[str, Any], request: Request) -> mu.Transform:
        return factory(task.model, init=task.init, **_with_optimizer(arguments))

    return build


SOLVERS: dict[str, Callable[[], Any]] = {
    "conjugate_gradients": mu.solvers.conjugate_gradients,
    "kfac": mu.solvers.kfac,
    "ekfac": mu.solvers.ekfac,
    "lissa": mu.solvers.lissa,
    "woodbury": mu.solvers.woodbury,
    "rank_one_reference": mu.solvers.rank_one_reference,
}


def _influence(task: Task, arguments: dict[str, Any], request: Request) -> mu.Transform:
    rest = dict(arguments)
    if "solver" in rest:
        rest["solver"] = lookup(SOLVERS, rest["solver"], "solver")()
    return mu.influence(task.model, **rest)


def _ntk_scrub(task: Task, arguments: dict[str, Any], request: Request) -> mu.Transform:
    rest = dict(arguments)
    if "iterations" in rest:
        rest["solver"] = mu.solvers.conjugate_gradients(iterations=rest.pop("iterations"))
    return mu.ntk_scrub(task.model, request.initial(), **rest)


METHODS: dict[str, Build] = {
    "ssd": _ssd,
    "iau": _iau,
    "dmm": _dmm,
    "finetune": _fitted(mu.finetune),
    "fisher_forgetting": lambda task, arguments, _: mu.fisher_forgetting(task.model, **arguments),
    "gradient_ascent": _fitted(mu.gradient_ascent),
    "bad_teacher": _initialized(mu.bad_teacher),
    "blindspot": _blindspot,
    "gaussian_amnesiac": _fitted(mu.gaussian_amnesiac),
    "neg_grad_plus": _fitted(mu.neg_grad_plus),
    "random_labels": _fitted(mu.random_labels),
    "scrub": _fitted(mu.scrub),
    "salun": _fitted(mu.salun),
    "l1_sparse": _fitted(mu.l1_sparse),
    "boundary_expand": _fitted(mu.boundary_expand),
    "boundary_shrink": _fitted(mu.boundary_shrink),
    "laf": _fitted(mu.laf),
    "modhifi": _modhifi,
    "task_negation": _fitted(mu.task_negation),
    "unsir": _fitted(mu.unsir),
    "influence": _influence,
    "ntk_scrub": _ntk_scrub,
    "retrain": _initialized(mu.retrain),
}


def make_method(task: Task, name: str, request: Request) -> mu.Transform:
    """The method `name` with the arguments that the configuration gives it, else its defaults.

    Several settings of one method have names of their own and the field `method`.

    Raises:
      ValueError: an unknown method, one that is not for this kind of task, or hyper-parameters
        that it does not have, lacks, or cannot take.
    """
    if task.protocol is not None:  # the one by which the model was trained, see `settle_method`
        return task.protocol.unlearn
    method, arguments = _checked(task, name)
    return METHODS[method](task, arguments, request)


def make_checked_task(config: ConfigDict, kind: str, advice: str = "") -> Task:
    """The task of a configuration, refused if it is no `kind` or `make_method` would refuse one.

    Args:
      config: of the task. kind, advice: as for `check_kind`.
    """
    task = make_task(config)
    check_kind(task, kind, advice)
    check_methods(task)
    return task


def check_methods(task: Task) -> None:
    """Refuse a configuration with a method that `make_method` would refuse; nothing is made."""
    for name in task.config.methods:
        _checked(task, name)


def _checked(task: Task, name: str) -> tuple[str, dict[str, Any]]:
    """Which method a name of the configuration means, and its arguments."""
    arguments, kind = method_arguments(task, name), task.info.task
    method = arguments.pop("method", name)
    lookup(METHODS, method, "method")
    lookup(dict.fromkeys(catalog.offered(kind)), method, f"method for a {kind} task")
    if name not in task.config.methods:
        arguments = catalog.defaults(task.config, kind, name)
    catalog.check(name, method, arguments)
    if "optimizer" in arguments:
        lookup(OPTIMIZERS, arguments["optimizer"], "optimizer")
    return method, arguments


def method_arguments(task: Task, name: str) -> dict[str, Any]:
    """The hyper-parameters of a method in the configuration; none if it is not there."""
    if task.protocol is not None:
        return recipe(task)
    found = task.config.methods.get(name, {})
    return found if isinstance(found, dict) else found.to_dict()


def complete(config: ConfigDict, method: str) -> None:
    """Give a configuration the default arguments of a method that it does not name."""
    if method not in config.methods:
        kind = kind_of(config)
        with config.unlocked():
            config.methods[method] = catalog.defaults(config, kind, method)


def _with_optimizer(arguments: dict[str, Any]) -> dict[str, Any]:
    """Replace an optimizer's name, learning rate and weight decay by the optimizer."""
    rest = dict(arguments)
    name, rate = rest.pop("optimizer"), rest.pop("learning_rate")
    rest["optimizer"] = decayed_optimizer(name, rate, rest.pop("weight_decay", 0.0))
    if "label_rule" in rest:
        rest["label_rule"] = _label_rule(rest["label_rule"])
    return rest


def _label_rule(name: str | int) -> Any:
    """The rule of a name of `experiments.lib.arguments.LABEL_RULES`, or one class for all."""
    rules = mu.objectives
    if isinstance(name, int):
        return rules.fixed_label(name)
    named = {"uniform": rules.uniform_label, "uniform_other": rules.uniform_other_label}
    named |= {"runner_up": rules.runner_up_label(), "nearest_class": rules.nearest_class_label()}
    return named[name]
