"""Fidelity of input channels: how well some of them rebuild the output of their layer.

The output of a dense layer or convolution is a sum over input channels c, `y[o] = sum_c a[o, c]`,
its bias left out. With `G[o, c, d] = E<a[o, c], a[o, d]>` over examples and positions, channels S
with the best factors delta rebuild it up to `1 - FS(S)` of `E|y|^2`:

    G_SS delta = b_S,    FS(S) = b_S . delta / sum(G),    b = G 1.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax._tracing import cached
from mu_jax.data.batches import Batch
from mu_jax.losses import total_weight
from mu_jax.model import Model
from mu_jax.statistics.accumulator import SumOf, sum_dtype
from mu_jax.statistics.layers import Layer, with_inputs

PyTree = Any
Array = jax.Array


@cached(maxsize=64)
def entering_moments(model: Model, layers: tuple[Layer, ...]) -> SumOf:
    """Second moments of what enters each layer, `{name: E[a a^T]}`, f32[n, i, i].

    A mean over examples, and over the positions of each; inference mode.

    Args:
      model: the model. layers: see `mu_jax.statistics.layers.find_layers`.

    Cost: one forward pass; memory of the moments.
    """

    def terms(variables: PyTree, batch: Batch) -> tuple[PyTree, Array]:
        def entering(row: PyTree) -> list[Array]:
            inputs = jax.tree.map(lambda x: x[None], row)
            return with_inputs(model.apply, layers, variables, inputs)[1]

        found = jax.vmap(entering)(batch.inputs)
        sums = {x.name: _moment(a, batch.weight) for x, a in zip(layers, found)}
        return sums, total_weight(batch.weight)

    def like(variables: PyTree) -> PyTree:
        leaves = jax.tree.leaves(variables)
        return {
            x.name: jnp.zeros((x.shape[0], x.shape[1], x.shape[1]), leaves[x.leaf].dtype)
            for x in layers
        }

    return SumOf(terms, model.params, "moments of what enters layers", like=like)


def _moment(a: Array, weight: Array) -> Array:
    """`sum_b w_b mean_t a a^T` of a[b, n, t, i]."""
    a = a.astype(sum_dtype(a.dtype))
    some = jnp.where(weight.reshape(-1, 1, 1, 1) > 0, a, 0)
    scaled = some * (weight.astype(a.dtype) / a.shape[2]).reshape(-1, 1, 1, 1)
    return jnp.einsum("bnti,bntj->nij", scaled, some)


def by_channel(layer: Layer, array: Array, axis: int) -> Array:
    """The inputs along an axis as two axes, channels and taps."""
    order = np.argsort(np.asarray(layer.channels), kind="stable")
    count = max(layer.channels) + 1
    shape = (*array.shape[:axis], count, len(order) // count, *array.shape[axis + 1 :])
    return jnp.take(array, order, axis).reshape(shape)


def from_channels(layer: Layer, array: Array) -> Array:
    """One number for each channel, [n, channels, o], for all its inputs, [n, i, o]."""
    return array[:, np.asarray(layer.channels)]


def channel_gram(layer: Layer, kernel: Array, moments: Array) -> Array:
    """`G`, f[n, o, channels, channels], of a kernel [n, i, o] and moments [n, i, i]."""
    kernel = by_channel(layer, kernel.astype(moments.dtype), 1)
    moments = by_channel(layer, by_channel(layer, moments, 2), 1)
    return jnp.einsum("ncko,nckdl,ndlo->nocd", kernel, moments, kernel)


def singleton_fidelity(layer: Layer, kernel: Array, moments: Array) -> Array:
    """`(G 1)_c^2 / (G_cc sum G)`, f[n, o, channels]; 0 where nothing comes through.

    Cost: that of one product of the kernel with the moments; G is not formed.
    """
    kernel = by_channel(layer, kernel.astype(moments.dtype), 1)
    moments = by_channel(layer, by_channel(layer, moments, 2), 1)
    with_all = jnp.einsum("ncko,nckdl,ndlo->noc", kernel, moments, kernel, optimize="optimal")
    own = jnp.einsum("ncko,nckcl,nclo->noc", kernel, moments, kernel, optimize="optimal")
    below = own * with_all.sum(-1, keepdims=True)
    return jnp.where(below > 0, jnp.square(with_all) / jnp.where(below > 0, below, 1), 0)


def compensation(gram: Array, kept: Array) -> Array:
    """Factors of the kept channels that rebuild the output best, f[n, o, channels].

    Of all solutions of `G_SS delta = (G 1)_S` the one closest to 1; 0 for the other channels.

    Args:
      gram: f[n, o, channels, channels]. kept: bool[n, channels].

    Cost: one eigenvalue problem for each output channel.
    """
    inside = kept.astype(gram.dtype)[:, None]
    block = inside[..., :, None] * gram * inside[..., None, :]
    missing = inside * jnp.einsum("nocd,nod->noc", gram, 1 - inside)
    inverse = jnp.linalg.pinv(block, hermitian=True)
    return inside * (1 + jnp.einsum("nocd,nod->noc", inverse, missing))


def subset_fidelity(gram: Array, kept: Array) -> Array:
    """`FS(S)` of the kept channels, f[n, o]; 0 where nothing comes through."""
    both = jnp.einsum("noc,noc->no", gram.sum(-1), compensation(gram, kept))
    total = gram.sum((-2, -1))
    return jnp.where(total > 0, both / jnp.where(total > 0, total, 1), 0)
