"""Pairs of thin matrices for chosen kernels of a tree of parameters, and what they add to them."""

from __future__ import annotations

import dataclasses
import functools
import re
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mu_jax.adapters._leaves import check_names, chosen_kernels, named, replaced
from mu_jax.mesh.shards import on_automatic_axes

PyTree = Any
Array = jax.Array


class LowRank(NamedTuple):
    """The adapter of one kernel `W` [..., in, out], which adds `scale a^T b` to it.

    Attributes:
      a: [..., r, in], the matrix A of LoRA. b: [..., r, out], its B transposed.
    """

    a: Array
    b: Array


Adapters = dict[str, LowRank]
"""The adapter of every adapted kernel, by the name of the kernel."""


def new_adapters(
    key: Array,
    params: PyTree,
    *,
    rank: int = 8,
    chosen: Callable[[str], bool] | None = None,
) -> Adapters:
    """Adapters that change nothing yet: `a` uniform in `+-1 / sqrt(in)`, `b` zero.

    Args:
      key: a PRNG key; each kernel draws by its name.
      params: a tree of parameters; only names, shapes and types are read. A leaf [..., in, out] is
        a kernel or a stack of kernels, such as of blocks that are scanned.
      rank: r.
      chosen: names of the kernels to adapt, such as `decoders.is_linear`; default: every leaf of
        two or more axes.

    Returns:
      `{name: LowRank}`, in float32 at least.

    Raises:
      ValueError: no kernel is chosen, or a chosen leaf has fewer than two axes or is not of floats.

    Example:
      >>> found = new_adapters(jax.random.key(0), {"w": jnp.ones((3, 5)), "b": jnp.ones(5)}, rank=2)
      >>> jax.tree.map(jnp.shape, found)
      {'w': LowRank(a=(2, 3), b=(2, 5))}
    """
    if rank < 1:
        raise ValueError(
            f"expected a rank of at least 1 for adapters, found {rank}: raise the rank"
        )
    return {
        name: _new(jax.random.fold_in(key, zlib.crc32(name.encode())), leaf, rank)
        for name, leaf in chosen_kernels(params, chosen).items()
    }


def _new(key: Array, leaf: Any, rank: int) -> LowRank:
    *stack, n_in, n_out = jnp.shape(leaf)
    wide = jnp.promote_types(leaf.dtype, jnp.float32)
    limit = n_in**-0.5
    a = jax.random.uniform(key, (*stack, rank, n_in), wide, -limit, limit)
    return LowRank(a, jnp.zeros((*stack, rank, n_out), wide))


def merged(params: PyTree, adapters: Adapters, scale: Array | float) -> PyTree:
    """`W + scale a^T b` in the place of every adapted kernel, in the type of the kernel.

    Args:
      params: a tree of parameters. adapters: of some of its kernels.
      scale: `alpha / r`, may be traced.

    Raises:
      ValueError: an adapter of a kernel that is not there, or of another shape.

    Cost: a product of r columns and rows for each kernel.
    """

    def add(kernel: Array, adapter: LowRank) -> Array:
        wide = jnp.einsum("...ri,...ro->...io", adapter.a, adapter.b)
        return (kernel + jnp.asarray(scale, wide.dtype) * wide).astype(kernel.dtype)

    def compute(params: PyTree) -> PyTree:
        return _at_kernels(add, params, adapters)

    return on_automatic_axes(compute, params, like=params)


def factored(
    params: PyTree, adapters: Adapters, scale: Array | float, weight: Array | None = None
) -> PyTree:
    """The same function without the product: each adapted kernel as a `FactoredKernel`.

    For models that multiply by `x @ kernel` and nothing else, such as the linear layers of
    `models.decoder`; its functions and `decode` take the result as parameters.

    Args:
      params, adapters, scale: as for `merged`.
      weight: f32[B], how much of the adapters each row of a batch gets, as a gate says; default 1.
    """

    def add(kernel: Array, adapter: LowRank) -> FactoredKernel:
        stack = jnp.shape(kernel)[:-2]
        parts = jnp.broadcast_to(jnp.asarray(scale, adapter.a.dtype), stack)
        rows = None if weight is None else jnp.broadcast_to(weight, (*stack, *weight.shape))
        return FactoredKernel(kernel, adapter.a, adapter.b, parts, rows)

    return _at_kernels(add, params, adapters)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["kernel", "a", "b", "scale", "weight"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True, eq=False)
class FactoredKernel:
    """A kernel of which `x @ kernel` is `x W + w scale (x a^T) b`, and which forms no `a^T b`.

    Attributes:
      kernel: W [in, out]. a: [r, in]. b: [r, out]. scale: f32[].
      weight: f32[B], w of each row of x [B, ..., in], or None for 1.
    """

    kernel: Array
    a: Array
    b: Array
    scale: Array
    weight: Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the kernel."""
        return self.kernel.shape

    @property
    def dtype(self) -> Any:
        """That of the kernel."""
        return self.kernel.dtype

    def astype(self, dtype: Any) -> FactoredKernel:
        """The same with another type of the kernel."""
        return dataclasses.replace(self, kernel=self.kernel.astype(dtype))

    def __rmatmul__(self, x: Array) -> Array:
        """`x @ kernel`."""
        a, b = (part.astype(x.dtype) for part in (self.a, self.b))
        added = ((x @ a.T) @ b) * self.scale.astype(x.dtype)
        if self.weight is not None:
            rows = self.weight.astype(x.dtype)
            added = added * rows.reshape(-1, *(1,) * (x.ndim - 1))
        return x @ self.kernel + added


def orthogonality(first: Adapters, second: Adapters) -> Array:
    """`sum_kernels ||A_1 A_2^T||_F^2`, 0 where the adapters read orthogonal directions, f32[].

    Args:
      first, second: adapters of the same kernels; their ranks may differ.

    Raises:
      ValueError: adapters of other kernels.

    Cost: r products of r rows for each kernel.

    Example:
      >>> up = jnp.zeros((2, 3))
      >>> one, two = ({"w": LowRank(jnp.eye(4)[k : k + 2], up)} for k in (0, 1))
      >>> float(orthogonality(one, two))
      1.0
    """
    check_same_kernels(first, second)
    parts = [
        jnp.square(jnp.einsum("...ri,...si->...rs", first[name].a, second[name].a)).sum()
        for name in first
    ]
    return functools.reduce(jnp.add, parts)


def check_same_kernels(first: Adapters, second: Adapters) -> None:
    """Refuse adapters of different kernels."""
    for name in sorted({*first, *second}):
        shapes = [_reads(adapters.get(name)) for adapters in (first, second)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"expected adapters of the same kernels, found that {name} is a kernel of "
                f"{shapes[0]} in one and of {shapes[1]} in the other: use adapters of one base"
            )


def _reads(adapter: LowRank | None) -> tuple[int, ...] | None:
    """The shape of the kernel of an adapter."""
    if adapter is None:
        return None
    return (*adapter.a.shape[:-2], adapter.a.shape[-1], adapter.b.shape[-1])


def num_layers(adapters: Adapters) -> int:
    """L, the number of layers: the most kernels whose names differ in numbers only.

    Stacked kernels count one by one, so that blocks in a scan are as many as blocks apart.

    Example:
      >>> pair = LowRank(jnp.ones((2, 3)), jnp.ones((2, 3)))
      >>> num_layers({"block_0/up": pair, "block_1/up": pair, "block_1/down": pair})
      2
    """
    found: Counter[str] = Counter()
    for name, adapter in adapters.items():
        found[re.sub(r"\d+", "#", name)] += int(jnp.size(adapter.a[..., 0, 0]))
    return max(found.values())


def _at_kernels(add: Callable[[Array, LowRank], Any], params: PyTree, adapters: Adapters) -> PyTree:
    """The tree with `add(kernel, adapter)` in the place of every adapted kernel."""
    leaves = named(params)
    check_names(adapters, leaves, "adapters")
    for name, adapter in adapters.items():
        if _reads(adapter) != jnp.shape(leaves[name]):
            raise ValueError(
                f"expected an adapter of a kernel {jnp.shape(leaves[name])} for {name}, found one "
                f"of {_reads(adapter)}: use the base that it was made for"
            )
    return replaced(params, {name: add(leaves[name], pair) for name, pair in adapters.items()})
