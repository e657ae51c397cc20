"""Masks of the entries that a fit may change."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mu_jax import _at_once as at_once
from mu_jax.model import path_name

PyTree = Any


def checked_mask(mask: PyTree | None, params: PyTree) -> PyTree | None:
    """The mask of the trained leaves as arrays, each of the shape of its leaf or of a number.

    Raises:
      ValueError: an array of another shape.
    """
    if mask is None:
        return None

    def leaf(path, param, mask):
        if param is None:  # not trained
            return None
        found = jnp.shape(mask)
        if found not in ((), param.shape):
            raise ValueError(
                f"expected an update_mask of shape {param.shape} or () for "
                f"{path_name(path)!r}, found {found}: give one entry per parameter, or one per leaf"
            )
        return at_once.as_array(mask, bool)

    return jax.tree_util.tree_map_with_path(leaf, params, mask, is_leaf=lambda x: x is None)


def chosen(mask: PyTree | None, tree: PyTree, other: PyTree) -> PyTree:
    """Entries of the tree where the mask is true, those of the other tree elsewhere."""
    return tree if mask is None else jax.tree.map(jnp.where, mask, tree, other)
