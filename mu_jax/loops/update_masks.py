"""Which entries a fit may move: its own mask, and the one that is in force around it."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mu_jax import _at_once as at_once
from mu_jax.freezing import check_names_of_mask, whole_of
from mu_jax.mesh.shards import created_like, on_automatic_axes
from mu_jax.model import Model, path_name

PyTree = Any
Masks = dict[str, jax.Array]
"""True where an entry may move, by the names of the leaves; other leaves may move as a whole."""


class _InForce(NamedTuple):
    model: Model
    masks: Masks


_IN_FORCE: contextvars.ContextVar[tuple[_InForce, ...]] = contextvars.ContextVar(
    "_IN_FORCE", default=()
)


@contextlib.contextmanager
def holding(model: Model, masks: Masks) -> Iterator[None]:
    """Let no fit of the model inside move an entry where its mask is False.

    The masks join the `update_mask` of every `mu.fit` and `mu.fit_phases` of this model, restricted
    or with another loss as well. A fit of another model (adapters, a generator of noise) is free,
    and one of a larger model asks for them, by `in_force`. Masks are arguments of the program of a
    fit, and compile nothing anew.

    Args:
      model: whose parameters are held.
      masks: see `Masks`; may be traced.
    """
    token = _IN_FORCE.set((*_IN_FORCE.get(), _InForce(model, masks)))
    try:
        yield
    finally:
        _IN_FORCE.reset(token)


def masks_of(params: PyTree, mask: PyTree) -> Masks:
    """A mask shaped like the parameters as one by names, of the trained leaves.

    Args:
      params: None where a leaf is not trained. mask: of all leaves, or of the trained ones.

    Raises:
      ValueError: a mask of another tree or of another shape.
    """
    given = {path_name(path): m for path, m in jax.tree_util.tree_leaves_with_path(mask)}
    check_names_of_mask(params, given)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    trained = {path_name(path): leaf for path, leaf in leaves}
    for name, leaf in trained.items():
        _check_shape(name, jnp.shape(given[name]), leaf.shape)
    return {name: at_once.as_array(given[name], bool) for name in trained}


def masks_in_force(model: Model) -> Masks:
    """The masks around the caller for the parameters of a model, all of them together."""
    joint: Masks = {}
    for held in _IN_FORCE.get():
        if whole_of(held.model).predict == whole_of(model).predict:
            joint = {**joint, **{n: _both(joint.get(n), mask) for n, mask in held.masks.items()}}
    return joint


def in_force(model: Model, params: PyTree) -> PyTree | None:
    """The masks around the caller as a tree like the parameters of a model; None without any.

    For a method that fits a larger model, of which this one is a part.
    """
    masks = masks_in_force(model)
    return _as_tree(masks, params) if masks else None


def checked(mask: PyTree | None, model: Model, params: PyTree) -> PyTree | None:
    """The mask of a fit: its own and what is in force, as a tree of arrays; None if all may move.

    Each leaf has the shape of its parameter, or none.
    """
    masks = masks_in_force(model)
    if mask is not None:
        own = masks_of(params, mask)
        masks = {**masks, **{name: _both(masks.get(name), m) for name, m in own.items()}}
    return _as_tree(masks, params) if masks else None


def _as_tree(masks: Masks, params: PyTree) -> PyTree:
    """The masks as a tree like the parameters, True for leaves that have none."""

    def leaf(path, param):
        return masks.get(path_name(path), at_once.as_array(True, bool))

    return jax.tree_util.tree_map_with_path(leaf, params)


def _check_shape(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if found not in ((), wanted):
        raise ValueError(
            f"expected a mask of shape {wanted} or () for {name!r}, found {found}: give one entry "
            "per parameter, or one per leaf"
        )


def choose(mask: PyTree | None, tree: PyTree, other: PyTree) -> PyTree:
    """Entries of the tree where the mask is true, those of the other tree elsewhere."""
    return tree if mask is None else jax.tree.map(jnp.where, mask, tree, other)


def restored(before: PyTree, after: PyTree, masks: Masks) -> PyTree:
    """The parameters after a method, with those before where the masks are False, bit for bit."""
    return on_automatic_axes(_restored, before, after, _as_tree(masks, before), like=before)


@at_once.elementwise
def _restored(xp: Any, before: PyTree, after: PyTree, mask: PyTree) -> PyTree:
    return jax.tree.map(xp.where, mask, after, before)


def started_anew(model: Model, variables: PyTree, init: Any, key: jax.Array) -> PyTree:
    """Fresh variables, but for leaves that are frozen and entries that are held.

    Args:
      model: of which a part may be restricted. variables: the ones at hand.
      init: `key -> variables`. key: a PRNG key.
    """
    fresh = model.refresh(variables, created_like(variables, init, key))
    masks = masks_in_force(model)
    if not masks:
        return fresh
    params = restored(model.params(variables), model.params(fresh), masks)
    return model.with_params(fresh, params)


def _both(first: jax.Array | None, second: jax.Array) -> jax.Array:
    return second if first is None else on_automatic_axes(_and, first, second, like=first)


@at_once.elementwise
def _and(xp: Any, first: jax.Array, second: jax.Array) -> jax.Array:
    return xp.logical_and(first, second)
