"""The damped inverse of a curvature of Kronecker blocks, as a linear function of a tree."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mu_jax.mesh.shards import on_automatic_axes
from mu_jax.statistics._engine.kronecker import Layer
from mu_jax.statistics.accumulator import sum_dtype
from mu_jax.statistics.curvature.layers import KroneckerLayers

PyTree = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KroneckerInverse:
    """`v -> (C + damping I)^-1 v` for a C of blocks `Q_A x Q_S diag(spectrum) (Q_A x Q_S)^T`.

    A pytree: it goes through `jit` and `vmap`. It is symmetric and positive definite.

    Attributes:
      layers: which parameters are in which block.
      vectors: (Q_A, Q_S) of each layer.
      spectrum: its eigenvalues [n, i, o].
      diagonal: of the leaves that have a diagonal only, in the order of `layers.diagonal`.
      damping: of each layer, then of each diagonal leaf, f[].
    """

    layers: KroneckerLayers = dataclasses.field(metadata={"static": True})
    vectors: tuple[tuple[jax.Array, jax.Array], ...]
    spectrum: tuple[jax.Array, ...]
    diagonal: tuple[jax.Array, ...]
    damping: tuple[jax.Array, ...]

    def __call__(self, vector: PyTree) -> PyTree:
        """`(C + damping I)^-1 vector`.

        Args:
          vector: a tree shaped like the parameters.

        Returns:
          Such a tree, in float32 at least.

        Raises:
          ValueError: a vector of other variables.

        Cost: four products of matrices for each layer, `2 i o (i + o)` multiplications; where the
        damping and an eigenvalue are both 0 the result is 0.
        """
        self.layers.check(vector)
        return _solve(self, vector)

    def product(self, vector: PyTree) -> PyTree:
        """`(C + damping I) vector`, at the same cost."""
        self.layers.check(vector)
        return _multiply(self, vector)

    def _apply(self, vector: PyTree, function: Any) -> PyTree:
        """Let `function(entries, eigenvalues)` change the entries in the eigenvectors."""
        leaves, structure = jax.tree.flatten(vector)
        leaves = [leaf.astype(sum_dtype(leaf.dtype)) for leaf in leaves]
        split = len(self.layers.layers)
        found = dict(enumerate(leaves))
        for layer, (q_a, q_s), values, damping in zip(
            self.layers.layers, self.vectors, self.spectrum, self.damping
        ):
            bias = None if layer.bias is None else leaves[layer.bias]
            matrices = layer.join(leaves[layer.kernel], bias)
            inside = _rotate(matrices, q_a, q_s)
            changed = _rotate(
                function(inside, values + damping), q_a.swapaxes(1, 2), q_s.swapaxes(1, 2)
            )
            found.update(_parts(layer, changed, leaves))
        for leaf, values, damping in zip(self.layers.diagonal, self.diagonal, self.damping[split:]):
            found[leaf] = function(leaves[leaf], values + damping)
        whole = [found[leaf].astype(leaves[leaf].dtype) for leaf in range(len(leaves))]
        return jax.tree.unflatten(structure, whole)


def _parts(layer: Layer, matrices: jax.Array, leaves: list[jax.Array]) -> dict[int, jax.Array]:
    shape = () if layer.bias is None else leaves[layer.bias].shape
    kernel, bias = layer.part(matrices, shape)
    found = {layer.kernel: kernel}
    if layer.bias is not None and bias is not None:
        found[layer.bias] = bias
    return found


def _rotate(matrices: jax.Array, left: jax.Array, right: jax.Array) -> jax.Array:
    """`left^T matrices right`."""
    return jnp.einsum("nij,nio,nop->njp", left, matrices, right, precision="highest")


@jax.jit
def _solve(inverse: KroneckerInverse, vector: PyTree) -> PyTree:
    def divide(entries, values):
        return jnp.where(values == 0, 0, entries / jnp.where(values == 0, 1, values))

    return on_automatic_axes(
        lambda inverse, vector: inverse._apply(vector, divide), inverse, vector, like=vector
    )


@jax.jit
def _multiply(inverse: KroneckerInverse, vector: PyTree) -> PyTree:
    return on_automatic_axes(
        lambda inverse, vector: inverse._apply(vector, jnp.multiply), inverse, vector, like=vector
    )
