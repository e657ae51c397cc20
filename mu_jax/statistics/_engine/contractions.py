"""Sums over examples, and norms, of per-example gradients `a[n].T @ d[n]` that are never stored.

Shapes are a[b, n, t, i] and d[b, n, t, o] for examples b, kernels side by side n and positions t.
The a of a lookup is one-hot and given as row numbers, row[b, n, t, 1]. `power` is `jnp.square` or
`jnp.abs`: of a product, it is the product of powers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mu_jax import _target as target

Array = jax.Array
Power = Callable[[Array], Array]


class Factors(NamedTuple):
    """What the gradients of a leaf [n, i, o] are made of, one of the two at least."""

    products: tuple[Array, Array] | None  # a and d, of `a.T @ d`
    lookups: tuple[Array, Array] | None  # row numbers and d, which is added to these rows


def sum_copies(power: Power, gradient: Array, weight: Array) -> Array:
    """Return `sum_b w[b] power(g[b])`, as a matrix product: CPUs reduce a leading axis slowly."""
    values = power(gradient).reshape(len(gradient), -1)
    values = jnp.where(weight[:, None] != 0, values, 0)
    return (weight.astype(values.dtype) @ values).reshape(gradient.shape[1:])


def sum_factors(power: Power, factors: Factors, weight: Array, n_rows: int) -> Array:
    """Return `sum_b w[b] power(g[b])` as [n, i, o], g the gradients that the factors make up.

    Where rows of a kernel are looked up too (a tied embedding), the gradients of a group of
    examples are formed as for a product, and what was looked up is added to their rows.
    """
    products, lookups = factors
    if products is None:
        return _sum_lookups(power, *lookups, weight, n_rows)
    a, d = products
    if lookups is not None or a.shape[2] > 1:
        return _sum_positions(power, factors, weight)
    scale = weight.astype(d.dtype)[:, None, None]
    a = jnp.where(scale != 0, power(a[:, :, 0]), 0)
    d = jnp.where(scale != 0, scale * power(d[:, :, 0]), 0)
    return jnp.einsum("bni,bno->nio", a, d)


def _sum_positions(power: Power, factors: Factors, weight: Array) -> Array:
    """Form the gradients of a group of examples, add up their powers, go on to the next group.

    On a CPU a group is as small as fits the caches and its sum is written out, which compiles to
    one loop over entries; elsewhere it is as large as memory allows.
    """
    a, d = factors.products
    (size, n, _, i), o = a.shape, d.shape[-1]
    on_cpu = target.platform() == "cpu"
    entries, most = (2**21, 8) if on_cpu else (2**26, 2**10)
    group = min(max(1, entries // (n * i * o)), most, size)

    def part(start: Array | int, group: int) -> Array:
        cut = functools.partial(lax.dynamic_slice_in_dim, start_index=start, slice_size=group)
        own, w = jax.tree.map(cut, (factors, weight.astype(d.dtype)))
        gradients, scale = power(_formed(own)), w[:, None, None, None]
        terms = jnp.where(scale != 0, scale * gradients, 0)
        return functools.reduce(jnp.add, list(terms)) if on_cpu else terms.sum(axis=0)

    n_groups = (size - 1) // group
    first = size - n_groups * group
    return lax.fori_loop(
        0, n_groups, lambda k, total: total + part(first + k * group, group), part(0, first)
    )


def _formed(factors: Factors) -> Array:
    """The gradients [b, n, i, o] themselves."""
    (a, d), lookups = factors
    gradients = jnp.einsum("bnti,bnto->bnio", a, d)
    if lookups is None:
        return gradients
    row, e = lookups
    b, n = jnp.arange(len(row))[:, None, None], jnp.arange(row.shape[1])[None, :, None]
    return gradients.at[b, n, row[..., 0]].add(e, mode="drop")


def _sum_lookups(power: Power, row: Array, d: Array, weight: Array, n_rows: int) -> Array:
    """Return the same for a table of `n_rows`, adding up first what a row gets in one example."""
    row, weight = row[..., 0], weight.astype(d.dtype)[:, None, None]
    same = row[..., :, None] == row[..., None, :]
    gradient = jnp.einsum("bnts,bnso->bnto", same.astype(d.dtype), d)
    repeated = jnp.tril(same, -1).any(axis=-1)  # the first mention stands for all
    counts = (weight != 0) & ~repeated
    terms = jnp.where(counts[..., None], weight[..., None] * power(gradient), 0)
    n, o = d.shape[1], d.shape[3]
    table = jnp.zeros((n, n_rows, o), d.dtype)
    return table.at[jnp.arange(n)[None, :, None], row].add(terms, mode="drop")


def squared_norm(factors: Factors, n_rows: int) -> Array:
    """Return `|g|^2` of one example's gradient, the cheaper way round.

    The factors are those of `sum_factors` without the axis b.
    """
    products, lookups = factors
    if products is None:
        return _lookup_norm(*lookups, n_rows)
    (a, d), ((_, t, i), o) = products, (products[0].shape, products[1].shape[-1])
    if i * o <= t * (i + o):
        return jnp.sum(jnp.square(_formed(jax.tree.map(lambda x: x[None], factors))))
    norm = _product_norm(a, d)
    if lookups is None:
        return norm
    row, e = lookups
    at_rows = jnp.take_along_axis(a, row.swapaxes(1, 2), 2, mode="fill", fill_value=0)
    both = jnp.where(row < n_rows, jnp.einsum("nso,nto,nts->nso", e, d, at_rows), 0)
    return jnp.maximum(norm + _lookup_norm(row, e, n_rows) + 2 * both.sum(), 0)


def _lookup_norm(row: Array, d: Array, n_rows: int) -> Array:
    same = (row == row.swapaxes(1, 2)) & (row < n_rows)
    return jnp.sum(jnp.where(same, jnp.einsum("nto,nso->nts", d, d), 0))


def _product_norm(a: Array, d: Array) -> Array:
    if a.shape[1] == 1:
        return jnp.sum(jnp.square(a).sum((1, 2)) * jnp.square(d).sum((1, 2)))
    return jnp.sum(jnp.einsum("nti,nsi->nts", a, a) * jnp.einsum("nto,nso->nts", d, d))
