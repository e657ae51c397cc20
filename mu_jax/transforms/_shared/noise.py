"""Noise in the place of a class: inputs of which a model is as wrong as it can be."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mu_jax import _at_once as at_once
from mu_jax.data.batches import Batch, Batches, describe
from mu_jax.loops.fit import FitInfo, fit
from mu_jax.loops.gradients import Term, Terms
from mu_jax.losses import total_weight, weighted_sum
from mu_jax.model import Model, Variables, from_function
from mu_jax.transforms._shared.transform import number

PyTree = Any


def start_of_noise(key: jax.Array, examples: Batches, images: int) -> PyTree:
    """Standard normal numbers in the shape of so many inputs, of their types."""
    leaves, structure = jax.tree.flatten(examples.inputs)
    for leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"expected inputs of floating point to learn noise in their place, found "
                f"{describe(examples.inputs)}: embed or scale them before the model"
            )
    keys = jax.random.split(key, len(leaves))
    noise = [jax.random.normal(k, (images, *x.shape[1:]), x.dtype) for k, x in zip(keys, leaves)]
    return jax.tree.unflatten(structure, noise)


def as_noise(examples: Batches, images: PyTree, labels: jax.Array) -> Batches:
    """Noise images and their labels as one batch, on the mesh of the examples, without ids."""
    weight, index = np.ones(len(labels), np.float32), np.full(len(labels), -1, np.int32)
    return examples.replace(
        inputs=images,
        targets=labels,
        weight=at_once.as_array(weight),
        index=at_once.as_array(index),
        batch_size=len(labels),
    )


def learn_noise(
    model: Model,
    variables: PyTree,
    start: Batches,
    optimizer: optax.GradientTransformation,
    *,
    key: jax.Array,
    steps: int,
    penalty: jax.Array | float,
) -> tuple[Batches, FitInfo]:
    """Noise images that maximize the loss of a model which stays as it is.

    Args:
      model, variables: the model, in inference mode.
      start: the noise to start from, as `as_noise` gives it.
      optimizer: of the noise. key: of the fit. steps: number of steps.
      penalty: weight of the mean squared length of an image.

    Returns:
      `(noise, info)`: the same batch with the learned images.
    """
    rows = at_once.as_array(np.arange(start.num_examples), jnp.int32)
    state, info = fit(
        _NOISE,
        _Harmful(model),
        optimizer,
        Variables(start.inputs),
        start.replace(inputs=rows),
        key=key,
        steps=steps,
        frozen={"original": variables, "penalty": number(penalty, float)},
        shuffle=False,
    )
    return start.replace(inputs=state.variables.params), info


_NOISE = from_function(lambda images, state, rows: images, lambda outputs, targets: outputs)


@dataclasses.dataclass(frozen=True)
class _Harmful:
    """`-mean_j l(f(n_j), c_j) + penalty mean_j ||n_j||^2` of the noise; inputs are its rows."""

    model: Model

    @property
    def rows_are_independent(self) -> bool:
        return True

    def __call__(
        self, variables: PyTree, batch: Batch, frozen: dict[str, PyTree], key: jax.Array
    ) -> tuple[Terms, PyTree]:
        images = jax.tree.map(lambda x: x[batch.inputs], variables.params)
        losses = self.model.per_example(self.model.apply(frozen["original"], images), batch)
        parts = [jnp.square(x).reshape(len(x), -1) for x in jax.tree.leaves(images)]
        squares = jnp.concatenate(parts, 1).sum(1)
        weight = total_weight(batch.weight)
        return {
            "loss": Term(weighted_sum(losses, batch.weight), weight, -1.0),
            "length": Term(weighted_sum(squares, batch.weight), weight, frozen["penalty"]),
        }, variables
