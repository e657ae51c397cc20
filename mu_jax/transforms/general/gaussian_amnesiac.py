"""Gaussian-Amnesiac: relabel the forget set by draws from the distribution of the labels."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mu_jax import _at_once as at_once
from mu_jax.data.forget_retain import Data, mix, readable, with_targets
from mu_jax.data.rows import random_rows
from mu_jax.loops.fit import fit
from mu_jax.loops.labels import check_labels, weights, weights_of
from mu_jax.loops.predict import all_targets
from mu_jax.model import Model
from mu_jax.objectives.supervised import supervised
from mu_jax.transforms._shared.structured import check_no_tokens, with_masks
from mu_jax.transforms._shared.transform import Unlearn, method, report_fit

PyTree = Any


@method
def gaussian_amnesiac(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int | None = None,
    clip: tuple[float, float] | None = None,
    training_mode: bool = False,
) -> Unlearn:
    """Train on, with a label `y_i ~ N(mu, s^2)` drawn for every example to forget.

    `mu = sum_i w_i y_i / W` and `s^2 = sum_i w_i (y_i - mu)^2 / (W - 1)` are those of all training
    labels, the forget set's included, for each output; a label is drawn once for the whole fit.
    Truth values inside the targets are a mask, and stay.
    Then the supervised loss is fitted on both sets, shuffled together.

    It fails at few steps, in which single wrong labels are hardly learned, and at many it aims at
    the mean of all labels, where a retrained model may say something else.

    Args:
      model: the model.
      optimizer: from a fresh state; `optax.adam(1e-3)` as published.
      epochs: passes over both sets; 1 for images as published, 5 for sentences. steps: number of
        steps instead.
      batch_size: examples per step, 256 as published; default that of the retain set.
      clip: smallest and largest label; default none, as published. A bounded output saturates
        under labels beyond its bounds. Integer labels are rounded and stay among those there are.
      training_mode: move batch statistics and use dropout, as published; default inference mode.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; the key draws and shuffles;
      `info.details` is a `FitInfo`. Two streams are read batch by batch; of other iterables both
      sets are read into memory.

    Cost: `epochs` passes over both sets, and of streams one more, to read the labels; memory of one
    gradient and one optimizer state.

    Differences from the reference program (`ayu987/deep-regression-unlearning`):
      1. Inference mode by default.
      2. The last step is kept, there for sentences the epoch with the best validation loss.

    References:
      A. K. Tarun, V. S. Chundawat, M. Mandal, M. Kankanhalli. Deep Regression Unlearning. ICML
      2023.

    Example:
      >>> import mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
      >>> data = mu.batches(jnp.eye(3), jnp.array([1.0, 2.0, 9.0]), batch_size=3)
      >>> forget, retain = mu.split(data, [2])
      >>> unlearn = mu.gaussian_amnesiac(model, optax.sgd(0.1), epochs=200, clip=(0.0, 5.0))
      >>> start = mu.Variables(jnp.array([1.0, 2.0, 9.0]))
      >>> unlearned, _ = unlearn(jax.random.key(1), start, forget, retain)
      >>> unlearned.params.round(2)
      Array([1., 2., 5.], dtype=float32)
    """

    def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):
        check_labels(model, variables, forget=forget, retain=retain)
        first, second = readable(forget, retain)
        theirs = all_targets(first)
        check_no_tokens(model, variables, first, theirs)
        labels = draw_labels(jax.random.fold_in(key, 0), first, second, clip=clip, model=model)
        labels = with_masks(labels, theirs)
        result = fit(
            model,
            supervised(model, training_mode=training_mode),
            optimizer,
            variables,
            mix(with_targets(first, labels), second),
            key=jax.random.fold_in(key, 1),
            epochs=epochs,
            steps=steps,
            batch_size=batch_size,
        )
        return report_fit(model, variables, result, (forget, retain))

    return unlearn


def draw_labels(
    key: jax.Array,
    forget: Data,
    retain: Data,
    *,
    clip: tuple[float, float] | None = None,
    model: Model | None = None,
) -> PyTree:
    """One normal draw for every example to forget, `[n_forget, ...]`, of the type of the labels.

    Labels may be a tree of arrays. What the loss of the model ignores is neither read nor changed.
    """
    targets = all_targets(forget), all_targets(retain)
    sizes = tuple(weights_of(x) for x in (forget, retain))
    read = _ones(forget)
    if model is not None:
        sizes = tuple(weights(model, *pair) for pair in zip(targets, sizes, strict=True))
        read = weights(model, targets[0], read)
    leaves, structure = jax.tree.flatten(targets[0])
    keys = [key] if len(leaves) == 1 else list(jax.random.split(key, len(leaves)))
    pairs = zip(keys, leaves, jax.tree.leaves(targets[1]), strict=True)
    drawn = [
        _drawn(theirs, others, sizes, _normal(own, theirs), clip, read)
        for own, theirs, others in pairs
    ]
    return jax.tree.unflatten(structure, drawn)


def _normal(key: jax.Array, like: jax.Array) -> jax.Array:
    """Standard normal numbers, one for each label."""
    return random_rows(
        jax.random.normal, key, like.shape, jnp.promote_types(like.dtype, jnp.float32)
    )


@at_once.elementwise
def _drawn(
    xp: Any,
    labels: jax.Array,
    others: jax.Array,
    sizes: tuple[jax.Array, jax.Array],
    normal: jax.Array,
    clip: tuple[float, float] | None,
    read: jax.Array,
) -> jax.Array:
    """`mu + s normal` by the weighted moments of all labels; labels that are not read stay."""
    every, weight = xp.concatenate([labels, others]), xp.concatenate(sizes)
    weight = weight.reshape(-1, *(1,) * (labels.ndim - 1)).astype(normal.dtype)
    known = xp.where(weight > 0, every, 0).astype(normal.dtype)
    mean = (weight * known).sum(0) / weight.sum()
    variance = (weight * xp.square(known - mean)).sum(0) / (weight.sum() - 1)
    drawn = mean + xp.sqrt(variance) * normal
    drawn = drawn if clip is None else xp.clip(drawn, *clip)
    if jnp.issubdtype(labels.dtype, jnp.integer):
        bounds = jnp.iinfo(labels.dtype)
        low = every.min(where=weight > 0, initial=bounds.max)
        high = every.max(where=weight > 0, initial=bounds.min)
        drawn = xp.clip(xp.round(drawn), low, high)
    read = read.reshape(-1, *(1,) * (labels.ndim - 1))
    return xp.where(read > 0, drawn.astype(labels.dtype), labels)


def _ones(examples: Data) -> jax.Array:
    return at_once.as_array(np.ones(examples.num_examples, np.float32))
