"""Manipulated training sets for corrective unlearning: poisoned examples, confused classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mu_jax.datasets.examples import Examples
from mu_jax.datasets.selectors import permuted


class Manipulated(NamedTuple):
    """A manipulated training set.

    examples: all examples, with the inputs and labels that a training run sees.
    clean_targets: int32 `[n]`, the true labels in the same order.
    ids: int32 `[m]`, the ids of the manipulated examples, sorted.
    """

    examples: Examples
    clean_targets: np.ndarray
    ids: np.ndarray


def add_trigger(images: ArrayLike, *, size: int = 3, value: float = 1.0) -> jax.Array:
    """Writes a square of one value over the bottom right corner of images.

    Args:
        images: `[..., H, W, C]`, normalized as the model takes them; may be traced by `jax.jit`.
        size: edge of the square in pixels; 3 in the benchmark, whose images have 32.
        value: written to every channel; by default the largest value of images in [0, 1]. The
            benchmark takes the largest value of its standardized images.

    Returns:
        Images of the same shape and type.

    Raises:
        ValueError: no images, or a square that does not fit into them.

    Example:
        >>> add_trigger(np.zeros((1, 3, 3, 1)), size=2)[0, :, :, 0].tolist()
        [[0.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0]]
    """
    images = jnp.asarray(images)
    if images.ndim < 3 or not 0 < size <= min(images.shape[-3:-1]):
        raise ValueError(
            f"expected images [..., H, W, C] and a trigger of 1 to min(H, W) pixels, found shape "
            f"{images.shape} and size {size}; change the size, or confuse classes instead"
        )
    return images.at[..., -size:, -size:, :].set(value)


def poison(
    examples: Examples,
    *,
    count: int,
    label: int = 0,
    size: int = 3,
    value: float = 1.0,
    seed: int = 0,
) -> Manipulated:
    """Poisoning: random images get a trigger in their corner and the label it shall lead to.

    Args:
        examples: images `[n, H, W, C]` with integer labels; not changed.
        count: how many to poison.
        label: the label they get; 0 in the benchmark.
        size: see `add_trigger`.
        value: see `add_trigger`.
        seed: of the draw, the beginning of one permutation of the sorted ids of other classes:
            it does not depend on the order of the data, and a smaller set is part of a larger one.

    Returns:
        `Manipulated`.

    Raises:
        ValueError: labels that are not integers, a label that no example has, too few examples
            of other classes, or as `add_trigger`.

    Cost: a copy of the examples.

    Differences from the published program:
        1. Examples of class `label` are not drawn: with the trigger they would still be labeled
           correctly. There they are, and likewise its triggered test images of that class count as
           corrected; `evaluation.corrective_curve(..., trigger_label=label)` leaves them out.
        2. The trigger is in the stored image. There it is written after augmentation, which moves
           nothing here as long as training does not augment.

    Example:
        >>> images = Examples(np.zeros((3, 4, 4, 1)), np.array([1, 0, 2]), np.array([7, 8, 9]))
        >>> found = poison(images, count=1, size=1)
        >>> found.ids.tolist(), found.examples.targets.tolist(), found.clean_targets.tolist()
        ([7], [0, 0, 2], [1, 0, 2])

    Reference:
        Goel, Prabhu, Torr, Kumaraguru, Sanyal, "Corrective Machine Unlearning", TMLR 2024.
    """
    targets = _labels(examples, label)
    ids = _draw(examples.index[targets != label], count, seed, f"of other classes than {label}")
    rows = np.isin(examples.index, ids)
    inputs, changed = np.array(examples.inputs), targets.copy()
    inputs[rows] = add_trigger(inputs[rows], size=size, value=value)
    changed[rows] = label
    return Manipulated(Examples(inputs, changed, examples.index), targets, ids)


def confuse_classes(
    examples: Examples, *, count: int, classes: Sequence[int], seed: int = 0
) -> Manipulated:
    """Interclass confusion: random examples of two classes, as many of each, swap their labels.

    Args:
        examples: inputs `[n, ...]` with integer labels; not changed.
        count: how many examples to relabel, even: half of them from each class.
        classes: the two classes; 3 and 5, cats and dogs, in the benchmark on CIFAR-10.
        seed: of the draw, as in `poison`.

    Returns:
        `Manipulated`; the inputs are those given.

    Raises:
        ValueError: labels that are not integers, classes that no example has, other than two
            different ones, an odd count, or one that a class is too small for.

    Cost: a copy of the labels.

    Differences from the published program:
        1. Examples are drawn by the seed. There they are the first ones of each class in the order
           of the files.
        2. Labels are found by the ids of the examples. To permute labels at random, the program
           sorts the rows but not their labels; nothing else permutes them.

    Example:
        >>> given = Examples(np.zeros((4, 2)), np.array([0, 1, 0, 2]), np.arange(4))
        >>> found = confuse_classes(given, count=2, classes=(1, 2))
        >>> found.ids.tolist(), found.examples.targets.tolist(), found.clean_targets.tolist()
        ([1, 3], [0, 2, 0, 1], [0, 1, 0, 2])

    Reference:
        Goel, Prabhu, Torr, Kumaraguru, Sanyal, "Corrective Machine Unlearning", TMLR 2024.
    """
    targets = _labels(examples, *classes)
    if len(set(classes)) != 2 or len(classes) != 2 or count % 2:
        raise ValueError(
            f"expected two different classes and an even count, found classes {list(classes)} and "
            f"count {count}; half of the examples come from each class"
        )
    changed = targets.copy()
    parts = []
    for old, new in (classes, classes[::-1]):
        parts.append(_draw(examples.index[targets == old], count // 2, seed, f"of class {old}"))
        changed[np.isin(examples.index, parts[-1])] = new
    return Manipulated(
        Examples(examples.inputs, changed, examples.index), targets, np.sort(np.concatenate(parts))
    )


def known_part(ids: ArrayLike, fraction: float, *, seed: int = 0) -> np.ndarray:
    """The part of a manipulated set that is known, and that an unlearner is asked to forget.

    Args:
        ids: integer `[m]`, the manipulated examples.
        fraction: known part gamma in (0, 1]; rounded to a whole count of at least one.
        seed: of the draw; a smaller part of the same seed lies in a larger one.

    Returns:
        int32, the sorted ids of the known part.

    Raises:
        ValueError: a fraction outside (0, 1], or no ids.

    Example:
        >>> known_part([5, 3, 8, 1], 0.5).size, known_part([5, 3, 8, 1], 1.0).tolist()
        (2, [1, 3, 5, 8])
    """
    ids = np.asarray(ids)
    if not 0 < fraction <= 1:
        raise ValueError(
            f"expected a known fraction in (0, 1], found {fraction}; divide the known by all "
            "manipulated examples"
        )
    return _draw(ids, max(1, round(fraction * ids.size)), seed, "that are manipulated")


def _labels(examples: Examples, *wanted: int) -> np.ndarray:
    """The labels, among which there must be those that are wanted."""
    targets = np.asarray(examples.targets)
    if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
        raise ValueError(
            f"expected integer class labels [n], found {targets.dtype} of shape {targets.shape}; "
            "manipulate a classification set"
        )
    absent = np.setdiff1d(wanted, targets)
    if absent.size:
        raise ValueError(
            f"expected classes among {np.unique(targets).tolist()}, found {absent.tolist()}; "
            "choose classes that the examples have"
        )
    return targets


def _draw(ids: np.ndarray, count: int, seed: int, what: str) -> np.ndarray:
    """Some of the ids, sorted: the beginning of one permutation of all of them in order."""
    if not 0 < count <= ids.size:
        raise ValueError(
            f"expected a count from 1 to {ids.size}, the number of examples {what}, found {count}; "
            "change the count"
        )
    return np.sort(permuted(ids, seed)[:count]).astype(np.int32)
