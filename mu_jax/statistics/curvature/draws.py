"""Gradients of outputs whose second moment is the curvature of the loss: labels of the model."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from mu_jax._at_once import wide
from mu_jax.data.batches import Batch, describe
from mu_jax.losses import reads_classes
from mu_jax.model import Model
from mu_jax.token_losses import TokenCrossEntropy, scored

PyTree = Any
Labels = Literal["model", "expected", "data"]

_LARGEST = 256  # outputs of an example whose Hessian is formed


def losses(
    model: Model,
    labels: Labels,
    params: PyTree,
    state: PyTree,
    rows: tuple[Batch, jax.Array],
    number: jax.Array | int,
) -> jax.Array:
    """One number for each row, whose gradient is a draw g_i with `E[g_i g_i^T] = J_i^T H_i J_i`.

    Args:
      model: the model; inference mode.
      labels: see `mu_jax.statistics.curvature.kfac`.
      params, state: of the model.
      rows: the batch, and the words of a key for each of its rows.
      number: of "expected" labels: which of `count_draws` gradients, whose sum of squares is the
        curvature.
    """
    batch, keys = rows[0], jax.random.wrap_key_data(rows[1])
    outputs = model.predict(params, state, batch.inputs)
    if labels == "data":
        return model.per_example(outputs, batch)
    fixed = jax.lax.stop_gradient(outputs)
    drawn = _draws(model, labels, fixed, batch.targets, keys, number)

    def along(draw: jax.Array, outputs: jax.Array) -> jax.Array:
        outputs = jnp.where(draw == 0, 0, outputs)  # a class that is ruled out has the logit -inf
        return (draw * outputs).reshape(len(outputs), -1).sum(axis=1)

    terms = jax.tree.leaves(jax.tree.map(along, drawn, outputs))
    return functools.reduce(jnp.add, terms)


def keys_of(batch: Batch, seed: int, again: bool) -> jax.Array:
    """The words of a key for each row, of the seed and of the row's id alone: u32[B, ...].

    Args:
      batch: the rows.
      seed: of all keys.
      again: other keys, for a second pass.
    """
    key = jax.random.key(seed)
    key = jax.random.split(key)[0] if again else key
    ids = batch.index.astype(jnp.uint32)
    return jax.random.key_data(jax.vmap(lambda row: jax.random.fold_in(key, row))(ids))


def count_draws(model: Model, labels: Labels, outputs: PyTree) -> int:
    """How many gradients one example has: 1, or one for each output of "expected" labels.

    Raises:
      ValueError: "expected" labels of several positions, or of too many outputs.
    """
    if labels != "expected":
        return 1
    if reads_classes(model.loss) and outputs.ndim == 2:
        return outputs.shape[-1]
    if reads_classes(model.loss) or isinstance(model.loss, TokenCrossEntropy):
        raise ValueError(
            f"expected logits [examples, classes] for labels='expected', found {outputs.shape}: "
            "draw them, labels='model'"
        )
    return _size(outputs)


def _draws(
    model: Model, labels: Labels, outputs: PyTree, targets: PyTree, keys: jax.Array, number: Any
) -> PyTree:
    """Gradients of the outputs, a tree like them."""
    if isinstance(model.loss, TokenCrossEntropy):
        mask = jnp.roll(scored(targets), -1, axis=1)
        return _of_classes(labels, outputs, mask, keys, number)
    if reads_classes(model.loss):
        ignored = getattr(model.loss, "ignore_label", None)
        some = jnp.ones(targets.shape, bool) if ignored is None else wide(targets) != ignored
        return _of_classes(labels, outputs, some, keys, number)
    _size(outputs)

    def of_row(output: PyTree, target: PyTree, key: jax.Array) -> PyTree:
        return _of_any_loss(model, labels, output, target, key, number)

    return jax.vmap(of_row)(outputs, targets, keys)


def _of_classes(
    labels: Labels, logits: jax.Array, counts: jax.Array, keys: jax.Array, number: Any
) -> jax.Array:
    """`sqrt(m_t / sum m) (p_t - e_y)`: the square has the mean `m_t / sum m (diag p - p p^T)`."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    p, classes = jax.nn.softmax(logits), logits.shape[-1]
    share = counts.astype(p.dtype)
    total = share.reshape(len(share), -1).sum(1).reshape(-1, *(1,) * (share.ndim - 1))
    root = jnp.sqrt(share / jnp.where(total == 0, 1, total))[..., None]
    if labels == "expected":
        return jnp.sqrt(p[:, number, None]) * root * (p - jax.nn.one_hot(number, classes))
    drawn = jax.vmap(jax.random.categorical)(keys, logits)
    return root * (p - jax.nn.one_hot(drawn, classes, dtype=p.dtype))


def _of_any_loss(
    model: Model, labels: Labels, output: PyTree, target: PyTree, key: jax.Array, number: Any
) -> PyTree:
    """A root of the positive part of the loss's Hessian in the outputs, times random signs."""
    flat, unravel = ravel_pytree(output)
    one = jnp.ones(1, flat.dtype)

    def loss(flat: jax.Array) -> jax.Array:
        row = Batch(None, jax.tree.map(lambda x: x[None], target), one, one)
        return model.per_example(jax.tree.map(lambda x: x[None], unravel(flat)), row)[0]

    values, vectors = jnp.linalg.eigh(jax.hessian(loss)(flat))
    roots = jnp.sqrt(jnp.maximum(values, 0))
    if labels == "expected":
        return unravel((vectors[:, number] * roots[number]).astype(flat.dtype))
    signs = jax.random.rademacher(key, flat.shape, flat.dtype)
    product = jnp.matmul(vectors, roots * signs, precision="highest")
    return unravel(product.astype(flat.dtype))


def _size(outputs: PyTree) -> int:
    """The number of outputs of an example whose loss is not known; refuses very many."""
    size = sum(math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(outputs))
    if size > _LARGEST:
        raise ValueError(
            f"expected at most {_LARGEST} outputs of an example, as the Hessian of this loss is "
            f"formed, found {size} in {describe(outputs)}: give a cross-entropy, or labels='data'"
        )
    return size
