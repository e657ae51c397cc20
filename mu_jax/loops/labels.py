"""Classes as labels: which a model has, and which rows the loss says are to be ignored."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax._tracing import cached
from mu_jax.data.batches import Batch, Batches, is_concrete
from mu_jax.data.rows import shapes_of_rows
from mu_jax.losses import reads_classes, refuse_labels
from mu_jax.mesh.shards import bare
from mu_jax.model import Model

PyTree = Any


def counted(model: Model, batch: Batch) -> Batch:
    """The batch with weight 0 where the loss ignores the label, and class 0 in its place.

    Everything that divides a sum of losses by a sum of weights starts with it, so that an ignored
    row is in neither. A loss that counts several labels in a row, such as tokens, multiplies the
    weight of the row by their number: a mean over rows is then a mean over labels.
    """
    counts = getattr(model.loss, "counts", None)
    if counts is None:
        return batch
    count = counts(batch.targets)
    some = count != 0

    def overwrite(labels):
        return jnp.where(some.reshape(-1, *(1,) * (labels.ndim - 1)), labels, 0)

    weight = jnp.where(some, batch.weight * count, 0)
    return batch._replace(targets=jax.tree.map(overwrite, batch.targets), weight=weight)


def weights(model: Model, targets: PyTree, weight: jax.Array) -> jax.Array:
    """The weights of examples in a mean of their losses, f32[n]: 0 where the label is ignored."""
    return counted(model, Batch(None, targets, weight, None)).weight  # type: ignore[arg-type]


def check_labels(model: Model, variables: PyTree, **sets: Any) -> None:
    """Refuse labels that are no class of the model, where they can be seen.

    They can where the loss is known to read classes (`mu.losses.cross_entropy`, that of optax, and
    `mu.losses.CrossEntropy`) and the examples lie in memory, outside `jit`. Elsewhere the loss and
    the gradient of such a row are NaN, which is reported in its place.

    Args:
      model, variables: the model; only shapes are read.
      **sets: sets of examples by their name.

    Raises:
      ValueError: a label outside `[0, K)`.
    """
    if not reads_classes(model.loss):
        return
    for name, data in sets.items():
        if not isinstance(data, Batches) or not all(map(is_concrete, (data.targets, data.weight))):
            continue
        row = shapes_of_rows(data.inputs, 1)
        leaves, structure = jax.tree.flatten((bare(variables), row))
        classes = _num_classes(model, structure, tuple(leaves))
        labels, ignored = np.asarray(data.targets), getattr(model.loss, "ignore_label", None)
        labels = labels[np.asarray(data.weight) > 0]
        refuse_labels(labels, classes, ignored, f" of the {name} set")


@cached(maxsize=64)
def _num_classes(model: Model, structure: Any, shapes: tuple) -> int:
    return jax.eval_shape(model.apply, *jax.tree.unflatten(structure, shapes)).shape[-1]
