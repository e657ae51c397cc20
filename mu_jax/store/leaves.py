"""The leaves of a pytree as a checkpoint holds them: one named, described array each.

A tree is stored flat, every leaf under its path, and rebuilt in the structure of another tree,
`like`. So any pytree can be stored (linen dicts, nnx states, NamedTuples, optimizer states), and a
checkpoint of another architecture is recognized before an array is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any
Description = dict[str, Any]
_TODO = "pass a `like` of the architecture that was stored, or name another checkpoint"


class Packed(NamedTuple):
    """Leaves by path: the arrays to store, and a JSON description of every leaf."""

    arrays: dict[str, Any]
    descriptions: dict[str, Description]


def pack(tree: PyTree) -> Packed:
    """Name, describe and convert the leaves of `tree`.

    Typed PRNG keys become their key data, Python numbers become 0-d arrays; leaves without
    elements are described but have no array; `None` and empty containers are not leaves.

    Raises:
        ValueError: a leaf is not numeric, two leaves share a path, or there is nothing to store.
    """
    named = by_path(tree)
    descriptions = describe(named)
    arrays = {name: _storable(named[name]) for name in named if _has_elements(descriptions[name])}
    if not arrays:
        raise ValueError(
            "expected a tree with at least one array to store, found none; pass the model's "
            "variables or the state of the run"
        )
    return Packed(arrays, descriptions)


def unpack(
    read: Callable[[dict[str, Any]], Mapping[str, Any]],
    descriptions: Mapping[str, Description],
    like: PyTree,
    *,
    source: Any,
) -> PyTree:
    """Rebuild the tree `like` from stored leaves.

    Args:
        read: called once with the targets by path (`jax.ShapeDtypeStruct` with a sharding for
            device arrays, `np.ndarray` otherwise); returns the stored arrays in that form.
        descriptions: what `pack` described when the tree was stored.
        like: tree of arrays, numbers or `jax.ShapeDtypeStruct`.
        source: where the arrays lie, for the message of an error.

    Raises:
        ValueError: a leaf is missing, extra, or of another shape or dtype; `read` is not called.
    """
    named = by_path(like)
    require_same(describe(named), descriptions, source, todo=_TODO)
    targets = {name: _target(leaf) for name, leaf in named.items()}
    arrays = read({name: targets[name] for name in named if _has_elements(descriptions[name])})
    placed = []
    for name, leaf in named.items():
        value = arrays[name] if name in arrays else _without_elements(targets[name])
        placed.append(_place(value, leaf, descriptions[name]))
    return jax.tree.unflatten(jax.tree.structure(like), placed)


def by_path(tree: PyTree) -> dict[str, Any]:
    """Leaves by path, such as `params/dense/kernel`."""
    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name in named:
            raise ValueError(
                f"expected one leaf at every path, found two at {name!r}; rename the key that "
                "contains '/'"
            )
        named[name] = leaf
    return named


def describe(named: Mapping[str, Any]) -> dict[str, Description]:
    """Shape and dtype of every leaf as JSON; ValueError for a leaf that is not numeric."""
    return {name: _describe(name, leaf) for name, leaf in named.items()}


def _describe(name: str, leaf: Any) -> Description:
    """Shape and dtype of a leaf as JSON, with the implementation of a key array."""
    if _is_key(leaf):
        key = {"impl": str(jax.random.key_impl(leaf))} if isinstance(leaf, jax.Array) else {}
        return {"shape": list(leaf.shape), "dtype": str(leaf.dtype), **key}
    numeric = np.asarray(leaf) if isinstance(leaf, (int, float, complex)) else leaf
    dtype = getattr(numeric, "dtype", None)
    if dtype is None or not (jnp.issubdtype(dtype, np.number) or dtype == np.bool_):
        raise ValueError(
            f"expected arrays, typed keys or numbers as leaves, found {type(leaf).__name__} at "
            f"{name!r}; keep other things outside the tree"
        )
    return {"shape": list(numeric.shape), "dtype": str(dtype)}


def _storable(leaf: Any) -> Any:
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    # With several processes orbax refuses arrays that live on one host; as numpy, host 0's is kept.
    if isinstance(leaf, jax.Array) and (jax.process_count() == 1 or not leaf.is_fully_addressable):
        return leaf
    return np.asarray(leaf)


def _target(leaf: Any) -> jax.ShapeDtypeStruct | np.ndarray:
    """What the stored array of a leaf of `like` is restored onto."""
    if _is_key(leaf):
        data = jax.eval_shape(jax.random.key_data, leaf)
    else:
        data = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    if (sharding := _sharding(leaf)) is None:
        return np.empty(data.shape, data.dtype)
    return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=sharding)


def _place(value: Any, leaf: Any, description: Description) -> Any:
    """The restored `value` as the kind of array or number that `leaf` is."""
    if "impl" in description:
        return jax.random.wrap_key_data(value, impl=description["impl"])
    if isinstance(leaf, np.generic):
        return value[()]
    if isinstance(leaf, (int, float, complex)):
        return type(leaf)(value)
    if isinstance(leaf, np.ndarray) or _sharding(leaf) is not None:
        return value
    # A number makes a weakly typed scalar: a strong one would promote bfloat16 and recompile.
    return jnp.asarray(value.item() if leaf.weak_type and not leaf.shape else value)


def _without_elements(target: jax.ShapeDtypeStruct | np.ndarray) -> Any:
    if isinstance(target, np.ndarray):
        return target
    return jax.device_put(np.empty(target.shape, target.dtype), target.sharding)


def _sharding(leaf: Any) -> jax.sharding.Sharding | None:
    """Where a leaf of `like` asks to be; None for the default device or the host."""
    if isinstance(leaf, jax.Array):
        return leaf.sharding if leaf.committed else None
    return getattr(leaf, "sharding", None)


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _has_elements(description: Description) -> bool:
    return 0 not in description["shape"]


def require_same(
    expected: Mapping[str, Description],
    found: Mapping[str, Description],
    source: Any,
    *,
    todo: str,
    further: Callable[[str], bool] = lambda name: False,
) -> None:
    """Refuse leaves that are not those of another tree, by the first that differs.

    Floats of any width are the same; other types are not.

    Args:
      expected, found: descriptions by path, see `describe`.
      source: where `found` is from. todo: what to do, for the message.
      further: of the paths that were not expected, those that may be there. Default: none.
    """
    others = [name for name in found if name not in expected]
    for name in [*expected, *(name for name in others if not further(name))]:
        wanted, stored = expected.get(name), found.get(name)
        if wanted is None or stored is None or not _compatible(wanted, stored):
            there = f" but {', '.join(others[:5])}" if stored is None and others else ""
            raise ValueError(
                f"expected {_text(wanted)} at {name!r}, found {_text(stored)}{there} in {source}; "
                f"{todo}"
            )


def _compatible(wanted: Description, stored: Description) -> bool:
    floating = all(each["dtype"].startswith(("float", "bfloat")) for each in (wanted, stored))
    return wanted["shape"] == stored["shape"] and (floating or wanted["dtype"] == stored["dtype"])


def _text(description: Description | None) -> str:
    if description is None:
        return "no leaf"
    return f"{description['dtype']}[{','.join(map(str, description['shape']))}]"
