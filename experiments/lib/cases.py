"""Manipulated tasks for corrective unlearning: what is trained on, and where it is scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import mu_jax as mu
from experiments.lib import configurations
from experiments.lib.tasks import Task, lookup
from mu_jax import datasets, evaluation


class Case(NamedTuple):
    """A task with a manipulated training set; its test set is clean, then with the trigger.

    ids: of all manipulated examples. affected, retained: rows of the test set that are scored.
    trigger_label: the class that the trigger leads to, whose images are not scored.
    """

    name: str
    task: Task
    ids: np.ndarray
    affected: np.ndarray
    retained: np.ndarray
    trigger_label: int | None

    def known(self, fraction: float) -> np.ndarray:
        """The ids of the part of the manipulated set that is known."""
        return datasets.known_part(self.ids, fraction, seed=self.task.config.known_seed)

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """True labels of rows of the test set."""
        return np.asarray(self.task.test.targets)[rows]

    def outputs(self, outputs: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Of outputs [N, n, K] on training and test examples, those on rows of the test set."""
        return outputs[:, self.task.train.num_examples :][:, rows]

    def curve(
        self, fractions: Sequence[float], outputs: Sequence[np.ndarray]
    ) -> evaluation.CorrectiveCurve:
        """Accuracies [fractions, models] from the outputs of N models for each fraction."""
        parts = [
            (np.stack([self.outputs(found, rows) for found in outputs]), self.targets(rows))
            for rows in (self.affected, self.retained)
        ]
        return evaluation.corrective_curve(fractions, *parts, trigger_label=self.trigger_label)


def _poison(examples: datasets.Examples, config: ConfigDict) -> datasets.Manipulated:
    return datasets.poison(examples, **config.manipulations.poison, **config.trigger)


def _interclass(examples: datasets.Examples, config: ConfigDict) -> datasets.Manipulated:
    return datasets.confuse_classes(examples, **config.manipulations.interclass)


KINDS: dict[str, Callable[[datasets.Examples, ConfigDict], datasets.Manipulated]] = {
    "poison": _poison,
    "interclass": _interclass,
}


def make_case(task: Task, name: str) -> Case:
    """Manipulate the training set of a task as its configuration says."""
    configurations.check_fields(task.config, configurations.CORRECTIVE)
    manipulate, settings = lookup(KINDS, name, "manipulation"), task.config.manipulations
    lookup(settings, name, "manipulation of the configuration")
    configurations.check_fields(task.config, configurations.MANIPULATIONS[name])
    _refuse_unknown(task.config.trigger, configurations.CORRECTIVE, "trigger")
    _refuse_unknown(settings[name], configurations.MANIPULATIONS[name], f"manipulations.{name}")
    train, test = task.train, task.test
    if train.inputs.ndim != 4 or task.info.task != "classification":
        raise ValueError(
            f"expected a classification of images, found {task.config.dataset}, a {task.info.task} "
            f"task with inputs {train.inputs.shape[1:]}; choose another dataset"
        )
    given = datasets.Examples(*map(np.asarray, (train.inputs, train.targets, train.index)))
    found = manipulate(given, task.config)
    inputs, targets = jnp.asarray(found.examples.inputs), jnp.asarray(found.examples.targets)
    triggered = test.replace(inputs=datasets.add_trigger(test.inputs, **task.config.trigger))
    config = _with_changed_methods(task.config, name)
    changed = dataclasses.replace(
        task,
        config=config,
        train=train.replace(inputs=inputs, targets=targets),
        test=mu.concatenate(test, triggered),  # for every case, so that they share their programs
    )
    rows = np.arange(test.num_examples)
    if name == "poison":
        return Case(name, changed, found.ids, rows + rows.size, rows, settings.poison.label)
    struck = np.isin(np.asarray(test.targets), settings.interclass.classes)
    return Case(name, changed, found.ids, rows[struck], rows[~struck], None)


def _refuse_unknown(group: ConfigDict, fields: configurations.Fields, name: str) -> None:
    known = [each.removeprefix(f"{name}.") for each in fields if each.startswith(f"{name}.")]
    for field in group:
        lookup(dict.fromkeys(known), field, f"field of {name}")


def _with_changed_methods(config: ConfigDict, name: str) -> ConfigDict:
    """The configuration with the methods as `methods_of` changes them for a manipulation."""
    config = config.copy_and_resolve_references()
    try:
        config.methods.update((config.get("methods_of") or {}).get(name, {}))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = " ".join(str(error.args[0] if error.args else error).split())[:200]
        raise ValueError(
            f"expected methods_of.{name} to change fields that the methods of the configuration "
            f"have, found that it does not ({what}); correct it"
        ) from None
    return config
