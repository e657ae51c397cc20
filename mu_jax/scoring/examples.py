"""What models say of single examples: the arrays from which every number is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax import evaluation
from mu_jax.reporting.arrays import Examples
from mu_jax.scoring import kinds
from mu_jax.scoring.kinds import Kind, Part
from mu_jax.scoring.single import losses_of


def examples_of(
    kind: Kind,
    outputs: Any,
    targets: Any,
    ids: np.ndarray,
    *,
    loss: Callable[[Any, Any], Any] | None = None,
) -> Examples:
    """What N models say of n examples: losses, margins and predictions.

    Args:
        kind: what the task asks for. outputs: [N, n, ...], a tree where `kind` is "other".
        targets: [n, ...]. ids: i32[n].
        loss: `(outputs, targets) -> f32[n]`, of a task of the kind "other", which has no other.

    Returns:
        `Examples`: cross-entropies, of several labels of yes and no their mean, or squared errors;
        margins of a classification; the class, yes or no, or the number.
    """
    parts = _parts(kind, outputs, targets)
    if kind == "other":
        losses = np.stack([_own_losses(loss, part) for part in parts])
        return Examples(ids, targets, losses, None, None)
    losses = np.stack([losses_of(kind, part) for part in parts])
    margins = np.asarray(evaluation.margins(outputs, targets)) if _is_classes(kind) else None
    predicted = np.stack([kinds.predictions(kind, part.outputs) for part in parts])
    if _is_classes(kind):
        predicted = predicted.astype(np.int32)
    return Examples(ids, targets, losses, margins, predicted)


def examples_at(
    kind: Kind, outputs: np.ndarray, targets: np.ndarray, ids: np.ndarray, places: Mapping[str, Any]
) -> dict[str, Examples]:
    """As `examples_of`, of every set, from outputs [N, n, ...] on all examples.

    Args:
        kind, outputs, targets, ids: of all n examples. places: where those of each set stand.
    """
    return {
        name: examples_of(kind, outputs[:, where], targets[where], ids[where])
        for name, where in places.items()
        if len(where)
    }


def _is_classes(kind: Kind) -> bool:
    return kind == "classification"


def _parts(kind: Kind, outputs: Any, targets: Any) -> list[Part]:
    """Outputs and targets of each model; of numbers, one prediction a target."""
    size = jax.tree.leaves(outputs)[0].shape[0]
    each = (jax.tree.map(lambda x, j=j: x[j], outputs) for j in range(size))
    numbers = kind == "regression"
    return [Part(kinds.point(one, targets) if numbers else one, targets) for one in each]


def _own_losses(loss: Callable[[Any, Any], Any] | None, part: Part) -> np.ndarray:
    if loss is None:
        raise ValueError(
            "expected the loss of a task that is neither of classes nor of numbers, found none: "
            "give the model's"
        )
    return np.asarray(loss(*jax.tree.map(jnp.asarray, tuple(part))))
