"""Sums over examples, and norms, of per-example gradients `a[n].T @ d[n]` that are never stored.

Shapes are a[b, n, t, i] and d[b, n, t, o] for examples b, kernels side by side n and positions t.
The a of a lookup is one-hot and given as row numbers, a[b, n, t, 1]. `power` is `jnp.square` or
`jnp.abs`: of a product, it is the product of powers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from mu_jax import _target as target

Array = jax.Array
Power = Callable[[Array], Array]


def sum_copies(power: Power, gradient: Array, weight: Array) -> Array:
    """Return `sum_b w[b] power(g[b])`, as a matrix product: CPUs reduce a leading axis slowly."""
    values = power(gradient).reshape(len(gradient), -1)
    values = jnp.where(weight[:, None] != 0, values, 0)
    return (weight.astype(values.dtype) @ values).reshape(gradient.shape[1:])


def sum_products(power: Power, a: Array, d: Array, weight: Array) -> Array:
    """Return `sum_b w[b] power(a[b].T @ d[b])` as [n, i, o]."""
    weight = weight.astype(d.dtype)
    if a.shape[2] > 1:
        return _sum_positions(power, a, d, weight)
    scale = weight[:, None, None]
    a = jnp.where(scale != 0, power(a[:, :, 0]), 0)
    d = jnp.where(scale != 0, scale * power(d[:, :, 0]), 0)
    return jnp.einsum("bni,bno->nio", a, d)


def _sum_positions(power: Power, a: Array, d: Array, weight: Array) -> Array:
    """Form the gradients of a group of examples, add up their powers, go on to the next group.

    On a CPU a group is as small as fits the caches and its sum is written out, which compiles to
    one loop over entries; elsewhere it is as large as memory allows.
    """
    (size, n, _, i), o = a.shape, d.shape[-1]
    on_cpu = target.platform() == "cpu"
    entries, most = (2**21, 8) if on_cpu else (2**26, 2**10)
    group = min(max(1, entries // (n * i * o)), most, size)

    def part(start: Array | int, group: int) -> Array:
        a_, d_, w = (lax.dynamic_slice_in_dim(x, start, group) for x in (a, d, weight))
        gradients = power(jnp.einsum("bnti,bnto->bnio", a_, d_))
        scale = w[:, None, None, None]
        terms = jnp.where(scale != 0, scale * gradients, 0)
        return functools.reduce(jnp.add, list(terms)) if on_cpu else terms.sum(axis=0)

    n_groups = (size - 1) // group
    first = size - n_groups * group
    return lax.fori_loop(
        0, n_groups, lambda k, total: total + part(first + k * group, group), part(0, first)
    )


def sum_lookups(power: Power, a: Array, d: Array, weight: Array, n_rows: int) -> Array:
    """Return the same for a table of `n_rows`, adding up first what a row gets in one example."""
    row, weight = a[..., 0], weight.astype(d.dtype)[:, None, None]
    same = row[..., :, None] == row[..., None, :]
    gradient = jnp.einsum("bnts,bnso->bnto", same.astype(d.dtype), d)
    repeated = jnp.tril(same, -1).any(axis=-1)  # the first mention stands for all
    counts = (weight != 0) & ~repeated
    terms = jnp.where(counts[..., None], weight[..., None] * power(gradient), 0)
    n, o = d.shape[1], d.shape[3]
    table = jnp.zeros((n, n_rows, o), d.dtype)
    return table.at[jnp.arange(n)[None, :, None], row].add(terms, mode="drop")


def squared_norm(a: Array, d: Array, *, n_rows: int | None = None) -> Array:
    """Return `|a.T @ d|^2` of one example's a[n, t, i] and d[n, t, o], the cheaper way round.

    For a lookup give the number of rows of its table.
    """
    (_, t, i), o = a.shape, d.shape[-1]
    if n_rows is not None:
        same = (a == a.swapaxes(1, 2)) & (a < n_rows)
        return jnp.sum(jnp.where(same, jnp.einsum("nto,nso->nts", d, d), 0))
    if t == 1:
        return jnp.sum(jnp.square(a).sum((1, 2)) * jnp.square(d).sum((1, 2)))
    if i * o <= t * (i + o):
        return jnp.sum(jnp.square(jnp.einsum("nti,nto->nio", a, d)))
    return jnp.sum(jnp.einsum("nti,nsi->nts", a, a) * jnp.einsum("nto,nso->nts", d, d))
