"""A person's own model, data and weights in the binaries: `--task=package.module:make_task`."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np
from ml_collections import ConfigDict

import mu_jax as mu
from experiments.lib.shapes import shapes_of_outputs

PyTree = Any
Kind = Literal["classification", "multilabel", "regression"]
_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_TRAINING = {
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "weight_decay": 0.0,
    "batch_size": 64,
    "epochs": 10,
}


@dataclasses.dataclass(frozen=True, eq=False)
class OwnTask:
    """What a function behind `--task` returns.

    Attributes:
      model: how to compute: `mu.from_linen(module, loss)`, `mu.from_nnx`, `mu.from_function`.
      train, test: the examples as `mu.Batches`, with a stable id each. Their batch size is that of
        statistics and evaluation; results do not depend on it.
      kind: "classification" (outputs are logits, targets int class numbers), "multilabel" (one
        column of 0 and 1 a label) or "regression".
      init: `key -> variables`, for shapes, and for models that are trained from scratch.
      weights: the trained model, in any form that `mu.store.load_weights` reads: an Orbax
        directory, a file of safetensors, a `TrainState`, variables. None: `experiments.train`
        trains it.
      training: the recipe by which the model was trained, or is to be: `optimizer` ("adam",
        "adamw", "sgd", "momentum"), `learning_rate`, `schedule` ("constant", "cosine", "linear",
        "thirds"), `weight_decay`, `batch_size`, `epochs`, and `protocol`, one of exact unlearning
        (docs/exact.md). What is left out is Adam at 1e-3 with a cosine, no decay, batches of 64, 10
        epochs. None beside `weights`: nothing is retrained,
        since models of another recipe are no reference.
      methods: hyper-parameters by the name of the method; other methods have defaults.
      attributes: arrays [n] beside train examples, by name, for requests such as `client:12`.
      ids: `mu.id_table` of the train examples where people's ids are no whole numbers, or where
        subjects own rows: `user:u_8123`.
    """

    model: mu.Model
    train: mu.Batches
    test: mu.Batches
    kind: Kind
    init: Callable[[jax.Array], PyTree]
    weights: Any = None
    training: Mapping[str, Any] | None = None
    methods: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    attributes: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    ids: mu.IdTable | None = None


class Rows(NamedTuple):
    """What is known of examples beside their inputs; as `datasets.Source`, without records."""

    targets: np.ndarray
    index: np.ndarray
    attributes: Mapping[str, np.ndarray]
    ids: mu.IdTable | None = None


@functools.cache
def load(reference: str) -> OwnTask:
    """The task that `package.module:function` returns, checked; made once in a process.

    Raises:
      ValueError: no module, no function, a function that raises, or a task with a field
        that is not allowed.
    """
    if not _REFERENCE.fullmatch(reference):
        raise ValueError(
            f"expected package.module:function for --task, found {reference!r}; name a function "
            "without arguments that returns an OwnTask"
        )
    module, _, name = reference.partition(":")
    try:
        function = getattr(importlib.import_module(module), name, None)
        task = function() if callable(function) else None
    except Exception as error:
        what = " ".join(f"{type(error).__name__} {error}".split())
        raise ValueError(
            f"expected a task from {reference}, found that it raises {what}; correct the module, "
            "or run from the folder that it is in"
        ) from error
    if not callable(function):
        raise ValueError(f"expected a function {name} in {module}, found none; correct --task")
    if not isinstance(task, OwnTask):
        raise ValueError(
            f"expected {reference} to return an OwnTask of experiments.lib.own_tasks, found "
            f"{type(task).__name__}; return one"
        )
    _check(task, reference)
    return task


def configuration(reference: str) -> ConfigDict:
    """The configuration of an own task: its recipe and methods, as fields that flags may change."""
    task = load(reference)
    known = (*_TRAINING, "protocol")
    unknown = set(task.training or {}) - set(known)
    if unknown:
        raise ValueError(
            f"expected fields of training of {reference} among {', '.join(known)}, found "
            f"{sorted(unknown)[0]!r}; correct or remove it"
        )
    return ConfigDict(
        {
            "task": reference,
            "dataset": reference,
            "data_dir": None,
            "limit": None,
            "model": {"name": "own"},
            "training": {**_TRAINING, **(task.training or {})},
            "retrains": task.weights is None or task.training is not None,
            "batch_size": task.train.batch_size,
            "methods": {name: dict(arguments) for name, arguments in task.methods.items()},
            "selection": "defaults" if not task.methods else "given with the task",
        }
    ).lock()


def num_outputs(task: OwnTask) -> int | None:
    """The number of classes or labels, read off the outputs; None for a regression."""
    if task.kind == "regression":
        return None
    return int(jax.tree.leaves(_outputs(task))[0].shape[-1])


def _check(task: OwnTask, reference: str) -> None:
    kinds = {"model": mu.Model, "train": mu.Batches, "test": mu.Batches}
    for field, kind in kinds.items():
        if not isinstance(getattr(task, field), kind):
            raise ValueError(
                f"expected mu.{kind.__name__} as {field} of {reference}, found "
                f"{type(getattr(task, field)).__name__}; make one"
            )
    if task.kind not in get_args(Kind):
        raise ValueError(
            f"expected a kind among {', '.join(get_args(Kind))} of {reference}, found "
            f"{task.kind!r}; choose one"
        )
    for name, values in task.attributes.items():
        if np.shape(values)[:1] != (task.train.num_examples,):
            raise ValueError(
                f"expected one {name} for each of {task.train.num_examples} train examples of "
                f"{reference}, found shape {np.shape(values)}; give an array [n]"
            )
    outputs = _outputs(task)
    one = isinstance(outputs, jax.ShapeDtypeStruct) and hasattr(task.train.targets, "shape")
    if task.kind != "regression" and not (one and len(outputs.shape) == 2):
        raise ValueError(
            f"expected logits [n, K] and targets that are one array from {reference}, a "
            f"{task.kind} task, found outputs {jax.tree.map(lambda x: x.shape, outputs)}; score "
            "other models by your own loss in the library"
        )


def _outputs(task: OwnTask) -> PyTree:
    return shapes_of_outputs(
        task.model, lambda key, _: task.init(key), task.train.inputs, name="it", place="the task"
    )
