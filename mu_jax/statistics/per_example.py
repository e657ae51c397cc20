"""Exact statistics of per-example gradients at about the price of one gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mu_jax.statistics._matrices import replay
from mu_jax.statistics._taps import Program, trace

Array = jax.Array
PyTree = Any
Losses = Callable[[PyTree, PyTree], Array]

def sum_of_squares(losses, params, rows, weight, *, chunk_size=None):
    return _sum(jnp.square, losses, params, rows, weight, chunk_size)

def sum_of_magnitudes(losses, params, rows, weight, *, chunk_size=None):
    return _sum(jnp.abs, losses, params, rows, weight, chunk_size)


class Factors(NamedTuple):
    """a[b, n, t, i] and d[b, n, t, o] of a leaf: the gradient of example b is `a.T @ d`."""

    a: Array
    d: Array


def _sum(power, losses, params, rows, weight, chunk_size):
    leaves, structure = jax.tree.flatten(params)
    axes = _varying((params, rows))
    leaves = [_vary(x, axes) for x in leaves]
    params = structure.unflatten(leaves)
    program = trace(losses, params, jax.tree.map(lambda x: x[:1], rows))
    size = weight.shape[0]
    total = [jnp.zeros_like(x, _sum_dtype(x)) for x in leaves]

    def add(total, chunk):
        rows, weight = chunk
        factors, copies = _gradients(program, leaves, rows, axes)
        total = list(total)
        for leaf, f in factors.items():
            g = _product_sum(power, f, weight)
            total[leaf] += replay(program.products[leaf][0].back, g)
        for leaf, g in copies.items():
            total[leaf] += _copy_sum(power, g, weight)
        return total

    n = -(-size // (chunk_size or _chunk_size(program, leaves, size)))
    if n == 1:
        return structure.unflatten(add(total, (rows, weight)))
    chunks = jax.tree.map(lambda x: x.reshape(n, size//n, *x.shape[1:]), (rows, weight))
    total, _ = lax.scan(lambda t, c: (add(t, c), None), total, chunks)
    return structure.unflatten(total)


def _chunk_size(program, leaves, size): return size

def _varying(tree):
    return frozenset().union(*(jax.typeof(x).manual_axis_type.varying for x in jax.tree.leaves(tree)))

def _vary(x, axes):
    missing = axes - jax.typeof(x).manual_axis_type.varying
    return lax.pcast(x, tuple(missing), to="varying") if missing else x

def _gradients(program: Program, leaves, rows, axes):
    taps = {p.index: _vary(jnp.zeros(p.tap_shape, p.output.dtype), axes) for ps in program.products.values() for p in ps}
    copies = {k: leaves[k] for k in program.copied}

    def one(row):
        row = [x[None] for x in jax.tree.leaves(row)]
        def loss(taps, copies):
            values = [copies.get(k, x) for k, x in enumerate(leaves)]
            losses, records = program.run([*values, *row], taps)
            return losses.sum(), records
        (d, g), records = jax.grad(loss, (0, 1), has_aux=True)(taps, copies)
        factors = {}
        for leaf, ps in program.products.items():
            m = [p.matrices(records[p.index], d[p.index]) for p in ps]
            a, d_ = (jnp.concatenate(x, 1) if len(x) > 1 else x[0] for x in zip(*m))
            factors[leaf] = Factors(a, d_)
        return factors, g
    return jax.vmap(one)(rows)

def _sum_dtype(x): return jnp.promote_types(x.dtype, jnp.float32)

def _product_sum(power, f, w):
    a, d = f
    if a.shape[2] == 1:
        keep = (w != 0)[:, None, None]
        a = jnp.where(keep, power(a[:, :, 0]), 0)
        d = jnp.where(keep, w[:, None, None]*power(d[:, :, 0]), 0)
        if a.shape[1] == 1: return (a[:,0].T @ d[:,0])[None]
        return jnp.einsum("bni,bno->nio", a, d)
    size = a.shape[0]
    per = a.shape[1]*a.shape[3]*d.shape[3]
    group = min(max(1, 2**21//per), 8, size)
    def part(start, k):
        a_, d_, w_ = (lax.dynamic_slice_in_dim(x, start, k) for x in (a, d, w))
        if a.shape[1] == 1:
            g = jnp.einsum("bti,bto->bio", a_[:,0], d_[:,0])[:,None]
        else:
            g = jnp.einsum("bnti,bnto->bnio", a_, d_)
        return reduce(jnp.add, [jnp.where(w_[j] != 0, w_[j]*power(g[j]), 0) for j in range(k)])
    n = (size - 1)//group
    first = size - n*group
    return lax.fori_loop(0, n, lambda i, t: t + part(first + i*group, group), part(0, first))

def _copy_sum(power, g, w):
    shape = g.shape[1:]
    g = power(g).reshape(g.shape[0], -1)
    g = jnp.where((w != 0)[:, None], g, 0)
    return (w @ g).reshape(shape)
