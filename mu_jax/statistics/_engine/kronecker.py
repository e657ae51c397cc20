"""Sums for Kronecker factors of curvature, from the inputs and cotangents of kernels.

Shapes are those of `contractions`: a[b, n, t, i] and d[b, n, t, o] for examples b, kernels side by
side n and positions t. A layer with a bias has one more input, which is always 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mu_jax.statistics._engine.biases import find_biases
from mu_jax.statistics._engine.contractions import Factors, sum_copies, sum_factors
from mu_jax.statistics._engine.matrices import Steps, replay
from mu_jax.statistics._engine.products import Program
from mu_jax.statistics._engine.taps import sum_dtype

Array = jax.Array


class Layer(NamedTuple):
    """A kernel, with its bias if it has one, read as matrices [n, i, o].

    Attributes:
      kernel, bias: numbers of the leaves; no bias is None.
      shape: the sizes n, i, o of the kernel alone.
      back: the steps from [n, i, o] to the kernel's own layout.
    """

    kernel: int
    bias: int | None
    shape: tuple[int, int, int]
    back: Steps

    @property
    def inputs(self) -> int:
        """The number of inputs, that of the bias counted in."""
        return self.shape[1] + (self.bias is not None)

    @property
    def matrices(self) -> tuple[int, int, int]:
        """The shape [n, i, o] of kernel and bias together."""
        return self.shape[0], self.inputs, self.shape[2]

    def join(self, kernel: Array, bias: Array | None) -> Array:
        """Kernel and bias in their own layouts as matrices; leading axes are kept."""
        lead = kernel.shape[: kernel.ndim - len(self._kernel_shape)]
        own = jax.linear_transpose(lambda x: replay(self.back, x), _like(self.shape, kernel))
        for _ in lead:
            own = jax.vmap(own)
        (matrices,) = own(kernel)
        if bias is None:
            return matrices
        n, _, o = self.shape
        return jnp.concatenate([matrices, bias.reshape(*lead, n, 1, o)], axis=-2)

    def part(self, matrices: Array, bias_shape: tuple[int, ...]) -> tuple[Array, Array | None]:
        """The inverse of `join`."""
        i = self.shape[1]
        kernel = replay(self.back, matrices[:, :i])
        return kernel, None if self.bias is None else matrices[:, i].reshape(bias_shape)

    @property
    def _kernel_shape(self) -> tuple[int, ...]:
        found = jax.eval_shape(lambda x: replay(self.back, x), _like(self.shape))
        return found.shape


def _like(shape: tuple[int, ...], x: Array | None = None) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32 if x is None else x.dtype)


class FactorSums(NamedTuple):
    """Sums of one layer.

    Attributes:
      inputs: `sum w a a^T` over examples and positions, [n, i, i].
      outputs: `sum w s s^T`, [n, o, o].
      positions: `sum w`, the weight of all of them, f[].
    """

    inputs: Array
    outputs: Array
    positions: Array


def find_layers(program: Program, leaves: Sequence[Array], max_width: int) -> tuple[Layer, ...]:
    """The kernels that only multiply, with at most `max_width` inputs and outputs."""
    biases = find_biases(program, [leaf.shape for leaf in leaves])
    found = []
    for leaf, uses in sorted(program.uses.items()):
        bias = biases.get(leaf)
        layer = Layer(leaf, bias, uses.shape, uses.back)
        if not uses.lookups and max(layer.matrices[1:]) <= max_width:
            found.append(layer)
    return tuple(found)


def factor_sums(
    layer: Layer, factors: Factors, weight: Array, counted: Array, real: Array | None
) -> FactorSums:
    """The sums of a layer over some examples.

    Args:
      layer: which one.
      factors: its inputs and cotangents.
      weight: f[b], of the cotangents. counted: f[b], of the inputs and of the count.
      real: f[b, t], 0 where a position is padding; None if none is.
    """
    a, d = factors.a, factors.d

    def spread(weight: Array) -> Array:
        scale = jnp.broadcast_to(weight.astype(d.dtype)[:, None], (len(a), a.shape[2]))
        return scale if real is None else scale * real.astype(d.dtype)

    scale = spread(counted)
    inputs = _gram(a, scale)
    if layer.bias is not None:
        row = _weighted(a, scale).sum((0, 2))[:, None]
        corner = jnp.broadcast_to(scale.sum(), (len(row), 1, 1))
        inputs = jnp.block([[inputs, row.swapaxes(1, 2)], [row, corner]])
    return FactorSums(inputs, _gram(d, spread(weight)), scale.sum())


def _weighted(x: Array, scale: Array) -> Array:
    scale = scale[:, None, :, None]
    return jnp.where(scale != 0, scale * x, 0)


def _gram(x: Array, scale: Array) -> Array:
    """`sum_bt scale[b, t] x[b, n, t] x[b, n, t]^T`; a silent row may hold what is not finite.

    The whole product: a CPU needs more time to put together blocks above the diagonal.
    """
    b, n, t, i = x.shape
    x = jnp.where(scale[:, None, :, None] != 0, x, 0)
    rows = x.swapaxes(0, 1).reshape(n, b * t, i)
    return jnp.einsum("nri,nrj->nij", rows, scale.reshape(-1, 1) * rows, precision="highest")


def rotated(layer: Layer, factors: Factors, bases: tuple[Array, Array]) -> tuple[Array, Array]:
    """Inputs and cotangents in the eigenvectors Q_A [n, i, i] and Q_S [n, o, o]."""
    ours, theirs = (basis.astype(factors.d.dtype) for basis in bases)
    i = layer.shape[1]
    a = jnp.einsum("bnti,nij->bntj", factors.a, ours[:, :i], precision="highest")
    if layer.bias is not None:
        a = a + ours[:, i][:, None]
    return a, jnp.einsum("bnto,nop->bntp", factors.d, theirs, precision="highest")


class Chunk(NamedTuple):
    """What sums are made of: the gradients of some rows.

    Attributes:
      program: the traced loss.
      leaves: of the parameters.
      factors, copies: from `taps.gradients`.
      weight: f[b], of the gradients. counted: f[b], of inputs and positions.
      real: f[b, T], 0 where a position is padding; None if none is.
    """

    program: Program
    leaves: Sequence[Array]
    factors: dict[int, Factors]
    copies: dict[int, Array]
    weight: Array
    counted: Array
    real: Array | None

    def sums(self, layer: Layer) -> FactorSums:
        """The factors of a layer."""
        real = _positions(self.program, layer, self.real)
        return factor_sums(layer, self.factors[layer.kernel], self.weight, self.counted, real)

    def rotated_squares(self, layer: Layer, bases: tuple[Array, Array]) -> Array:
        """`sum_b w[b] (Q_A^T g[b] Q_S)^2` as [n, i, o]; of one position, no gradient is formed."""
        own, real = self.factors[layer.kernel], _positions(self.program, layer, self.real)
        a, d = rotated(layer, own, bases)
        if real is not None:
            d = d * real.astype(d.dtype)[:, None, :, None]
        return sum_factors(jnp.square, own._replace(a=a, d=d), self.weight)

    def squares(self, leaf: int) -> Array:
        """`sum_b w[b] g[b]^2` of a leaf in its own layout."""
        if leaf in self.factors:
            squares = sum_factors(jnp.square, self.factors[leaf], self.weight)
            return replay(self.program.uses[leaf].back, squares)
        if leaf in self.copies:
            return sum_copies(jnp.square, self.copies[leaf], self.weight)
        return jnp.zeros_like(self.leaves[leaf], sum_dtype(self.leaves[leaf]))


def _positions(program: Program, layer: Layer, real: Array | None) -> Array | None:
    """Which of a layer's positions are real, f[b, t]; None if they all count.

    Args:
      program: the traced loss.
      layer: which one.
      real: f[b, T]; products of the layer with another number of positions have no padding.
    """
    products = program.uses[layer.kernel].products
    if real is None or all(product.positions != real.shape[1] for product in products):
        return None
    parts = [
        real if use.positions == real.shape[1] else jnp.ones((len(real), use.positions), real.dtype)
        for use in products
    ]
    return jnp.concatenate(parts, axis=1)
