"""Whole classes to forget: which they are, and a sample of every class that stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax.data.batches import Batches, describe, in_memory, is_concrete
from mu_jax.data.forget_retain import Data
from mu_jax.data.rows import permutation
from mu_jax.data.streams import Stream
from mu_jax.loops.labels import weights, weights_of
from mu_jax.loops.predict import all_targets
from mu_jax.losses import wide
from mu_jax.mesh.shards import reduction, shard
from mu_jax.model import Model
from mu_jax.objectives.relabel import check_integers, classes_among
from mu_jax.transforms._shared.structured import outputs_of_one

PyTree = Any


class Classes(NamedTuple):
    """Forgotten classes, and the drawn examples of the others.

    Attributes:
      labels: i32[M], the forgotten classes in turn. number: how many there are, i32[].
      rows: i32[m], rows of the retain set, those drawn first. weight: f32[m], 0 for the others.
      drawn: how many are drawn, i32[].
    """

    labels: jax.Array
    number: jax.Array
    rows: jax.Array
    weight: jax.Array
    drawn: jax.Array


def draw_by_class(
    key: jax.Array,
    model: Model,
    variables: PyTree,
    forget: Any,
    retain: Any,
    *,
    labels: int,
    most: int,
) -> tuple[Classes, Batches]:
    """At most `most` examples of every retained class, drawn at random.

    The size of the sample does not depend on the labels, so that it is known under `jit`: it is
    `min(n, most (C - 1))`, and rows beyond what is drawn have weight 0.

    Args:
      key: of the draw. model, variables: only shapes are read.
      forget, retain: sets with one class for each example; of the first only the labels are read.
      labels: M. most: examples of a class.

    Returns:
      `(classes, sample)`, the sample in memory, in a random order.

    Raises:
      ValueError: labels that are no classes, or a class of which some examples are forgotten and
        others retained, where that can be seen; under `jit` these others are not drawn. More
        forgotten classes than `labels`.
    """
    sets = [x if isinstance(x, Batches | Stream) else in_memory(x) for x in (forget, retain)]
    targets, counts = zip(*map(_counted_labels(model), sets))
    outputs = outputs_of_one(model, variables, sets[1])
    count = classes_among(outputs, jax.ShapeDtypeStruct((1,), targets[0].dtype))
    pairs = [(wide(own), weight) for own, weight in zip(targets, counts)]
    if all(map(is_concrete, (*targets, *counts))):
        gone, left = (np.unique(np.asarray(y)[np.asarray(w) > 0]) for y, w in pairs)
        _check_whole_classes(gone, left, labels)
    n = sets[1].num_examples
    first, order = np.arange(min(n, most * (count - 1))), permutation(key, n)
    found = _draw(*pairs, order, np.arange(count), np.arange(labels), first, most)
    sample = _in_memory(sets[1].take(found.rows))
    return found, sample.replace(weight=found.weight)


def _counted_labels(model: Model) -> Callable[[Data], tuple[jax.Array, jax.Array]]:
    """The classes of a set, and the weight of each; 0 where the loss ignores the label."""

    def read(examples):
        labels = all_targets(examples)
        check_integers(labels)
        if labels.ndim != 1:
            raise ValueError(
                f"expected one class for each example, found labels {describe(labels)}: choose a "
                "method that forgets examples"
            )
        return labels, weights(model, labels, weights_of(examples))

    return read


@reduction
def _draw(xp, forget, retain, order, classes, places, first, most) -> Classes:
    """The first `most` retained examples of every class that stays, by a random order."""
    (labels, weight), last = forget, len(classes)
    gone = ((labels[:, None] == classes) & (weight[:, None] > 0)).any(0)
    turns = xp.argsort(~gone, stable=True)[places % gone.sum()]
    labels, weight = (x[order] for x in retain)
    stays = (weight > 0) & ~gone[labels % last]
    labels = xp.where(stays, labels, last)
    by_class = xp.argsort(labels, stable=True)
    ordered = labels[by_class]
    place = xp.arange(len(ordered)) - xp.searchsorted(ordered, ordered)
    drawn = stays & (place[xp.argsort(by_class, stable=True)] < most)
    front = xp.argsort(~drawn, stable=True)[first]
    turns, number, rows, count = (
        x.astype(jnp.int32) for x in (turns, gone.sum(), order[front], drawn.sum())
    )
    return Classes(turns, number, rows, xp.where(drawn[front], weight[front], 0), count)


def _check_whole_classes(forget: np.ndarray, retain: np.ndarray, most: int) -> None:
    shared = np.intersect1d(forget, retain)
    if shared.size:
        raise ValueError(
            f"expected a forget set of whole classes, found class {shared[0]} in the retain set "
            "as well: forget all examples of a class, or choose a method that forgets examples"
        )
    if forget.size > most:
        raise ValueError(
            f"expected at most {most} forgotten classes, one for each noise image, found "
            f"{forget.size}: give more noise_images"
        )


def _in_memory(examples: Data) -> Batches:
    """The same examples on the same mesh, with the same batch size."""
    if isinstance(examples, Batches):
        return examples
    found = in_memory(examples.replace(mesh=None)).replace(batch_size=examples.batch_size)
    return found if examples.mesh is None else shard(found, examples.mesh, axis=examples.axis)
