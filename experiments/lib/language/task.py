"""What `experiments.language` needs of a task: a decoder, rows, splits, and how a model is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

import mu_jax as mu
from mu_jax.models import Decoder
from mu_jax.reporting import ForgetSet, Metric

PyTree = Any
Read = Callable[[PyTree, PyTree], PyTree]  # (variables, arrays) -> arrays of one model
Rows = Mapping[str, Mapping[str, Metric]]


class Relearn(NamedTuple):
    """What a model is relearned on, and what is measured along the way.

    shown: rows of the part of the forget set that is shown. unseen: rows of the rest.
    metric: `(outputs, targets) -> f32[B]`, of which the curve is the mean. title: its name and
    unit. steps, batch_size, learning_rate: of Adam.
    """

    shown: mu.Batches
    unseen: mu.Batches
    metric: Callable[[PyTree, PyTree], jax.Array]
    title: str
    steps: int
    batch_size: int
    learning_rate: float


def relearn(
    config: ConfigDict,
    shown: mu.Batches,
    unseen: mu.Batches,
    metric: Callable[[PyTree, PyTree], jax.Array],
    title: str,
) -> Relearn:
    """Relearning as `config.relearning` says it."""
    own = config.relearning
    return Relearn(shown, unseen, metric, title, own.steps, own.batch_size, own.learning_rate)


def check_shown(config: ConfigDict, what: str, number: int) -> None:
    """Refuse a part to show again that leaves nothing unseen of so many things to forget.

    Raises:
      ValueError: `relearning.shown` of no fewer.
    """
    shown = config.relearning.shown
    if shown >= number:
        raise ValueError(
            f"expected fewer {what} in relearning.shown than there are to forget, found {shown} of "
            f"{number}; leave some that are never shown, or set it to 0"
        )


def losses_by_name(logs: Any) -> dict[str, np.ndarray]:
    """Losses f32[N, n] by set, of logs with `nll` by name: those of the texts themselves."""
    names = {name: name.removesuffix("/answer") for name in logs.nll}
    return {short: logs.nll[name] for name, short in names.items() if "/" not in short}


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """One forget set of a task.

    Attributes:
      name: in words. forget_set: for the records.
      weight: f32[n], of the training rows for models that are retrained without it.
      forget, retain: what methods are given.
      arrays: what `Task.read` reads beside the variables.
      relearn: how models are relearned; None where they are not.
      table: `(logs by row, logs of retrained models) -> Rows`; a log is `{"before": read}`, and
        with relearning `"after"`, NumPy arrays of what `Task.read` gave of one model. The row of
        the model before unlearning is `do nothing`.
      losses: of logs of N models, f32[N, n] by set.
      texts: to look at, by set, in the order of the losses; of some sets.
    """

    name: str
    forget_set: ForgetSet
    weight: np.ndarray
    forget: mu.Batches
    retain: mu.Batches
    arrays: PyTree
    relearn: Relearn | None
    table: Callable[[Mapping[str, PyTree], Sequence[PyTree]], Rows]
    losses: Callable[[PyTree], Mapping[str, np.ndarray]] = losses_by_name
    texts: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A task of language models.

    Attributes:
      config: the configuration.
      decoder: the decoder. model: the decoder with its loss.
      start: `key -> variables`, with which training begins.
      train: all rows to train on.
      splits: the forget sets.
      read: traceable, what is kept of a model: its log.
      headline: metrics of the table over all runs, in order.
      retrained: variables of models that never saw the forget set, where they are given and not
        trained.
    """

    config: ConfigDict
    decoder: Decoder
    model: mu.Model
    start: Callable[[jax.Array], PyTree]
    train: mu.Batches
    splits: Sequence[Split]
    read: Read
    headline: Sequence[str]
    retrained: Sequence[PyTree] = ()
