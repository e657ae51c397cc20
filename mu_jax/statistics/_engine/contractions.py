"""Sums over examples, and norms, of per-example gradients `a[n].T @ d[n]` that are never stored.

Shapes are a[b, n, t, i] and d[b, n, t, o] for examples b, kernels side by side n and positions t.
The a of a lookup is one-hot and given as row numbers. `power` is `jnp.square` or `jnp.abs`: of a
product, it is the product of powers.
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
    """What the gradients of a leaf [n, i, o] are made of: `a.T @ d`, and rows added to it.

    Attributes:
      a, d: inputs [b, n, t, i] and cotangents [b, n, t, o] of products, t from 0.
      row, own: numbers [b, n, s, 1] of the rows that are looked up and what each gets
        [b, n, s, o], s from 0; a number that is no row's stands for nothing.
    """

    a: Array
    d: Array
    row: Array
    own: Array

    @property
    def products(self) -> int:
        """The number t of positions."""
        return self.a.shape[-2]

    @property
    def lookups(self) -> int:
        """The number s of lookups."""
        return self.row.shape[-2]

    @property
    def entries(self) -> int:
        """How many entries of one kernel are, i o."""
        return self.a.shape[-1] * self.d.shape[-1]


def sum_copies(power: Power, gradient: Array, weight: Array) -> Array:
    """Return `sum_b w[b] power(g[b])`, as a matrix product: CPUs reduce a leading axis slowly."""
    values = power(gradient).reshape(len(gradient), -1)
    values = jnp.where(weight[:, None] != 0, values, 0)
    return (weight.astype(values.dtype) @ values).reshape(gradient.shape[1:])


def sum_factors(power: Power, factors: Factors, weight: Array) -> Array:
    """Return `sum_b w[b] power(g[b])` as [n, i, o], g the gradients that the factors make up.

    Gradients are formed for several positions, and for many lookups in a small table.
    """
    a, d, row, _ = factors
    if factors.products > 1 or factors.lookups**2 > factors.entries:
        return _sum_formed(power, factors, weight)
    if factors.lookups == 0:
        return _sum_outer(power, a, d, weight)
    if factors.products == 0:
        return _sum_lookups(power, factors, weight)
    # Rows that are looked up have a share in the product too; the other rows are the product's.
    place = _places(row)
    share = a[:, :, 0].at[place].get(mode="fill", fill_value=0)[..., None] * d
    rest = a[:, :, 0].at[place].set(0, mode="drop")[:, :, None]
    return _sum_outer(power, rest, d, weight) + _sum_lookups(power, factors, weight, share)


def _sum_outer(power: Power, a: Array, d: Array, weight: Array) -> Array:
    """The sum over examples of one position, as one product of matrices."""
    scale = weight.astype(d.dtype)[:, None, None]
    a = jnp.where(scale != 0, power(a[:, :, 0]), 0)
    d = jnp.where(scale != 0, scale * power(d[:, :, 0]), 0)
    return jnp.einsum("bni,bno->nio", a, d)


def _sum_formed(power: Power, factors: Factors, weight: Array) -> Array:
    """Form the gradients of a group of examples, add up their powers, go on to the next group.

    On a CPU a group is as small as fits the caches and its sum is written out, which compiles to
    one loop over entries; elsewhere it is as large as memory allows.
    """
    size, n = factors.a.shape[:2]
    on_cpu = target.platform() == "cpu"
    entries, most = (2**21, 8) if on_cpu else (2**26, 2**10)
    group = min(max(1, entries // (n * factors.entries)), most, size)

    def part(start: Array | int, group: int) -> Array:
        def cut(x: Array) -> Array:
            return lax.dynamic_slice_in_dim(x, start, group)

        own, w = jax.tree.map(cut, (factors, weight.astype(factors.d.dtype)))
        gradients, scale = power(formed(own)), w[:, None, None, None]
        terms = jnp.where(scale != 0, scale * gradients, 0)
        return functools.reduce(jnp.add, list(terms)) if on_cpu else terms.sum(axis=0)

    n_groups = (size - 1) // group
    first = size - n_groups * group
    return lax.fori_loop(
        0, n_groups, lambda k, total: total + part(first + k * group, group), part(0, first)
    )


def formed(factors: Factors) -> Array:
    """The gradients [b, n, i, o] themselves."""
    a, d, row, own = factors
    gradients = jnp.einsum("bnti,bnto->bnio", a, d)
    return gradients.at[_places(row)].add(own, mode="drop") if factors.lookups else gradients


def _places(row: Array) -> tuple[Array, Array, Array]:
    """The index [b, n, t] of the rows."""
    size, n = row.shape[:2]
    return jnp.arange(size)[:, None, None], jnp.arange(n)[None, :, None], row[..., 0]


def _sum_lookups(power: Power, factors: Factors, weight: Array, share: Array | float = 0) -> Array:
    """The sum of what is looked up, adding up first what a row gets in one example.

    `share` [b, n, t, o] is what the row of each lookup gets from elsewhere.
    """
    row, d = factors.row[..., 0], factors.own
    weight = weight.astype(d.dtype)[:, None, None]
    same = row[..., :, None] == row[..., None, :]
    gradient = jnp.einsum("bnts,bnso->bnto", same.astype(d.dtype), d) + share
    repeated = jnp.tril(same, -1).any(axis=-1)  # the first mention stands for all
    counts = (weight != 0) & ~repeated
    terms = jnp.where(counts[..., None], weight[..., None] * power(gradient), 0)
    n = d.shape[1]
    table = jnp.zeros((n, factors.a.shape[3], d.shape[3]), d.dtype)
    return table.at[jnp.arange(n)[None, :, None], row].add(terms, mode="drop")


def squared_norm(factors: Factors) -> Array:
    """Return `|g|^2` of one example's gradient, the cheaper way round.

    The factors are those of `sum_factors` without the axis b.
    """
    a, d, row, own = factors
    numbers = factors.products * (a.shape[-1] + d.shape[-1]) + factors.lookups**2
    if factors.entries <= numbers:
        return jnp.sum(jnp.square(formed(jax.tree.map(lambda x: x[None], factors))))
    if factors.lookups == 0:
        return _product_norm(a, d)
    known = row < a.shape[-1]
    same = jnp.einsum("nto,nso->nts", own, own)
    looked_up = jnp.where(known & (row == row.swapaxes(1, 2)), same, 0).sum()
    if factors.products == 0:
        return looked_up
    share = jnp.take_along_axis(a, row.swapaxes(1, 2), 2, mode="fill", fill_value=0)
    both = jnp.einsum("nts,nto,nso->ns", share, d, own)
    both = jnp.where(known[..., 0], both, 0).sum()
    return jnp.maximum(_product_norm(a, d) + looked_up + 2 * both, 0)


def _product_norm(a: Array, d: Array) -> Array:
    if a.shape[1] == 1:
        return jnp.sum(jnp.square(a).sum((1, 2)) * jnp.square(d).sum((1, 2)))
    return jnp.sum(jnp.einsum("nti,nsi->nts", a, a) * jnp.einsum("nto,nso->nts", d, d))
