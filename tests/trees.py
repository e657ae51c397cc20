"""Comparisons of trees of arrays, random keys included, and of messages."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

import mu_jax as mu


def snapshot(tree: Any) -> Any:
    """A copy on the host; random keys as their data, reports without what is measured eagerly."""
    return jax.tree.map(_on_host, without_effect(tree))


def without_effect(tree: Any) -> Any:
    """The same with empty effects, which a call outside `jit` measures beside its work."""

    def strip(part):
        return part._replace(effect=()) if isinstance(part, mu.Info) else part

    return jax.tree.map(strip, tree, is_leaf=lambda part: isinstance(part, mu.Info))


def assert_close(found: Any, expected: Any, *, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Two trees agree to float tolerance."""
    chex.assert_trees_all_close(snapshot(found), snapshot(expected), rtol=rtol, atol=atol)


def assert_identical(found: Any, expected: Any) -> None:
    """Two trees agree bit by bit."""
    chex.assert_trees_all_equal(snapshot(found), snapshot(expected))


def stack(trees: list[Any]) -> Any:
    """Trees of one structure as one tree with a leading axis."""

    def join(*leaves):
        if jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
            return jnp.stack(leaves)
        return jax.device_put(np.stack(leaves))

    return jax.tree.map(join, *map(without_effect, trees))


def is_one_sentence(message: str) -> bool:
    """Says in one sentence what was expected, what was found and what to do."""
    parts = ("expected", "found", ":")
    return all(part in message for part in parts) and ". " not in message and "\n" not in message


def _on_host(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.array(leaf)
