"""Choices of entries over all leaves of a tree together, as trees of Booleans."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax.mesh.shards import on_automatic_axes

PyTree = Any


def saliency_mask(saliency: PyTree, fraction: jax.Array | float) -> PyTree:
    """The entries of largest absolute value over all leaves together, a tree of Booleans.

    Exactly `floor(fraction P)` of the P entries are chosen; of equal ones, those that come first.

    Args:
      saliency: a tree of arrays.
      fraction: share of the entries, may be traced.

    Cost: one sort.

    Example:
      >>> saliency_mask({"a": jnp.array([3.0, -4.0]), "b": jnp.array([[0.0], [3.0]])}, 0.5)
      {'a': Array([ True,  True], dtype=bool), 'b': Array([[False],
             [False]], dtype=bool)}
    """
    size = sum(leaf.size for leaf in jax.tree.leaves(saliency))
    number = int(size * fraction) if isinstance(fraction, float | int) else size * fraction
    return largest(saliency, jnp.asarray(number, jnp.int32))


@jax.jit
def largest(tree: PyTree, number: jax.Array, allowed: PyTree | None = None) -> PyTree:
    """So many entries of largest absolute value over all leaves; of equal ones, the first.

    Args:
      tree: of arrays. number: i32[], how many.
      allowed: a tree of Booleans, the entries among which to choose; None for all. Others are
        chosen only where these are too few.

    Returns:
      A tree of Booleans, whose leaves lie where those of the tree do.
    """

    def choose(tree, number, allowed):
        leaves, structure = jax.tree.flatten(tree)
        order = jnp.abs(jnp.concatenate([x.ravel() for x in leaves]))
        if allowed is not None:
            pool = jnp.concatenate([x.ravel() for x in jax.tree.leaves(allowed)])
            order = jnp.where(pool, order, -1)
        order = jnp.argsort(-order, stable=True)
        chosen = jnp.zeros(order.size, bool).at[order].set(jnp.arange(order.size) < number)
        parts = jnp.split(chosen, np.cumsum([x.size for x in leaves])[:-1])
        masks = [mask.reshape(leaf.shape) for mask, leaf in zip(parts, leaves)]
        return jax.tree.unflatten(structure, masks)

    return on_automatic_axes(choose, tree, number, allowed, like=tree)
