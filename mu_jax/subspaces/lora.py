"""LoRA as a subspace: kernels plus products of thin matrices."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from mu_jax.adapters._leaves import check_rank, chosen_kernels
from mu_jax.adapters.low_rank import Adapters, merged, new_adapters

PyTree = Any


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["alpha"], meta_fields=["rank", "chosen"]
)
@dataclasses.dataclass(frozen=True)
class LoRA:
    """`W + (alpha / r) a^T b` in the place of every chosen kernel, `b = 0` at the start.

    At the start the gradient of `a` is 0, so that one step moves `b` alone.

    Args:
      rank: r, 8 as published for O3. alpha: 16 there; may be traced.
      chosen: names of the kernels; default: every leaf of two or more axes, of which the last two
        are those of the matrix.

    References:
      E. J. Hu, Y. Shen, P. Wallis, Z. Allen-Zhu, Y. Li, S. Wang, L. Wang, W. Chen. LoRA: Low-Rank
      Adaptation of Large Language Models. ICLR 2022.
    """

    rank: int = 8
    alpha: jax.Array | float = 16.0
    chosen: Callable[[str], bool] | None = None

    def check(self, params: PyTree) -> None:
        """Refuse a rank that is larger than a chosen matrix."""
        for name, leaf in chosen_kernels(params, self.chosen).items():
            check_rank(name, leaf.shape[-2:], self.rank, min(leaf.shape[-2:]))

    def init(self, key: jax.Array, params: PyTree) -> Adapters:
        """New adapters, see `mu.adapters.new_adapters`."""
        self.check(params)
        return new_adapters(key, params, rank=self.rank, chosen=self.chosen)

    def expand(self, z: Adapters, params: PyTree) -> PyTree:
        """The kernels with what the adapters add to them."""
        return merged(params, z, self.alpha / self.rank)
