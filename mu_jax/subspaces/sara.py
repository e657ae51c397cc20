"""SaRA: only the weights that are small may move."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from mu_jax._at_once import as_array
from mu_jax.mesh.shards import on_automatic_axes

PyTree = Any


@functools.partial(jax.tree_util.register_dataclass, data_fields=["threshold"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class SaRA:
    """The entries with `|theta_j| < t` are trained, the others keep every bit.

    Which entries these are is decided at the start, once. Coordinates of the others are 0, and
    nothing reads them.

    The smallest weights are those that have least to do with what a model has stored: expect weak
    forgetting.

    Args:
      threshold: t, 2e-3 as published for Stable Diffusion 1.5; may be traced.

    Differences from the reference program (`sjtuplayer/SaRA`):
      1. Training starts from theta. The program's constructor writes `|theta|` into the network,
         and again whenever it chooses anew, so that the signs of trained entries are lost.
      2. The entries are chosen once. The program's default of choosing anew crashes at its first
         step.
      3. No penalty on the nuclear norm: that of the program goes to a tensor that nobody updates.

    References:
      T. Hu, J. Zhang, R. Yi, H. Huang, Y. Wang, L. Ma. SaRA: High-Efficient Diffusion Model
      Fine-tuning with Progressive Sparse Low-Rank Adaptation. ICLR 2025.
    """

    threshold: jax.Array | float = 2e-3

    def init(self, key: jax.Array, params: PyTree) -> PyTree:
        """The parameters that are small, 0 for the others."""
        del key

        def take(params: PyTree, threshold: jax.Array) -> PyTree:
            return jax.tree.map(lambda w: jnp.where(_is_small(w, threshold), w, 0), params)

        return on_automatic_axes(take, params, as_array(self.threshold, float), like=params)

    def expand(self, z: PyTree, params: PyTree) -> PyTree:
        """The coordinates where the parameters at the start are small, those elsewhere."""

        def put(z: PyTree, params: PyTree, threshold: jax.Array) -> PyTree:
            def leaf(new, w):
                return jnp.where(_is_small(w, threshold), new, w)

            return jax.tree.map(leaf, z, params)

        return on_automatic_axes(put, z, params, as_array(self.threshold, float), like=params)


def _is_small(leaf: jax.Array, threshold: jax.Array) -> jax.Array:
    return jnp.abs(leaf) < threshold.astype(leaf.dtype)
