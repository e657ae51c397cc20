"""Classes and tokens as labels: which a model has, and which rows or tokens are to be ignored."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax._at_once import as_array
from mu_jax._tracing import cached
from mu_jax.data.batches import Batch, Batches, describe, is_concrete
from mu_jax.data.rows import shapes_of_rows
from mu_jax.data.tokens import Tokens, parts_of
from mu_jax.losses import reads_classes, refuse_labels
from mu_jax.mesh.shards import bare
from mu_jax.model import Model
from mu_jax.token_losses import TokenCrossEntropy, check_targets

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


def weights_of(examples: Any) -> jax.Array:
    """The weights of the examples of `Batches`, or 1 for each of a `Stream`, f32[n]."""
    if isinstance(examples, Batches):
        return examples.weight
    return as_array(np.ones(examples.num_examples, np.float32))


def count_classes(outputs: PyTree, targets: PyTree) -> int:
    """The number of classes, for methods that need some; a regression is refused.

    Args:
      outputs: logits f[B, C]. targets: int[B], or nothing where no label is read.

    Raises:
      ValueError: outputs that are no logits of two classes or more, or targets that are no labels.
    """
    shape: tuple[int, ...] = getattr(outputs, "shape", ())
    logits = len(shape) == 2 and shape[1] > 1
    whole = jnp.issubdtype(getattr(targets, "dtype", float), jnp.integer)
    labels = whole and targets.shape == shape[:1]
    if not logits or (jax.tree.leaves(targets) and not labels):
        raise ValueError(
            "expected logits [examples, classes] of two classes or more and integer labels, found "
            f"outputs {describe(outputs)} and targets {describe(targets)}: give a classifier, "
            "since the method needs classes"
        )
    return outputs.shape[1]


def check_labels(model: Model, variables: PyTree, **sets: Any) -> None:
    """Refuse labels that are no class of the model, where they can be seen.

    They can where the loss is known to read classes (`mu.losses.cross_entropy`, that of optax, and
    `mu.losses.CrossEntropy`) or tokens (`mu.token_losses.TokenCrossEntropy`), and the examples lie
    in memory, outside `jit`. Elsewhere the loss and the gradient of such a row are NaN, which is
    reported in its place.

    Args:
      model, variables: the model; only shapes are read.
      **sets: sets of examples by their name.

    Raises:
      ValueError: a label outside `[0, K)`; of tokens, a set in which none is scored, or a token
        outside the vocabulary that is scored or read.
    """
    if isinstance(model.loss, TokenCrossEntropy):
        for name, data in sets.items():
            _check_tokens(model, variables, name, data)
        return
    if not reads_classes(model.loss):
        return
    for name, data in sets.items():
        if not isinstance(data, Batches) or not all(map(is_concrete, (data.targets, data.weight))):
            continue
        classes = _classes_of(model, variables, data.inputs)
        labels, ignored = np.asarray(data.targets), getattr(model.loss, "ignore_label", None)
        labels = labels[np.asarray(data.weight) > 0]
        refuse_labels(labels, classes, ignored, f" of the {name} set")


def _check_tokens(model: Model, variables: PyTree, name: str, data: Any) -> None:
    """Refuse rows of tokens of which nothing is scored, or that another tokenizer has made."""
    if not isinstance(data, Batches) or not all(map(_visible, jax.tree.leaves(data))):
        return
    real = np.asarray(data.weight) > 0
    for inputs, targets in zip(parts_of(data.inputs), parts_of(data.targets)):
        check_targets(targets)
        mask = np.array(targets.mask)[real] != 0
        mask[:, 0] = False
        if not mask.any():
            raise ValueError(
                f"expected scored tokens in the {name} set, found none in its {len(mask)} rows: "
                "give 1 in the mask of TokenTargets where a token is scored, behind column 0"
            )
        words = _classes_of(model, variables, inputs)
        _refuse_foreign(np.asarray(targets.tokens)[real], mask, words, name)
        if isinstance(inputs, Tokens):
            read = np.asarray(inputs.segment)[real] != 0
            _refuse_foreign(np.asarray(inputs.tokens)[real], read, words, name)


def _visible(x: Any) -> bool:
    return is_concrete(x) and getattr(x, "is_fully_addressable", True)


def _refuse_foreign(tokens: np.ndarray, some: np.ndarray, words: int, name: str) -> None:
    bad = some & ((tokens < 0) | (tokens >= words))
    if bad.any():
        row, column = (int(k) for k in np.argwhere(bad)[0])
        raise ValueError(
            f"expected tokens from 0 to {words - 1}, those of the model, found "
            f"{tokens[row, column]} in row {row}, column {column} of the {name} set: encode the "
            "texts by the tokenizer of this model"
        )


def _classes_of(model: Model, variables: PyTree, inputs: PyTree) -> int:
    """The number of logits that the model has for inputs."""
    leaves, structure = jax.tree.flatten((bare(variables), shapes_of_rows(inputs, 1)))
    return _num_classes(model, structure, tuple(leaves))


@cached(maxsize=64)
def _num_classes(model: Model, structure: Any, shapes: tuple) -> int:
    return jax.eval_shape(model.apply, *jax.tree.unflatten(structure, shapes)).shape[-1]
