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

    Args:
      power, factors, weight: as above.
      n_rows: the size i, which lookups do not tell.
    """
    products, lookups = factors
    if _are_formed(factors, n_rows):
        return _sum_formed(power, factors, weight, n_rows)
    if products is None:
        return _sum_lookups(power, *lookups, weight, n_rows)
    if lookups is None:
        return _sum_outer(power, *products, weight)
    # Rows that are looked up have a share in the product too; the other rows are the product's.
    (a, d), (row, own) = products, lookups
    place = _places(row)
    share = a[:, :, 0].at[place].get(mode="fill", fill_value=0)[..., None] * d
    rest = a.at[:, :, 0].set(a[:, :, 0].at[place].set(0, mode="drop"))
    looked_up = _sum_lookups(power, row, own, weight, n_rows, share)
    return _sum_outer(power, rest, d, weight) + looked_up


def _are_formed(factors: Factors, n_rows: int) -> bool:
    """Whether gradients are formed: for several positions, or many lookups in a small table."""
    products, lookups = factors
    if products is not None and products[0].shape[-2] > 1:
        return True
    if lookups is None:
        return False
    row, d = lookups
    return row.shape[-2] ** 2 > n_rows * d.shape[-1]


def _sum_outer(power: Power, a: Array, d: Array, weight: Array) -> Array:
    """The sum over examples of one position, as one product of matrices."""
    scale = weight.astype(d.dtype)[:, None, None]
    a = jnp.where(scale != 0, power(a[:, :, 0]), 0)
    d = jnp.where(scale != 0, scale * power(d[:, :, 0]), 0)
    return jnp.einsum("bni,bno->nio", a, d)


def _sum_formed(power: Power, factors: Factors, weight: Array, n_rows: int) -> Array:
    """Form the gradients of a group of examples, add up their powers, go on to the next group.

    On a CPU a group is as small as fits the caches and its sum is written out, which compiles to
    one loop over entries; elsewhere it is as large as memory allows.
    """
    _, d = factors.products or factors.lookups
    size, n, _, o = d.shape
    on_cpu = target.platform() == "cpu"
    entries, most = (2**21, 8) if on_cpu else (2**26, 2**10)
    group = min(max(1, entries // (n * n_rows * o)), most, size)

    def part(start: Array | int, group: int) -> Array:
        def cut(x: Array) -> Array:
            return lax.dynamic_slice_in_dim(x, start, group)

        own, w = jax.tree.map(cut, (factors, weight.astype(d.dtype)))
        gradients, scale = power(_formed(own, n_rows)), w[:, None, None, None]
        terms = jnp.where(scale != 0, scale * gradients, 0)
        return functools.reduce(jnp.add, list(terms)) if on_cpu else terms.sum(axis=0)

    n_groups = (size - 1) // group
    first = size - n_groups * group
    return lax.fori_loop(
        0, n_groups, lambda k, total: total + part(first + k * group, group), part(0, first)
    )


def _formed(factors: Factors, n_rows: int) -> Array:
    """The gradients [b, n, i, o] themselves."""
    products, lookups = factors
    if lookups is None:
        return jnp.einsum("bnti,bnto->bnio", *products)
    row, d = lookups
    size, n, _, o = d.shape
    if products is None:
        gradients = jnp.zeros((size, n, n_rows, o), d.dtype)
    else:
        gradients = jnp.einsum("bnti,bnto->bnio", *products)
    return gradients.at[_places(row)].add(d, mode="drop")


def _places(row: Array) -> tuple[Array, Array, Array]:
    """The index [b, n, t] of the rows."""
    size, n = row.shape[:2]
    return jnp.arange(size)[:, None, None], jnp.arange(n)[None, :, None], row[..., 0]


def _sum_lookups(
    power: Power, row: Array, d: Array, weight: Array, n_rows: int, share: Array | float = 0
) -> Array:
    """The sum for a table of `n_rows`, adding up first what a row gets in one example.

    `share` [b, n, t, o] is what the row of each lookup gets from elsewhere.
    """
    row, weight = row[..., 0], weight.astype(d.dtype)[:, None, None]
    same = row[..., :, None] == row[..., None, :]
    gradient = jnp.einsum("bnts,bnso->bnto", same.astype(d.dtype), d) + share
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
        entries, numbers = n_rows * lookups[1].shape[-1], lookups[0].shape[1] ** 2
    else:
        (_, t, i), o = products[0].shape, products[1].shape[-1]
        entries, numbers = i * o, t * (i + o)
    if entries <= numbers:
        return jnp.sum(jnp.square(_formed(jax.tree.map(lambda x: x[None], factors), n_rows)))
    if products is None:
        return _lookup_norm(*lookups, n_rows)
    norm = _product_norm(*products)
    if lookups is None:
        return norm
    (a, d), (row, own) = products, lookups
    share = jnp.take_along_axis(a, row.swapaxes(1, 2), 2, mode="fill", fill_value=0)
    both = jnp.einsum("nts,nto,nso->ns", share, d, own)
    both = jnp.where(row[..., 0] < n_rows, both, 0).sum()
    return jnp.maximum(norm + _lookup_norm(row, own, n_rows) + 2 * both, 0)


def _lookup_norm(row: Array, d: Array, n_rows: int) -> Array:
    same = (row == row.swapaxes(1, 2)) & (row < n_rows)
    return jnp.sum(jnp.where(same, jnp.einsum("nto,nso->nts", d, d), 0))


def _product_norm(a: Array, d: Array) -> Array:
    if a.shape[1] == 1:
        return jnp.sum(jnp.square(a).sum((1, 2)) * jnp.square(d).sum((1, 2)))
    return jnp.sum(jnp.einsum("nti,nsi->nts", a, a) * jnp.einsum("nto,nso->nts", d, d))
