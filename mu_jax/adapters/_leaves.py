"""Which leaves of the parameters adapters and subspaces change, and what is none of theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from mu_jax.model import path_name

PyTree = Any


def named(params: PyTree) -> dict[str, Any]:
    """The leaves by name."""
    return {path_name(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(params)}


def chosen_kernels(params: PyTree, chosen: Callable[[str], bool] | None) -> dict[str, Any]:
    """The chosen leaves of floats, by name; default those of two or more axes.

    Raises:
      ValueError: none is chosen, or one that is no kernel of floats.
    """
    leaves = named(params)
    if chosen is None:
        found = {name: leaf for name, leaf in leaves.items() if jnp.ndim(leaf) > 1}
    else:
        found = {name: leaf for name, leaf in leaves.items() if chosen(name)}
    if not found:
        raise ValueError(
            f"expected at least one kernel to adapt, found none chosen of "
            f"{', '.join(list(leaves)[:4])}, ...: check the names"
        )
    for name, leaf in found.items():
        if jnp.ndim(leaf) < 2 or not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"expected kernels of two or more axes of floats to adapt, found {name} of shape "
                f"{jnp.shape(leaf)} and type {leaf.dtype}: choose matrices alone"
            )
    return found


def check_rank(name: str, shape: tuple[int, ...], rank: int, most: int) -> None:
    """Refuse a rank outside of 1 to what a matrix, or an axis of it, can have."""
    if not 1 <= rank <= most:
        raise ValueError(
            f"expected a rank from 1 to {most} for {name} of {' x '.join(map(str, shape))}, found "
            f"{rank}: lower the rank, or choose other kernels"
        )


def check_names(names: Iterable[str], leaves: dict[str, Any], what: str) -> None:
    """Refuse what was made for leaves that the base lacks.

    Args:
      names: of the leaves it was made for. leaves: of the base, by name.
      what: what was made, a plural.
    """
    lost = sorted(set(names) - leaves.keys())
    if lost:
        raise ValueError(
            f"expected {what} of leaves that the base has, found one of {lost[0]}, which it lacks: "
            "use the base that they were made for"
        )


def replaced(params: PyTree, by_name: dict[str, Any]) -> PyTree:
    """The tree with other leaves where there are such of that name."""
    return jax.tree_util.tree_map_with_path(lambda p, x: by_name.get(path_name(p), x), params)
