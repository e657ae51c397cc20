"""Models that are trained by a protocol of exact unlearning, so that a removal is exact.

    python -m experiments.train --workdir=runs/sisa --config.training.protocol.name=sisa \\
        --config.training.protocol.shards=4 --config.training.protocol.slices=3

The variables of such a model are a lineage of `mu_jax.exact`, its outputs one answer of all shards.
A protocol trains at a constant rate: a schedule would end in the last slice, and its length would
depend on the rows that are left.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, cast, get_args

from absl import flags
from ml_collections import ConfigDict

import mu_jax as mu
from experiments.lib import configurations, protocol_fields, tasks
from experiments.lib.bases import base_of
from experiments.lib.methods import METHODS, complete
from experiments.lib.protocol_fields import NAMES, PLACE
from experiments.lib.tasks import Task, decayed_optimizer
from mu_jax.data.blocks import at_least
from mu_jax.ensembles.training import Layout
from mu_jax.exact.shards import default_layout
from mu_jax.exact.voting import Combine

PyTree = Any


def make_task(config: ConfigDict) -> Task:
    """The task of a configuration; if it names a protocol, model and training are the protocol's.

    The configuration gets what it does not say of the protocol: defaults, the room of a shard, and
    the layout of the machine; a lineage keeps both when rows are gone or the machine is another.

    Raises:
      ValueError: as for `tasks.make_task`; fields of the protocol that are wrong, a task that it
        cannot train.
    """
    configurations.check(config)
    if config.training.get("protocol") is None:
        return tasks.make_task(config)
    fields = protocol_fields.read(config)
    plain = ConfigDict(config.copy_and_resolve_references())
    del plain.unlock().training["protocol"]
    task = tasks.make_task(plain)
    _require_trainable(task)
    slices = fields["slices"] if fields["name"] == "sisa" else len(fields["layers"])
    check_shards(task, fields["shards"], slices, where=PLACE)
    fields["capacity"] = fields["capacity"] or room(task, fields["shards"])
    fields["layout"] = _layout(fields["layout"])
    with config.unlocked():
        config.training.protocol = ConfigDict(fields)
    name = fields.pop("name")
    where = fields.pop("base", None)
    protocol = sisa(task, **fields) if name == "sisa" else s3t(task, **fields)
    base = None if where is None else base_of(task, where)
    return dataclasses.replace(
        task, model=protocol.model, config=config, protocol=protocol, base=base
    )


def sisa(
    task: Task,
    *,
    shards: int,
    slices: int,
    capacity: int | None = None,
    layout: Layout | None = None,
) -> mu.exact.SISA:
    """SISA by the recipe of a task of ordinary training, at a constant rate."""
    training = task.config.training
    return mu.exact.sisa(
        task.model,
        decayed_optimizer(training.optimizer, training.learning_rate, training.weight_decay),
        init=task.init,
        shards=shards,
        slices=slices,
        epochs=training.epochs,
        batch_size=training.batch_size,
        combine=_combine(task),
        capacity=capacity or room(task, shards),
        recipe={**training.to_dict(), "schedule": "constant"},
        layout=layout,
    )


def s3t(
    task: Task,
    *,
    layers: Any,
    head: str,
    shards: int,
    orders: int | None,
    rank: int,
    capacity: int | None = None,
    layout: Layout | None = None,
) -> mu.exact.S3T:
    """S3T by the recipe of a task of ordinary training, at a constant rate.

    Args:
      layers: names from the top of the network down, or lists of names. orders: how many rotations.
    """
    training = task.config.training
    groups = [(each,) if isinstance(each, str) else each for each in layers]
    if not groups or not all(map(_is_names, groups)):
        raise ValueError(
            f"expected names of layers, or lists of them, for {PLACE}.layers, found {layers!r}; "
            "name them from the top of the network down"
        )
    return mu.exact.s3t(
        task.model,
        decayed_optimizer(training.optimizer, training.learning_rate, training.weight_decay),
        layers=groups,
        head=head,
        shards=shards,
        orders=mu.exact.rotations(len(groups), orders or len(groups)),
        epochs=training.epochs,
        batch_size=training.batch_size,
        rank=rank,
        combine=_combine(task),
        capacity=capacity or room(task, shards),
        recipe={**training.to_dict(), "schedule": "constant"},
        layout=layout,
    )


def room(task: Task, shards: int) -> int:
    """Rows that a shard has room for: twice the mean, and eight deviations above it, or all."""
    rows = task.train.num_examples
    mean = rows / shards
    largest = math.ceil(max(2 * mean, mean + 8 * math.sqrt(mean)))
    return at_least(task.config.training.batch_size, min(rows, largest))


def check_shards(task: Task, shards: int, slices: int, *, where: str = "") -> None:
    """Refuse slices that would have hardly an example each.

    Args:
      where: of the configuration; "" where flags say how many there are.
    """
    most = task.train.num_examples
    if 2 * shards * slices > most:
        advice = f"fewer of them in {where}" if where else "--shards or --slices"
        raise ValueError(
            f"expected shards with two examples a slice, found {shards} shards of {slices} slices "
            f"for {most} training examples; {'name' if where else 'lower'} {advice}"
        )


def of_lineage(task: Task, variables: PyTree) -> Task:
    """The task whose new lineages have the frozen base of this one."""
    if not isinstance(variables, mu.exact.S3TVariables):
        return task
    return dataclasses.replace(task, base=lambda key: variables.base)


def define_method(values: flags.FlagValues) -> flags.FlagHolder:
    """Define `--method`; `settle_method` gives it its default when the model is known."""
    return flags.DEFINE_enum(
        "method",
        None,
        [*METHODS, *NAMES],
        "How to unlearn; if not given, by the protocol of the model's training, or else by ssd.",
        flag_values=values,
    )


def settle_method(values: flags.FlagValues, config: ConfigDict) -> None:
    """Give `--method` its default for a trained model, and the method the arguments that it lacks.

    Raises:
      ValueError: a method that cannot answer for this model.
    """
    given, fields = values["method"].value, config.training.get("protocol")
    own = None if fields is None else protocol_fields.read(config)["name"]
    if given is not None and own is None and given in NAMES:
        raise ValueError(
            f"expected an approximate method for a model of ordinary training, found {given}; "
            f"choose one, or train a model with --config.{PLACE}.name={given}"
        )
    if own is not None and given not in (None, own):
        raise ValueError(
            f"expected --method={own}, the protocol by which the model was trained, found {given}, "
            "which is for models of ordinary training; leave --method out"
        )
    values["method"].value = own or given or "ssd"
    if own is None:
        complete(config, values["method"].value)


def _require_trainable(task: Task) -> None:
    if task.weights is not None:
        raise ValueError(
            f"expected a task to train for {PLACE}, found that {task.config.dataset} brings "
            "weights, which have seen all rows at once; leave them out"
        )
    if "start" in task.sources["train"].attributes:
        raise ValueError(
            f"expected examples that are apart for {PLACE}, found windows of {task.config.dataset} "
            "that overlap; choose ordinary training"
        )
    if task.config.training.get("base_width"):
        raise ValueError(
            f"expected {PLACE} without training.base_width, whose rules are of whole models, found "
            "both; leave one out"
        )


def _layout(given: str | None) -> Layout:
    if given is not None and given not in get_args(Layout):
        raise ValueError(
            f"expected a layout among {', '.join(get_args(Layout))} for {PLACE}.layout, found "
            f"{given!r}; choose one"
        )
    return cast(Layout | None, given) or default_layout()


def _is_names(group: Any) -> bool:
    whole = isinstance(group, (list, tuple)) and len(group) > 0
    return whole and all(isinstance(name, str) for name in group)


def _combine(task: Task) -> Combine:
    """Probabilities of classes; means of what is no logits of one soft-max."""
    return "probabilities" if task.info.task == "classification" else "outputs"
