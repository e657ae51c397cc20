"""What a configuration means: its data, its model and how that is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

import mu_jax as mu
from experiments.lib import configurations, own_tasks
from experiments.lib.shapes import shapes_of_outputs
from mu_jax import datasets, models, tuning

PyTree = Any

OPTIMIZERS = {
    "adam": optax.adam,
    "adamw": optax.adamw,
    "sgd": optax.sgd,
    "momentum": lambda rate: optax.sgd(rate, momentum=0.9, nesterov=True),
}


def _linear(rate: float, steps: int) -> optax.Schedule:
    """Up over a hundredth of the steps, then down to a fifth of the rate."""
    rise = max(1, steps // 100)
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, rate, rise),
            optax.linear_schedule(rate, rate / 5, steps - rise),
        ],
        [rise],
    )


SCHEDULES: dict[str, Callable[[float, int], optax.Schedule]] = {
    "constant": lambda rate, steps: optax.constant_schedule(rate),
    "cosine": optax.cosine_decay_schedule,
    "linear": _linear,
    "thirds": lambda rate, steps: optax.piecewise_constant_schedule(
        rate, {steps // 3: 0.1, 2 * steps // 3: 0.1}
    ),
}
LOSSES = {
    "cross_entropy": mu.losses.cross_entropy,
    "binary_cross_entropy": mu.losses.binary_cross_entropy,
    "squared_error": mu.losses.squared_error,
    "absolute_error": mu.losses.absolute_error,
    "quantile_loss": mu.losses.quantile_loss,
}
DEFAULT_LOSSES = {
    "classification": "cross_entropy",
    "multilabel": "binary_cross_entropy",
    "regression": "squared_error",
}
MODELS = {
    "mlp": models.MLP,
    "allcnn": models.AllCNN,
    "cnn": models.CNN,
    "regression_cnn": models.RegressionCNN,
    "resnet9": models.ResNet9,
    "resnet18": models.ResNet18,
    "resnet50": models.ResNet50,
    "sentence_pair_lstm": models.SentencePairLSTM,
    "temporal_fusion_transformer": models.TemporalFusionTransformer,
    "vit_b16": models.ViTB16,
    "vit_tiny": models.ViTTiny,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """Data and model of one configuration; equal to itself only.

    Attributes:
      train, test: the splits as `Batches`. info: what is known of the dataset.
      model: the model with its loss. init: `key -> variables`.
      config: the configuration.
      sources: what is known of the examples beside inputs and targets, by the name of the split.
      weights: a trained model, as `mu.store.load_weights` reads it; None if it is to be trained.
      protocol: of exact unlearning, by which `protocols.make_task` has it trained; `model` is that
        of the protocol then. base: `key -> variables` that a protocol freezes, if it does.
    """

    train: mu.Batches
    test: mu.Batches
    info: datasets.DatasetInfo
    model: mu.Model
    init: Callable[[jax.Array], PyTree]
    config: ConfigDict
    sources: dict[str, datasets.Source | own_tasks.Rows] = dataclasses.field(default_factory=dict)
    weights: Any = None
    protocol: mu.exact.SISA | mu.exact.S3T | None = None
    base: Callable[[jax.Array], PyTree] | None = None


def make_task(config: ConfigDict) -> Task:
    """Load the data of a configuration and build its model, or call the person's own function.

    Raises:
      ValueError: fields that are missing or wrong, or one of a protocol, see `protocols.make_task`.
    """
    configurations.check(config)
    if config.training.get("protocol") is not None:
        raise ValueError(
            "expected ordinary training, found training.protocol, which experiments.train, "
            "evaluate, unlearn and serve_requests take; leave it out"
        )
    return _own(config) if config.get("task") else _configured(config)


def _own(config: ConfigDict) -> Task:
    own = own_tasks.load(config.task)
    rows = {"train": (own.train, own.attributes, own.ids), "test": (own.test, {}, None)}
    sources = {
        split: own_tasks.Rows(np.asarray(part.targets), np.asarray(part.index), attributes, ids)
        for split, (part, attributes, ids) in rows.items()
    }
    info = datasets.DatasetInfo(
        name=config.task,
        version="",
        task=own.kind,
        input_shape=(None,),
        num_classes=own_tasks.num_outputs(own),
        split_sizes={"train": own.train.num_examples, "test": own.test.num_examples},
    )
    return Task(own.train, own.test, info, own.model, own.init, config, sources, own.weights)


def _configured(config: ConfigDict) -> Task:
    where = location(config)
    info = datasets.info(config.dataset, **where)
    sources = {
        split: datasets.source(config.dataset, split, limit=limit, **where)
        for split, limit in (("train", config.limit), ("test", None))
    }
    train, test = (source.read(config.dataset) for source in sources.values())
    module = make_module(config.model, info)
    model = mu.from_linen(
        module, lookup(LOSSES, config.get("loss") or DEFAULT_LOSSES[info.task], "loss")
    )
    name = f"{config.model.name} with these fields"
    shapes_of_outputs(model, module.init, train.inputs, name=name, place="config.model")

    def init(key):
        return module.init(key, train.inputs[:1])

    return Task(
        train=_batches(train, config.batch_size),
        test=_batches(test, config.batch_size),
        info=info,
        model=model,
        init=jax.jit(init),
        config=config,
        sources=sources,
    )


def location(config: ConfigDict) -> dict[str, Any]:
    """Where a dataset lies and which label of it is predicted, for the functions of `datasets`."""
    return {"data_dir": config.data_dir, "label": config.get("label") or "label"}


def check_kind(task: Task, kind: str, advice: str = "") -> None:
    """Refuse a task that is not a `kind`, or one of several: `classification or multilabel`."""
    if task.info.task not in kind.split(" or "):
        raise ValueError(
            f"expected a {kind} task, found {task.config.dataset}, a {task.info.task} task{advice}"
        )


def kind_of(config: ConfigDict) -> str:
    """The kind of task that a configuration means; no examples of a dataset are read."""
    if config.get("task"):
        return own_tasks.load(config.task).kind
    return datasets.info(config.dataset, **location(config)).task


def read_ids(task: Task, request: str, *, split: str = "train") -> np.ndarray:
    """The ids that a forget request names in a split; it counts targets in original units."""
    examples = getattr(task, split)
    inputs, targets = examples.inputs, np.asarray(examples.targets)
    return datasets.read_request(
        request,
        index=np.asarray(examples.index),
        targets=in_units(task, targets) if task.info.task == "regression" else targets,
        inputs=np.asarray(inputs) if hasattr(inputs, "shape") else None,
        attributes=task.sources[split].attributes,
        ids=task.sources[split].ids,
    )


def split(task: Task, ids: np.ndarray) -> tuple[mu.Batches, mu.Batches]:
    """Forget and retain set; windows with an hour that a forgotten one forecasts are in neither."""
    forget, retain = mu.split(task.train, ids)
    source = task.sources["train"]
    if "start" not in source.attributes:
        return forget, retain
    overlapping = np.isin(np.asarray(retain.index), datasets.overlapping_windows(source, ids))
    if overlapping.all():
        raise ValueError(
            f"expected windows to retain, found that all {overlapping.size} others overlap a "
            "forgotten forecast; forget whole clients"
        )
    return forget, retain.take(np.flatnonzero(~overlapping))


def without(task: Task, forgotten: np.ndarray) -> Task:
    """The task without examples that are forgotten: no set, statistic or training sees them."""
    if not forgotten.size:
        return task
    index, source = np.asarray(task.train.index), task.sources["train"]
    gone = np.isin(index, forgotten)
    if "start" in source.attributes:
        gone |= np.isin(index, datasets.overlapping_windows(source, forgotten))
    if gone.all():
        raise ValueError(
            f"expected training examples that are not forgotten, found none of {gone.size} left; "
            "retire the model"
        )
    return dataclasses.replace(task, train=task.train.take(np.flatnonzero(~gone)))


def in_units(task: Task, values: np.ndarray) -> np.ndarray:
    """Targets or predictions of a regression in original units, where the dataset knows them."""
    scale, mean = task.info.target_scale, task.info.target_mean
    if (scale, mean) == (1.0, 0.0):
        return values
    # As they are float32, a target of 75 comes back as 74.99999, which is not below 75.
    decimals = 4 - int(np.floor(np.log10(scale)))
    return np.round(np.asarray(values, np.float64) * scale + mean, decimals).astype(np.float32)


def make_module(config: ConfigDict, info: datasets.DatasetInfo) -> Any:
    """The linen module that `config.name` and the other fields describe."""
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    name = arguments.pop("name")
    build = lookup(MODELS, name, "model")
    arguments.setdefault("num_outputs", info.num_classes or 1)
    if name == "sentence_pair_lstm" and info.num_codes:
        arguments.setdefault("num_words", info.num_codes)
    if name == "temporal_fusion_transformer" and info.num_codes:  # column 4 holds clients
        arguments.setdefault("num_codes", ((4, info.num_codes),))
    try:
        return build(**arguments)
    except TypeError as error:
        raise ValueError(
            f"expected the fields of the model {name}, found that {error}; correct config.model"
        ) from None


def make_optimizer(
    name: str, learning_rate: float | optax.Schedule
) -> optax.GradientTransformation:
    """One of the optimizers by name."""
    return lookup(OPTIMIZERS, name, "optimizer")(learning_rate)


def decayed_optimizer(
    name: str, learning_rate: float | optax.Schedule, weight_decay: float
) -> optax.GradientTransformation:
    """One of the optimizers by name, behind a weight decay that is added to the gradient."""
    decay = optax.add_decayed_weights(weight_decay)
    return optax.chain(decay, make_optimizer(name, learning_rate))


def like(task: Task) -> PyTree:
    """Shapes and dtypes of the variables, for `store.restore`."""
    key = jax.random.key(0)
    if task.protocol is None:
        return jax.eval_shape(task.init, key)
    if isinstance(task.protocol, mu.exact.SISA):
        return task.protocol.like(key)
    return task.protocol.like(key, jax.eval_shape(task.init, key))


def initial(task: Task, key: jax.Array) -> PyTree:
    """The variables from which a training by this key starts, here and in `ensembles.train`."""
    return task.init(jax.random.fold_in(key, 0))


def train(task: Task, key: jax.Array, examples: mu.Batches) -> PyTree:
    """Train from scratch, by the recipe of the configuration."""
    if isinstance(task.protocol, mu.exact.SISA):
        return task.protocol.train(key, examples)[0]
    if task.protocol is not None:
        assert task.base is not None
        return task.protocol.train(key, task.base(key), examples)[0]
    training = task.config.training
    state, _ = mu.fit(
        task.model,
        mu.supervised(task.model, training_mode=True),
        training_optimizer(task, examples),
        initial(task, key),
        examples,
        key=jax.random.fold_in(key, 1),
        epochs=training.epochs,
        batch_size=training.batch_size,
    )
    return state.variables


def recipe(task: Task) -> dict[str, Any]:
    """The numbers of the training by name, with those of its protocol, if it has one."""
    numbers = task.config.training.to_dict()
    protocol = numbers.pop("protocol", None) or {}
    name = {"protocol": protocol.pop("name")} if protocol else {}
    return {**numbers, **name, **protocol}


def retrain(task: Task, retain: mu.Batches) -> mu.Transform:
    """The same recipe as a transform that reads the retain set only."""
    training = task.config.training
    return mu.retrain(
        task.model,
        training_optimizer(task, retain),
        init=task.init,
        epochs=training.epochs,
        batch_size=training.batch_size,
    )


def training_optimizer(task: Task, examples: mu.Batches) -> optax.GradientTransformation:
    """The optimizer of the recipe: weight decay on the gradient, a schedule to the last step.

    With `training.base_width` the numbers of the recipe are those of a network of that width, and
    `mu.tuning.across_widths` has them at `training.width`; weight decay is AdamW's then.
    """
    training = task.config.training
    if not retrains(task):
        raise ValueError(
            f"expected the recipe by which {task.config.dataset} was trained, found weights alone; "
            "give OwnTask(training=...), since models of another recipe are no reference"
        )
    steps = training.epochs * examples.replace(batch_size=training.batch_size).num_batches
    make_schedule = lookup(SCHEDULES, training.get("schedule", "cosine"), "schedule")
    schedule = make_schedule(training.learning_rate, steps)
    if training.get("base_width"):
        return _across_widths(training, schedule)
    return decayed_optimizer(training.optimizer, schedule, training.weight_decay)


def _across_widths(training: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    if training.optimizer != "adamw":
        raise ValueError(
            "expected the optimizer adamw for training.base_width, whose rules are of AdamW, found "
            f"{training.optimizer!r}; choose it, or leave out training.base_width"
        )
    if not training.get("width"):
        raise ValueError(
            "expected the width of the model as training.width beside training.base_width, found "
            "none; add it"
        )
    return tuning.across_widths(
        training.width,
        training.base_width,
        learning_rate=schedule,
        weight_decay=training.weight_decay,
    )


def retrains(task: Task) -> bool:
    """Whether the recipe of the model is known, so that a retrained one is a reference."""
    return bool(task.config.get("retrains", True))


def lookup(table: dict[str, Any], name: str, what: str) -> Any:
    """An entry of a table of names, or a sentence that lists them."""
    if not isinstance(name, str) or name not in table:
        raise ValueError(f"expected a {what} among {', '.join(table)}, found {name!r}; choose one")
    return table[name]


def _batches(examples: datasets.Examples, batch_size: int) -> mu.Batches:
    return mu.batches(
        examples.inputs, examples.targets, batch_size=batch_size, index=examples.index
    )
