"""How similar the layers of models are to those of the original and of retrained ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax._tracing import cached
from mu_jax.evaluation import linear_cka
from mu_jax.model import Model
from mu_jax.reporting.arrays import Similarity

PyTree = Any
Features = Mapping[str, np.ndarray]  # f32[n, d] by layer
OUTPUTS = "outputs"


def features_of(model: Model, variables: PyTree, inputs: PyTree) -> dict[str, np.ndarray]:
    """The activations of a model that have a name, and its outputs, `f32[n, d]` by layer.

    What lies between the axis of examples and the last one, such as the pixels of an image or the
    positions of a text, is averaged.

    Args:
        model: its `observe` names the activations. variables: of one model. inputs: of n examples.

    Returns:
        Features by layer, in the order in which the model computes them, the outputs last; of
        several names of one activation the first by the alphabet. Nothing for a model that names
        none.

    Cost: one forward pass, and before the first one a trace; the features on the host.
    """
    if model.observe is None:
        return {}
    program, order = _program(model)
    if not order:
        order += _order(model, variables, inputs)
    outputs, named = program(variables, inputs)
    found = {name: named[name] for name in order}
    found |= {OUTPUTS: outputs} if hasattr(outputs, "ndim") else {}
    n = jax.tree.leaves(inputs)[0].shape[0]
    return {name: np.asarray(x) for name, x in found.items() if x.ndim > 1 and x.shape[0] == n}


@cached(maxsize=16)
def _program(model: Model) -> tuple[Any, list[str]]:
    """The program of a model, and room for the order of its layers."""

    def observed(variables: PyTree, inputs: PyTree) -> tuple[Any, dict[str, jax.Array]]:
        outputs, named = model.observe(*model.split(variables), inputs)  # type: ignore[misc]
        return jax.tree.map(_averaged, (outputs, named))

    return jax.jit(observed), []


def _order(model: Model, variables: PyTree, inputs: PyTree) -> list[str]:
    """Names of different activations, by the step of the program that computes them.

    A dictionary that comes out of a program is in the order of the alphabet.
    """

    def named(variables: PyTree, inputs: PyTree) -> dict[str, jax.Array]:
        return model.observe(*model.split(variables), inputs)[1]  # type: ignore[misc]

    program, shapes = jax.make_jaxpr(named, return_shape=True)(variables, inputs)
    steps = {id(x): k for k, step in enumerate(program.eqns) for x in step.outvars}
    first: dict[int, str] = {}
    for name, x in zip(sorted(shapes), program.jaxpr.outvars):
        first.setdefault(id(x), name)
    return [first[x] for x in sorted(first, key=lambda x: (steps.get(x, -1), first[x]))]


def _averaged(x: jax.Array) -> jax.Array:
    x = x.astype(jnp.float32)
    return x.mean(tuple(range(1, x.ndim - 1))) if x.ndim > 2 else x


def similarity(
    models: Sequence[Features], originals: Sequence[Features], oracles: Sequence[Features]
) -> Similarity | None:
    """Linear CKA of every layer of N models to the original and to retrained models.

    Model j stands beside original j, or beside the last one where there are fewer. The similarity
    to the retrained models is the mean over all of them but the model itself. The band is the
    smallest and the largest similarity of two retrained models.

    Args:
        models, originals, oracles: `features_of` each, on the same four examples or more.

    Returns:
        `Similarity`, NaN where there is nothing to compare with or where features are constant or
        not finite; None without layers.

    Cost: `evaluation.linear_cka` of all pairs of a model and a retrained one, for every layer.
    """
    layers = tuple(models[0])
    if not layers or len(next(iter(models[0].values()))) < 4:
        return None
    own = np.array([[one is other for other in oracles] for one in models]).reshape(
        len(models), len(oracles)
    )
    columns = []
    for layer in layers:
        mine = np.stack([one[layer] for one in models])
        before, after = (
            np.stack([one[layer] for one in each]) if each else None
            for each in (originals, oracles)
        )
        columns.append((*_to_others(mine, before, after, own), *_band(after)))
    to_original, to_oracle, low, high = (np.stack(each, axis=-1) for each in zip(*columns))
    return Similarity(layers, to_original, to_oracle, low, high)


def _to_others(
    mine: np.ndarray, before: np.ndarray | None, after: np.ndarray | None, own: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Similarity f32[N] of one layer to the originals, and to the retrained models."""
    nothing = np.full(len(mine), np.nan, np.float32)
    to_original = to_oracle = nothing
    if before is not None:
        last = np.minimum(np.arange(len(mine)), len(before) - 1)
        to_original = np.asarray(_all_pairs(mine, before))[np.arange(len(mine)), last]
    if after is not None:
        pairs = np.where(own, 0, np.asarray(_all_pairs(mine, after)))
        number = (~own).sum(axis=1)
        to_oracle = np.where(number, pairs.sum(axis=1) / np.maximum(number, 1), np.nan)
    return to_original, to_oracle.astype(np.float32)


def _band(after: np.ndarray | None) -> tuple[np.floating, np.floating]:
    if after is None or len(after) < 2:
        return np.float32(np.nan), np.float32(np.nan)
    pairs = np.asarray(_all_pairs(after, after))[np.triu_indices(len(after), 1)]
    return pairs.min(), pairs.max()


@jax.jit
def _all_pairs(first: jax.Array, second: jax.Array) -> jax.Array:
    """Linear CKA f32[N, M] of features [N, n, d] and [M, n, d']."""
    return jax.vmap(lambda one: jax.vmap(lambda other: linear_cka(other, one))(second))(first)
