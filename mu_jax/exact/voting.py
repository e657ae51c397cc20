"""Models that are an ensemble of shards: one answer of many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from mu_jax.ensembles.training import Layout, map_models
from mu_jax.mesh.shards import by_rows
from mu_jax.model import Loss, Model

PyTree = Any
Combine = Literal["probabilities", "votes", "outputs"]
Members = Callable[[PyTree, PyTree], tuple[PyTree, PyTree, jax.Array]]


def combined(outputs: jax.Array, weight: jax.Array, how: Combine) -> jax.Array:
    """The answer of an ensemble.

    With p_s the soft-max of the outputs of shard s, W the sum of the weights and
    `P = sum_s w_s p_s / W`:

    * probabilities: `log P`;
    * votes: `log((v + P) / (W + 1))` with `v = sum_s w_s 1[argmax p_s]`. The class with most votes
      comes first, P decides between equal numbers of votes, and the loss is finite;
    * outputs: `sum_s w_s outputs_s / W`, for regression.

    Args:
      outputs: f[S, B, ...], of each shard; the last axis are classes unless `how` is "outputs".
      weight: f32[S], whole numbers; 0 for a shard that does not answer.
      how: which of the three.

    Example:
      >>> logits = jnp.log(jnp.array([[[0.9, 0.1]], [[0.4, 0.6]], [[0.45, 0.55]]]))
      >>> for how in ("probabilities", "votes"):
      ...     print(f"{jnp.exp(combined(logits, jnp.ones(3), how))[0, 1]:.3f}")
      0.417
      0.604
    """
    weight = weight.astype(jnp.promote_types(outputs.dtype, jnp.float32))
    total = jnp.maximum(weight.sum(), 1)

    def added(values):
        return jnp.einsum("s,s...->...", weight, values.astype(weight.dtype))

    if how == "outputs":
        return added(outputs) / total
    if how == "probabilities":
        logs = jax.nn.log_softmax(outputs.astype(weight.dtype))
        own = jnp.log(weight / total).reshape(-1, *[1] * (logs.ndim - 1))
        return jax.nn.logsumexp(logs + own, axis=0)
    mean = added(jax.nn.softmax(outputs.astype(weight.dtype))) / total
    votes = added(jax.nn.one_hot(outputs.argmax(axis=-1), outputs.shape[-1]))
    return jnp.log((votes + mean) / (total + 1))


def checked(how: Combine) -> Combine:
    """The way to combine outputs; refuses what is none.

    Raises:
      ValueError: another word.
    """
    if how not in get_args(Combine):
        raise ValueError(
            f"expected combine to be {', '.join(get_args(Combine))}, found {how!r}: choose one"
        )
    return how


def voting_model(
    predict_one: Callable[[PyTree, PyTree, PyTree], PyTree],
    loss: Loss,
    members: Members,
    split: Callable[[PyTree], tuple[PyTree, PyTree]],
    join: Callable[[PyTree, PyTree], PyTree],
    *,
    how: Combine,
    layout: Layout | None,
    light: Callable[[PyTree], PyTree] = lambda state: state,
) -> Model:
    """The model whose outputs are those of an ensemble.

    Args:
      predict_one: `(own, common, inputs) -> outputs` of one shard. loss: of the model.
      members: `(params, state) -> (own, common, weight)`: what each shard has of its own, leaves
        [S, ...], what all have in common, and the weights of the shards, f32[S].
      split, join: of the new model's variables.
      how: see `combined`. layout: see `mu.ensembles.map_models`.
      light: the state without what a prediction does not read.

    Returns:
      A `Model`; its training mode is its inference mode, since the shards are trained apart.
    """

    def compute(params, state, inputs):
        own, common, weight = members(params, state)
        found = map_models(lambda one: predict_one(one, common, inputs), own, layout=layout)
        return combined(found, weight, how)

    @jax.jit
    def answer(params, state, inputs):
        first = jax.tree.leaves(inputs)[0]
        rows = first.reshape(first.shape[0], -1)[:, 0] if first.ndim > 1 else first
        return by_rows(compute, params, state, inputs, rows=rows)

    def predict(params, state, inputs):
        return answer(params, light(state), inputs)

    def predict_train(params, state, inputs, key):
        del key
        return predict(params, state, inputs), state

    return Model(predict, predict_train, loss, split, join)
