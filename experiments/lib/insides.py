"""What is seen inside the models of a run: layers, edits, the choice of SSD; and the examples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

import mu_jax as mu
from experiments.lib.rows import Study
from experiments.lib.tasks import Task
from mu_jax.reporting import Arrays, Edits, Examples, Histogram
from mu_jax.scoring.edited import importance_ratios, leaf_edits, stacked_edits
from mu_jax.scoring.layers import features_of, similarity
from mu_jax.scoring.rows import CONSTANT, NOTHING, RETRAIN
from mu_jax.scoring.shown import shown_inputs

PyTree = Any
LEAST, MOST = 64, 256  # examples of a set on which layers are compared, drawn with `SEED`
SEED = 0
_OF_SSD = ("alpha", "definition", "group_size")


class Insides:
    """Looks into one model after the other, and keeps what the figures need.

    A model stands beside the original and the retrained model that were added last before it, so
    that the models of one seed are added together, these two first.

    Args:
      task: of the models. forget, retain: the sets.
    """

    def __init__(self, task: Task, forget: mu.Batches, retain: mu.Batches):
        self.task, self.sets = task, {"forget": forget, "retain": retain}
        number = min(MOST, max(LEAST, forget.num_examples))  # alike: the sets share programs
        self._inputs = {name: _sample(part, number).inputs for name, part in self.sets.items()}
        self._features: dict[str, dict[str, list]] = {}
        self._edits: dict[str, list[Edits]] = {}
        self._ratios: dict[str, Histogram] = {}
        self._last: dict[str, PyTree] = {}

    def add(self, row: str, variables: PyTree) -> None:
        """Look into one model of a row."""
        model = self.task.model
        found = self._features.setdefault(row, {name: [] for name in self._inputs})
        for name, inputs in self._inputs.items():
            found[name].append(features_of(model, variables, inputs))
        if row in (NOTHING, RETRAIN):
            self._last[row] = jax.device_get(variables)
        elif NOTHING in self._last:
            trees = (self._last[NOTHING], variables, self._last.get(RETRAIN))
            params = (None if tree is None else model.params(tree) for tree in trees)
            self._edits.setdefault(row, []).append(leaf_edits(*params))

    def watched(self, row: str, models: Iterable[PyTree]) -> Iterator[PyTree]:
        """The same models, each of them added when it is asked for."""
        for variables in models:
            self.add(row, variables)
            yield variables

    def add_ratios(self, row: str, method: str, arguments: Mapping[str, Any]) -> None:
        """By what SSD has chosen in the last original; other methods have nothing of the kind."""
        if arguments.get("method", method) == "ssd" and NOTHING in self._last:
            known = {name: arguments[name] for name in _OF_SSD if name in arguments}
            self._ratios[row] = importance_ratios(
                self.task.model, self._last[NOTHING], *self.sets.values(), **known
            )

    def arrays(self, examples: Mapping[str, Mapping[str, Examples]]) -> Arrays:
        """All that was seen, beside what models say of examples."""
        layers = {row: self._similarity(row) for row in self._features if row != CONSTANT}
        return Arrays(
            examples,
            similarity={row: found for row, found in layers.items() if found},
            edits={row: stacked_edits(found) for row, found in self._edits.items()},
            ratios=self._ratios,
            shown=shown_inputs(self._shown(), seed=SEED),
        )

    def _similarity(self, row: str) -> dict[str, Any]:
        found = {}
        for name in self._inputs:
            mine, before, after = (
                self._features.get(each, {}).get(name, []) for each in (row, NOTHING, RETRAIN)
            )
            found[name] = similarity(mine, before, after)
        return {name: each for name, each in found.items() if each is not None}

    def _shown(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Ids and inputs of the sets; of test examples where no training example has their ids."""
        sets = dict(self.sets)
        train = np.concatenate([np.asarray(part.index) for part in sets.values()])
        if not np.isin(np.asarray(self.task.test.index), train).any():
            sets["test"] = self.task.test
        return {
            name: (np.asarray(part.index), np.asarray(jax.tree.leaves(part.inputs)[0]))
            for name, part in sets.items()
        }


def of_study(study: Study, forget: mu.Batches, retain: mu.Batches) -> Insides:
    """The insides of the first models of every row of a study."""
    found = Insides(study.task, forget, retain)
    rows = {row.name: row for row in study.rows if row.seen is not None}
    order = dict.fromkeys((NOTHING, RETRAIN, *rows))
    for j in range(len(jax.tree.leaves(rows[NOTHING].seen)[0])):
        for name in order:
            found.add(name, jax.tree.map(lambda x, j=j: x[j], rows[name].seen))
        if j == 0:
            for name, row in rows.items():
                found.add_ratios(name, name, row.hyperparameters)
    return found


def _sample(part: mu.Batches, number: int) -> mu.Batches:
    """A random sample of a set, always the same one."""
    order = np.random.default_rng(SEED).permutation(part.num_examples)
    return part.take(np.sort(order[:number]))
