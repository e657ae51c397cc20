"""FLoRA: kernels plus a Tucker product, with one factor for each axis."""

from __future__ import annotations

import dataclasses
import functools
import string
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mu_jax._at_once import as_array
from mu_jax.adapters._leaves import check_names, check_rank, chosen_kernels, named, replaced
from mu_jax.mesh.shards import on_automatic_axes

PyTree = Any


class Tucker(NamedTuple):
    """What is added to one kernel `W` [n_1, ..., n_N].

    Attributes:
      core: G [r_1, ..., r_N]. factors: U_k [n_k, r_k], one for each axis.
    """

    core: jax.Array
    factors: tuple[jax.Array, ...]


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["scale"], meta_fields=["rank", "chosen"]
)
@dataclasses.dataclass(frozen=True)
class FLoRA:
    """`W + s G x_1 U_1 x_2 U_2 ... x_N U_N` in the place of every chosen kernel, `G = 0` at first.

    Factors are uniform in `+-1 / sqrt(r_k)`, those of Kaiming. At the start their gradient is 0, so
    that one step moves the core alone. Axes are in the order of the kernel: (in, out) of a dense
    layer, (height, width, in, out) of a convolution, whose window keeps its shape in the core.

    Args:
      rank: of the last two axes, one number for both or a pair; the axes in front of them, such as
        those of a window, keep their full size. Or one number for each axis.
      scale: s, 4; may be traced.
      chosen: names of the kernels; default: every leaf of two or more axes.

    Differences from the reference program (`SJTU-DeepVisionLab/FLoRA`):
      1. The core has the order of axes of the kernel, and not in, out, height, width.

    References:
      C. Si, X. Wang, X. Yang, Z. Xu, Q. Li, J. Dai, Y. Qiao, X. Yang, W. Shen. Maintaining
      Structural Integrity in Parameter Spaces for Parameter Efficient Fine-tuning. ICLR 2025.
    """

    rank: int | tuple[int, ...] = 8
    scale: jax.Array | float = 4.0
    chosen: Callable[[str], bool] | None = None

    def init(self, key: jax.Array, params: PyTree) -> dict[str, Tucker]:
        """A zero core and drawn factors for every chosen kernel, in float32 at least."""
        found = {}
        for name, leaf in chosen_kernels(params, self.chosen).items():
            ranks = self._ranks(name, leaf.shape)
            wide = jnp.promote_types(leaf.dtype, jnp.float32)
            own = jax.random.fold_in(key, zlib.crc32(name.encode()))
            factors = tuple(
                jax.random.uniform(jax.random.fold_in(own, axis), (n, r), wide, -1, 1) / r**0.5
                for axis, (n, r) in enumerate(zip(leaf.shape, ranks, strict=True))
            )
            found[name] = Tucker(jnp.zeros(ranks, wide), factors)
        return found

    def expand(self, z: dict[str, Tucker], params: PyTree) -> PyTree:
        """The kernels with what the cores add to them, in the types of the kernels."""

        def compute(z: dict[str, Tucker], params: PyTree, scale: jax.Array) -> PyTree:
            leaves = named(params)
            check_names(z, leaves, "cores")
            return replaced(params, {n: _added(leaves[n], own, scale) for n, own in z.items()})

        return on_automatic_axes(compute, z, params, as_array(self.scale, float), like=params)

    def _ranks(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        given = (self.rank,) * 2 if isinstance(self.rank, int) else tuple(self.rank)
        ranks = (*shape[: max(len(shape) - len(given), 0)], *given)
        if len(ranks) != len(shape):
            raise ValueError(
                f"expected at most {len(shape)} ranks for {name} of {len(shape)} axes, found "
                f"{len(given)}: give one for each axis, or for the last two"
            )
        for size, rank in zip(shape, ranks, strict=True):
            check_rank(name, shape, rank, size)
        return ranks


def _added(kernel: jax.Array, tucker: Tucker, scale: jax.Array) -> jax.Array:
    inner, outer = (letters[: kernel.ndim] for letters in _LETTERS)
    terms = ",".join([inner, *(o + i for o, i in zip(outer, inner, strict=True))])
    change = jnp.einsum(f"{terms}->{outer}", tucker.core, *tucker.factors)
    return (kernel + scale.astype(change.dtype) * change).astype(kernel.dtype)


_LETTERS = string.ascii_lowercase, string.ascii_uppercase
