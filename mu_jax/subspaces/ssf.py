"""SSF: a scale and a shift after every layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mu_jax.adapters._leaves import check_names, named, replaced
from mu_jax.mesh.shards import on_automatic_axes

PyTree = Any
_SHIFTS = ("bias", "b")
_SCALES = ("scale",)


class ScaleShift(NamedTuple):
    """The scales and shifts of all layers.

    Attributes:
      scale: gamma, by the name of the kernel (or of the scale of a normalization), with the shape
        of its bias, or of its last axis where it has none.
      shift: beta, by the name of the bias, with its shape.
    """

    scale: dict[str, jax.Array]
    shift: dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class SSF:
    """`gamma y + beta` in the place of every layer's output y; `gamma = 1`, `beta = 0` at first.

    Merged at once: `W' = gamma W`, `b' = gamma b + beta`, for normalizations of their own scale and
    bias. A layer is a kernel, a leaf of two or more axes whose last axes are the outputs, and the
    leaf `bias` or `b` beside it; or the leaf `scale` of a normalization, and its `bias`. A layer
    without a bias gets a scale alone. Where a bias lies beside several kernels, it is shifted and
    not scaled, which reaches the same parameters.

    Args:
      chosen: names of the kernels and of the scales of normalizations; default all of them.

    Differences from the reference program (`dongzelian/SSF`):
      1. It starts at the model itself; there gamma and beta are drawn around 1 and 0 with a
         deviation of 0.02.

    References:
      D. Lian, D. Zhou, J. Feng, X. Wang. Scaling & Shifting Your Features: A New Baseline for
      Efficient Model Tuning. NeurIPS 2022.
    """

    chosen: Callable[[str], bool] | None = None

    def init(self, key: jax.Array, params: PyTree) -> ScaleShift:
        """Ones and zeros, in float32 at least."""
        del key
        leaves = named(params)
        scale, shift = {}, {}
        for kernel, bias in self._layers(leaves).items():
            leaf = leaves[kernel]
            wide = jnp.promote_types(leaf.dtype, jnp.float32)
            outputs = leaf.shape[-1:] if bias is None else leaves[bias].shape
            fits = leaf.shape[leaf.ndim - len(outputs) :] == outputs
            scale[kernel] = jnp.ones(outputs if fits else leaf.shape[-1:], wide)
            if bias is not None:
                shift[bias] = jnp.zeros(leaves[bias].shape, wide)
        return ScaleShift(scale, shift)

    def expand(self, z: ScaleShift, params: PyTree) -> PyTree:
        """The kernels and biases with scales and shifts, in their own types."""

        def compute(z: ScaleShift, params: PyTree) -> PyTree:
            leaves = named(params)
            check_names((*z.scale, *z.shift), leaves, "scales")
            new = {
                name: (gamma * leaves[name]).astype(leaves[name].dtype)
                for name, gamma in z.scale.items()
            }
            owner = _owners(z, leaves)
            for name in z.shift:
                bias = leaves[name]
                scaled = z.scale[owner[name]] * bias if name in owner else bias
                new[name] = (scaled + z.shift[name]).astype(bias.dtype)
            return replaced(params, new)

        return on_automatic_axes(compute, z, params, like=params)

    def _layers(self, leaves: dict[str, Any]) -> dict[str, str | None]:
        """The bias of every chosen kernel or scale, by its name."""
        kernels = [name for name, leaf in leaves.items() if _is_scaled(name, leaf)]
        if self.chosen is not None:
            kernels = [name for name in kernels if self.chosen(name)]
        if not kernels:
            raise ValueError(
                "expected at least one layer to scale and shift, found none chosen of "
                f"{', '.join(list(leaves)[:4])}, ...: check the names"
            )
        return {name: _bias_of(name, leaves) for name in kernels}


def _is_scaled(name: str, leaf: Any) -> bool:
    return leaf.ndim > 1 or name.rpartition("/")[2] in _SCALES


def _bias_of(kernel: str, leaves: dict[str, Any]) -> str | None:
    """The name of the bias beside a kernel."""
    parent = kernel.rpartition("/")[0]
    names = (f"{parent}/{own}" if parent else own for own in _SHIFTS)
    return next((name for name in names if name in leaves), None)


def _owners(z: ScaleShift, leaves: dict[str, Any]) -> dict[str, str]:
    """The kernel whose scale a bias shares, for biases that lie beside one kernel alone."""
    found: dict[str, list[str]] = {}
    for name, leaf in leaves.items():
        bias = _bias_of(name, leaves) if _is_scaled(name, leaf) else None
        if bias is not None:
            found.setdefault(bias, []).append(name)
    return {
        bias: kernels[0]
        for bias, kernels in found.items()
        if len(kernels) == 1
        and kernels[0] in z.scale
        and z.scale[kernels[0]].shape == leaves[bias].shape
    }
