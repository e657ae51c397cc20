"""What a transform did to the losses of the examples to forget and to keep, and what that means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax import _at_once as at_once
from mu_jax._tracing import cached
from mu_jax.data.batches import Batch
from mu_jax.loops.predict import map_rows
from mu_jax.model import Model

PyTree = Any


class Change(NamedTuple):
    """One set before and after, example by example; under `vmap` with a leading axis of models.

    Attributes:
      losses_before, losses_after: f32[n], in inference mode.
      right_before, right_after: bool[n], whether the class was named; None without classes.
      weight: f32[n]; rows of weight 0 are in no mean.
    """

    losses_before: jax.Array
    losses_after: jax.Array
    right_before: jax.Array | None
    right_after: jax.Array | None
    weight: jax.Array

    @property
    def loss(self) -> tuple[Any, Any]:
        """Mean loss before and after, over the last axis."""
        return self._mean(self.losses_before), self._mean(self.losses_after)

    @property
    def accuracy(self) -> tuple[Any, Any] | None:
        """Accuracy before and after, over the last axis; None without classes."""
        if self.right_before is None:
            return None
        return self._mean(self.right_before), self._mean(self.right_after)

    def _mean(self, values: Any) -> Any:
        weight = np.asarray(self.weight, np.float64)
        return np.where(weight > 0, weight * np.asarray(values), 0).sum(-1) / weight.sum(-1)


class Effect(NamedTuple):
    """What a transform did to both sets, see `mu.watched`.

    Attributes:
      forget, retain: `Change` of each set.
      unretained: bool[m], whether no retained example has the class of a forget example.
      moved: bool[], whether a weight changed.
    """

    forget: Change
    retain: Change
    unretained: jax.Array
    moved: jax.Array

    def messages(self) -> list[str]:
        """A sentence if nothing was forgotten, by `mu.evaluation.nothing_forgotten`."""
        from mu_jax.evaluation.forgot import nothing_forgotten

        size, total = np.shape(self.unretained)[-1], np.size(self.moved)
        rows = [
            [None] * total if x is None else np.asarray(x).reshape(total, size)
            for x in (*self.forget, self.unretained)
        ]
        reasons = []
        for before, after, right, still, weight, alone, moved in zip(*rows, np.ravel(self.moved)):
            real = weight > 0
            found = nothing_forgotten(
                before[real],
                after[real],
                moved=bool(moved),
                correct_before=None if right is None else right[real],
                correct_after=None if still is None else still[real],
                unretained=alone[real],
            )
            if found.flag:
                reasons.append(found.reason)
        if not reasons:
            return []
        who = f"{len(reasons)} of {total} models have" if total > 1 else "The model has"
        return [f"{who} forgotten nothing: {reasons[0]}; take a larger step or a lower threshold."]


def measure(
    model: Model, before: PyTree, after: PyTree, sets: tuple[Any, Any], moved: jax.Array
) -> Effect:
    """The effect of going from `before` to `after` on the forget and the retain set."""
    rows = _rows(model)
    forget, retain = (map_rows(rows, part, before, after) for part in sets)
    return Effect(_change(forget), _change(retain), _unretained(forget, retain), moved)


@at_once.elementwise
def _unretained(xp: Any, forget: dict[str, jax.Array], retain: dict[str, jax.Array]) -> jax.Array:
    """Whether no example to retain has the label of one to forget; False without labels."""
    if "label" not in forget:
        return xp.zeros(forget["weight"].shape, bool)
    kept = xp.where(retain["weight"] > 0, retain["label"], -1)
    return ~xp.isin(forget["label"], kept)


def _change(found: dict[str, jax.Array]) -> Change:
    return Change(
        losses_before=found["before"],
        losses_after=found["after"],
        right_before=found.get("right_before"),
        right_after=found.get("right_after"),
        weight=found["weight"],
    )


@cached(maxsize=64)
def _rows(model: Model) -> Callable:
    counts = getattr(model.loss, "counts", None)

    def rows(batch: Batch, before: PyTree, after: PyTree) -> dict[str, jax.Array]:
        outputs = [model.apply(variables, batch.inputs) for variables in (before, after)]
        losses = [model.per_example(each, batch) for each in outputs]
        weight = batch.weight if counts is None else batch.weight * counts(batch.targets)
        found = {"before": losses[0], "after": losses[1], "weight": weight}
        if _are_classes(outputs[0], batch.targets):
            right = [each.argmax(-1) == batch.targets for each in outputs]
            found |= {"right_before": right[0], "right_after": right[1], "label": batch.targets}
        return found

    return rows


def _are_classes(outputs: Any, targets: Any) -> bool:
    if not (hasattr(outputs, "ndim") and hasattr(targets, "ndim")):
        return False
    whole = jnp.issubdtype(targets.dtype, jnp.integer)
    return whole and targets.ndim == 1 and outputs.ndim == 2 and outputs.shape[-1] > 1
