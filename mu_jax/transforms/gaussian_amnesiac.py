"""Gaussian-Amnesiac: relabel the forget set by draws from the distribution of the labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mu_jax.data.batches import Batches
from mu_jax.data.forget_retain import Data, mix, readable, with_targets
from mu_jax.loops.fit import fit
from mu_jax.loops.labels import check_labels, weights
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

    Cost: `epochs` passes over both sets; of streams one more, to read the labels.

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
    sizes = [_weights(x) for x in (forget, retain)]
    read = jnp.ones(forget.num_examples)
    if model is not None:
        sizes = [weights(model, *pair) for pair in zip(targets, sizes, strict=True)]
        read = weights(model, targets[0], read)
    leaves, structure = jax.tree.flatten(targets[0])
    keys = [key] if len(leaves) == 1 else list(jax.random.split(key, len(leaves)))
    pairs = zip(keys, leaves, jax.tree.leaves(targets[1]), strict=True)
    drawn = [_draw(own, (theirs, others), sizes, clip) for own, theirs, others in pairs]
    return jax.tree.map(
        lambda new, old: jnp.where(read.reshape(-1, *(1,) * (old.ndim - 1)) > 0, new, old),
        jax.tree.unflatten(structure, drawn),
        targets[0],
    )


def _draw(
    key: jax.Array,
    pair: tuple[jax.Array, jax.Array],
    sizes: Sequence[jax.Array],
    clip: tuple[float, float] | None,
) -> jax.Array:
    labels, weight = jnp.concatenate(pair), jnp.concatenate(sizes)
    weight = weight.reshape(-1, *(1,) * (labels.ndim - 1))
    known = jnp.where(weight > 0, labels, 0)
    weight = weight.astype(jnp.promote_types(labels.dtype, weight.dtype))
    mean = (weight * known).sum(0) / weight.sum()
    variance = (weight * jnp.square(known - mean)).sum(0) / (weight.sum() - 1)
    drawn = mean + jnp.sqrt(variance) * jax.random.normal(key, pair[0].shape, mean.dtype)
    drawn = drawn if clip is None else jnp.clip(drawn, *clip)
    if jnp.issubdtype(labels.dtype, jnp.integer):
        bounds = jnp.iinfo(labels.dtype)
        low = labels.min(where=weight > 0, initial=bounds.max)
        high = labels.max(where=weight > 0, initial=bounds.min)
        drawn = jnp.clip(jnp.round(drawn), low, high)
    return drawn.astype(labels.dtype)


def _weights(examples: Data) -> jax.Array:
    return examples.weight if isinstance(examples, Batches) else jnp.ones(examples.num_examples)
