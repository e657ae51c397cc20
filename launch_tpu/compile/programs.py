"""The programs of a run, as shapes: what is compiled on every chip, and how often it is called."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

import mu_jax as mu
from experiments.lib import initial
from experiments.lib.methods import Request, method_arguments
from experiments.lib.tasks import (
    LOSSES,
    Task,
    lookup,
    make_module,
    make_optimizer,
    make_task,
)
from mu_jax import _target as target
from mu_jax import datasets
from mu_jax.attribution import Directions
from mu_jax.loops.recording import Program, record

PyTree = Any
_NAMES = {
    "mu_jax.statistics.collecting": "statistic, a batch",
    "mu_jax.statistics.over_mesh": "statistic, sum over chips",
    "mu_jax.loops.fit": "fit, a step",
    "mu_jax.loops.predict": "rows, a batch",
}


class Inputs(NamedTuple):
    """What a transform is given, as shapes that lie on a mesh."""

    key: PyTree
    variables: PyTree
    forget: mu.Batches
    retain: mu.Batches


def name(program: Program) -> str:
    """What a program is, in words."""
    return _NAMES.get(program.function.__module__, "the whole method")


def abstract_task(config: ConfigDict) -> Task:
    """The task of a configuration with shapes in place of its data.

    A configuration with a field `shapes` describes data that need not be there; the data of any
    other are loaded to see what they are like.
    """
    if not config.get("shapes"):
        return _without_arrays(make_task(config))
    shapes = config.shapes
    info = datasets.DatasetInfo(
        name=config.dataset,
        version="",
        task="classification" if shapes.num_classes else "regression",
        input_shape=tuple(shapes.inputs),
        num_classes=shapes.num_classes or None,
        split_sizes={"train": shapes.examples},
    )
    module = make_module(config.model, info)
    loss = lookup(LOSSES, config.loss, "loss")
    dtype = jnp.dtype(shapes.dtype)

    def init(key: jax.Array) -> PyTree:
        return module.init(key, jnp.zeros((1, *info.input_shape), dtype))

    def row(shape: tuple, dtype: Any) -> Any:
        return jax.ShapeDtypeStruct((shapes.examples, *shape), dtype)

    train = mu.data.Batches(
        row(info.input_shape, dtype),
        row((), jnp.int32 if info.num_classes else jnp.float32),
        row((), jnp.float32),
        row((), jnp.int32),
        batch_size=config.batch_size,
    )
    return Task(train, train, info, mu.from_linen(module, loss), init, config)


def _without_arrays(task: Task) -> Task:
    def shape(leaf: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)

    train = jax.tree.map(shape, task.train)
    return dataclasses.replace(task, train=train, test=train)


def make_mesh(devices: Sequence[Any], *, fsdp: int = 1) -> Mesh:
    """All devices for the rows; parameters whole on each, or divided over groups of `fsdp`.

    The axes are explicit, so that a traced program says where its arrays lie.

    Raises:
      ValueError: groups that do not divide the devices.
    """
    if len(devices) % fsdp:
        raise ValueError(
            f"expected groups that divide {len(devices)} chips, found groups of {fsdp}: choose "
            "a divisor"
        )
    shape: tuple[int, ...] = (len(devices),)
    names: tuple[str, ...] = ("data",)
    if fsdp > 1:
        shape, names = (len(devices) // fsdp, fsdp), ("data", "fsdp")
    kinds = (AxisType.Explicit,) * len(names)
    return Mesh(np.array(devices).reshape(shape), names, axis_types=kinds)


def lay_out(task: Task, mesh: Mesh, *, batch_size: int, forget: int) -> Inputs:
    """What a transform is given, laid on the mesh.

    Args:
      task: with shapes for data.
      mesh: of `make_mesh`.
      batch_size: examples per batch over all devices. forget: examples to forget.

    Raises:
      ValueError: nothing to forget, or nothing left.
    """
    examples = task.train.num_examples
    if not 0 < forget < examples:
        raise ValueError(
            f"expected to forget between 1 and {examples - 1} examples, found {forget}: change it"
        )
    everywhere = NamedSharding(mesh, PartitionSpec())
    axes = mesh.axis_names
    key = jax.eval_shape(jax.random.key, 0)
    variables = jax.eval_shape(task.init, key)
    where = jax.tree.map(lambda _: everywhere, variables)
    if "fsdp" in axes:
        where = mu.param_shardings(variables, mesh, axis="fsdp")

    def rows(number: int) -> mu.Batches:
        data = task.train.replace(batch_size=batch_size, mesh=mesh)
        data = data.replace(axis=axes[0] if len(axes) == 1 else axes)
        return jax.tree.map(lambda x: at((number, *x.shape[1:]), x.dtype, everywhere), data)

    return Inputs(
        at(key.shape, key.dtype, everywhere),
        jax.tree.map(lambda x, sharding: at(x.shape, x.dtype, sharding), variables, where),
        rows(forget),
        rows(examples - forget),
    )


def streamed(task: Task, method: str, inputs: Inputs, *, platform: str = "tpu") -> list[Program]:
    """The programs of a method over streams: a step of every loop, and what stands between them.

    They are traced for `platform`. Equal programs are one, called as often as all of them.
    """
    transform, extra = _transform(task, method, inputs)
    return recorded(transform, (*inputs, *extra), inputs.retain.mesh, platform=platform)


def recorded(
    function: Callable, arguments: tuple, mesh: Mesh | None, *, platform: str = "tpu"
) -> list[Program]:
    """The programs that `function(*arguments)` runs over streams, for the devices of the mesh."""
    with record() as found, target.traced_for(platform):
        jax.eval_shape(function, *arguments)
    merged: dict[Any, Program] = {}
    for program in found:
        program = program._replace(arguments=_concrete(program.arguments, mesh))
        leaves, structure = jax.tree.flatten(program.arguments)
        same = (program.function, tuple(leaves), structure, program.donates)
        before = merged.get(same)
        times = program.times + (before.times if before else 0)
        merged[same] = program._replace(times=times)
    return list(merged.values())


def whole(task: Task, method: str, inputs: Inputs) -> list[Program]:
    """A method over data in the memory of every chip: one program, called once."""
    transform, extra = _transform(task, method, inputs)
    return [Program(transform, (*inputs, *extra), times=1, donates=False)]


def _transform(task: Task, method: str, inputs: Inputs) -> tuple[Callable, tuple]:
    """The method as a function of the inputs and of further trees of shapes."""
    arguments = method_arguments(task, method)
    sizes = {"batch_size": inputs.retain.batch_size} if "batch_size" in arguments else {}
    arguments = arguments | sizes
    if arguments.get("method", method) == "dmm":
        return _matching(task, arguments, inputs)
    config = ConfigDict(task.config.to_dict() | {"methods": {method: arguments}})
    task = dataclasses.replace(task, config=config)
    make = initial.maker(task, method, Request(inputs.forget, pathlib.Path()))
    if not initial.is_read(task, method):
        return make(None), ()

    def transform(key, variables, forget, retain, before):
        return make(before)(key, variables, forget, retain)

    return transform, (inputs.variables,)


def _matching(task: Task, arguments: dict[str, Any], inputs: Inputs) -> tuple[Callable, tuple]:
    """Datamodel matching with directions that are computed beforehand, one for each checkpoint."""
    rest = {field: value for field, value in arguments.items() if field != "method"}
    settings, optimizer, peak = (
        rest.pop(field) for field in ("attribution", "optimizer", "learning_rate")
    )
    recipe = mu.MatchingRecipe(**rest)
    steps = recipe.num_steps(inputs.forget.num_examples, inputs.retain.num_examples)
    step = make_optimizer(optimizer, optax.cosine_decay_schedule(peak, steps))
    variables, number = inputs.variables, settings["checkpoints"]
    params = task.model.params(variables)
    directions = Directions(task.model, (variables,) * number, (params,) * number, None)

    def transform(key, variables, forget, retain, directions):
        unlearn = mu.dmm(task.model, directions, step, recipe=recipe)
        return unlearn(key, variables, forget, retain)

    return transform, (directions,)


def at(shape: tuple[int, ...], dtype: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    """An array of which only the shape is there, and where it lies."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _concrete(tree: PyTree, mesh: Any) -> PyTree:
    """The same shapes on the devices of the mesh; what lies nowhere lies everywhere."""

    def place(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        spec = PartitionSpec() if leaf.sharding is None else leaf.sharding.spec
        return at(leaf.shape, leaf.dtype, NamedSharding(mesh, spec))

    return jax.tree.map(place, tree)
