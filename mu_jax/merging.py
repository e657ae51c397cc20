"""Arithmetic of task vectors: differences of models, scaled, trimmed, merged, and added again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax._at_once import elementwise
from mu_jax.data.batches import is_concrete
from mu_jax.data.checks import check_params, check_range
from mu_jax.mesh.shards import on_automatic_axes
from mu_jax.model import lies_in, path_name

PyTree = Any
Scale = jax.Array | float | Mapping[str, jax.Array | float]


def difference(after: PyTree, before: PyTree) -> PyTree:
    """The task vector `after - before`, in float32 at least.

    Args:
      after, before: parameters of one model, trees of floating-point arrays.

    Raises:
      ValueError: leaves that one tree has alone, or of other shapes.
      TypeError: a leaf that is no floating-point array, such as a count.

    Example:
      >>> difference({"w": jnp.array([3.0, 1.0])}, {"w": jnp.ones(2)})
      {'w': Array([2., 0.], dtype=float32)}
    """
    check_params(after)
    check_params(before)
    _check_alike(after, before)
    return _difference(after, before)


@elementwise
def _difference(xp: Any, after: PyTree, before: PyTree) -> PyTree:
    return jax.tree.map(lambda x, y: _wide(x) - _wide(y), after, before)


def add(
    params: PyTree,
    vector: PyTree,
    *,
    scale: Scale = 1.0,
    chosen: Callable[[str], bool] | PyTree = None,
) -> PyTree:
    """`params + scale vector` on the chosen leaves, in the types of the parameters.

    Args:
      params: parameters. vector: a tree like them, such as a `difference`.
      scale: one number, or numbers by the names of layers or leaves, such as
        `{"dense_0": 1.0, "head/bias": 0.5}`: of several that fit a leaf the longest name counts,
        and leaves that none fits stay as they are. May be traced.
      chosen: `name -> bool` over names such as `dense_0/kernel`, or a tree of bools; the other
        leaves keep every bit. Default all.

    Raises:
      ValueError: a vector of other leaves; names or a choice that no leaf has.

    Cost: one element-wise pass, computed in float32 at least.

    Example:
      >>> params = {"a": jnp.ones(1), "b": jnp.ones(1)}
      >>> add(params, params, scale={"b": -2.0})
      {'a': Array([1.], dtype=float32), 'b': Array([-1.], dtype=float32)}
    """
    _check_alike(params, vector)
    leaves, structure = jax.tree.flatten(params)
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    scales = _scales(names, scale)
    some = [k for k, keep in enumerate(_chosen(names, chosen)) if keep and scales[k] is not None]
    theirs = jax.tree.leaves(vector)
    found = _sum([leaves[k] for k in some], [theirs[k] for k in some], [scales[k] for k in some])
    for k, leaf in zip(some, found, strict=True):
        leaves[k] = leaf
    return jax.tree.unflatten(structure, leaves)


@elementwise
def _sum(xp: Any, params: list, vector: list, scales: list) -> list:
    def leaf(x, v, scale):
        return (_wide(x) + xp.asarray(scale, _wide(x).dtype) * _wide(v)).astype(x.dtype)

    return [leaf(*each) for each in zip(params, vector, scales, strict=True)]


def _wide(x: Any) -> Any:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _scales(names: list[str], scale: Scale) -> list[Any]:
    """The number of each leaf; None where the mapping names neither it nor a layer around it."""
    if not isinstance(scale, Mapping):
        return [scale] * len(names)
    unknown = [layer for layer in scale if not any(lies_in(name, layer) for name in names)]
    if unknown or not scale:
        raise ValueError(
            f"expected names of layers or leaves such as {names[0]!r} in scale, found "
            f"{unknown[0] if unknown else 'none'!r}: name those that are to be changed"
        )

    def of(name: str) -> Any:
        fitting = [layer for layer in scale if lies_in(name, layer)]
        return scale[max(fitting, key=len)] if fitting else None

    return list(map(of, names))


def _chosen(names: list[str], chosen: Callable[[str], bool] | PyTree) -> list[bool]:
    """Which leaves are chosen, by a function of their names or a tree of bools."""
    if chosen is None:
        return [True] * len(names)
    if callable(chosen):
        found = [bool(chosen(name)) for name in names]
    else:
        leaves = jax.tree_util.tree_leaves_with_path(chosen)
        given = {path_name(path): leaf for path, leaf in leaves}
        lost = [name for name in names if name not in given or np.ndim(given[name])]
        if lost:
            raise ValueError(
                f"expected one bool for each leaf in chosen, found none for {lost[0]!r} among "
                f"{', '.join(map(repr, list(given)[:4])) or 'nothing'}: give a tree like the "
                "parameters, or a function of names"
            )
        found = [bool(given[name]) for name in names]
    if not any(found):
        raise ValueError(
            f"expected at least one leaf in chosen, found that it chooses none of "
            f"{', '.join(names[:4])}: check the names"
        )
    return found


def unlike(first: PyTree, second: PyTree) -> str:
    """Where two trees first have other leaves, in words such as "(2,) and no leaf at 'w'".

    Nothing where names and shapes are the same.
    """
    shapes, others = (
        {path_name(path): jnp.shape(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (first, second)
    )
    for name in [*shapes, *others]:
        if shapes.get(name) != others.get(name):
            found = (str(each.get(name, "no leaf")) for each in (shapes, others))
            return f"{' and '.join(found)} at {name!r}"
    return ""


def _check_alike(first: PyTree, second: PyTree) -> None:
    """Refuse trees of other leaves, by the first that differs."""
    if found := unlike(first, second):
        raise ValueError(
            f"expected two trees with the same leaves, found {found}: give parameters of one model"
        )


def trim(vectors: PyTree, keep: jax.Array | float = 0.2) -> PyTree:
    """Keep the entries of largest magnitude of each of K vectors; the others become 0.

    Of the P entries of vector k, over all leaves together, those stay whose magnitude is at least
    that of the `round(keep P)`-th largest; equal ones stay together.

    Args:
      vectors: K task vectors, a tree whose leaves have a leading axis K.
      keep: share of the entries, 0.2 as published; may be traced.

    Raises:
      ValueError: a share outside [0, 1].

    Cost: one sort for each vector.

    References:
      P. Yadav, D. Tam, L. Choshen, C. Raffel, M. Bansal. TIES-Merging: Resolving Interference When
      Merging Models. NeurIPS 2023.

    Example:
      >>> trim({"a": jnp.array([[3.0, -1.0]]), "b": jnp.array([[-4.0, 2.0]])}, 0.5)
      {'a': Array([[3., 0.]], dtype=float32), 'b': Array([[-4.,  0.]], dtype=float32)}
    """
    check_range(0, 1, keep=keep)
    _check_stacked(vectors)
    return _trim(vectors, keep)


@jax.jit
def _trim(vectors: PyTree, keep: jax.Array) -> PyTree:
    def cut(vectors: PyTree, keep: jax.Array) -> PyTree:
        rows = [jnp.abs(_wide(x)).reshape(len(x), -1) for x in jax.tree.leaves(vectors)]
        order = jnp.sort(jnp.concatenate(rows, axis=1), axis=1, descending=True)
        number = jnp.round(keep * order.shape[1]).astype(jnp.int32)
        edge = jnp.where(number > 0, order[:, jnp.maximum(number, 1) - 1], jnp.inf)

        def leaf(x):
            return jnp.where(jnp.abs(_wide(x)) >= edge.reshape(-1, *[1] * (x.ndim - 1)), x, 0)

        return jax.tree.map(leaf, vectors)

    return on_automatic_axes(cut, vectors, keep, like=vectors)


def elect_sign(vectors: PyTree) -> PyTree:
    """The sign of the larger total magnitude of each entry: `sign(sum_k v_k)`, -1, 0 or 1.

    Args:
      vectors: K task vectors, a tree whose leaves have a leading axis K.

    Differences from the reference program (`prateeky2806/ties-merging`):
      1. A sum of exactly 0 elects neither sign; there the sign that most other entries have.

    References: see `trim`.

    Example:
      >>> elect_sign(jnp.array([[1.0, -1.0, 1.0], [2.0, 0.5, -1.0]]))
      Array([ 1., -1.,  0.], dtype=float32)
    """
    _check_stacked(vectors)
    return _elect(vectors)


@jax.jit
def _elect(vectors: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.sign(_wide(x).sum(axis=0)).astype(x.dtype), vectors)


def merge(vectors: PyTree, signs: PyTree | None = None) -> PyTree:
    """One vector from K: the mean of each entry, or of those that have the elected sign.

    `v_j = mean_k v_kj`, or `v_j = mean of v_kj over the k with sign(v_kj) = signs_j`, 0 where there
    are none. TIES-Merging is `merge(v, elect_sign(v))` with `v = trim(vectors)`. The mean also
    merges models themselves, such as those of several seeds of one method.

    Args:
      vectors: K task vectors (without `signs`, also parameters), a tree whose leaves have a
        leading axis K.
      signs: a tree of -1, 0 and 1, such as `elect_sign(vectors)`; default none.

    Returns:
      A tree without the leading axis, in the types of the leaves.

    Raises:
      ValueError: leaves without one common leading axis, or signs of other leaves.

    Cost: one element-wise pass, computed in float32 at least.

    References: see `trim`. M. Wortsman et al. Model Soups: Averaging Weights of Multiple Fine-Tuned
      Models Improves Accuracy without Increasing Inference Time. ICML 2022.

    Example:
      >>> vectors = jnp.array([[1.0, -1.0], [3.0, 4.0]])
      >>> merge(vectors).tolist(), merge(vectors, elect_sign(vectors)).tolist()
      ([2.0, 1.5], [2.0, 4.0])
    """
    _check_stacked(vectors)
    if signs is None:
        return _mean(vectors)
    _check_alike(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), vectors), signs)
    return _agreeing(vectors, signs)


@jax.jit
def _mean(vectors: PyTree) -> PyTree:
    return jax.tree.map(lambda x: _wide(x).mean(axis=0).astype(x.dtype), vectors)


@jax.jit
def _agreeing(vectors: PyTree, signs: PyTree) -> PyTree:
    def leaf(x, sign):
        agree = (jnp.sign(x) == sign) & (sign != 0)
        total = jnp.where(agree, _wide(x), 0).sum(axis=0)
        return (total / jnp.maximum(agree.sum(axis=0), 1)).astype(x.dtype)

    return jax.tree.map(leaf, vectors, signs)


def _check_stacked(vectors: PyTree) -> None:
    shapes = {jnp.shape(x)[:1] for x in jax.tree.leaves(vectors)}
    if len(shapes) != 1 or shapes & {(), (0,)}:
        raise ValueError(
            "expected leaves with one common leading axis of at least one vector, found leading "
            f"axes {sorted(shapes)}: stack the trees, such as by "
            "jax.tree.map(lambda *x: jnp.stack(x), *trees)"
        )


def largest_scale(scales: Any, accuracy: Any, *, share: float = 0.95) -> jax.Array:
    """The largest scale that keeps a share of the control accuracy: how task negation chooses.

    `max {s : accuracy(s) >= share accuracy(0)}`. The accuracy need not fall with the scale; one
    that is NaN keeps nothing.

    Args:
      scales: f[S], of task vectors, 0 among them; in any order.
      accuracy: f[..., S], of each scale on examples whose knowledge is to stay, none of which is
        in the retain set by which anything was fitted.
      share: 0.95 as published.

    Returns:
      f[...]; NaN where the accuracy at 0 is.

    Raises:
      ValueError: no scale of 0; another number of accuracies; a share outside [0, 1].

    References:
      G. Ilharco et al. Editing Models with Task Arithmetic. ICLR 2023.

    Example:
      >>> largest_scale([0.0, 0.5, 1.0, 2.0], [0.9, 0.89, 0.87, 0.4])
      Array(1., dtype=float32)
    """
    check_range(0, 1, share=share)
    scales, accuracy = jnp.asarray(scales, float), jnp.asarray(accuracy, float)
    if scales.ndim != 1 or accuracy.shape[-1:] != scales.shape:
        raise ValueError(
            f"expected one accuracy for each of the scales, shape [..., {scales.size}], found "
            f"scales {scales.shape} and accuracies {accuracy.shape}: measure each scale"
        )
    if is_concrete(scales) and not np.any(np.asarray(scales) == 0):
        raise ValueError(
            f"expected a scale of 0 among the scales, found {np.asarray(scales).tolist()}: measure "
            "the model before the edit too"
        )
    control = jnp.max(jnp.where(scales == 0, accuracy, -jnp.inf), axis=-1, keepdims=True)
    largest = jnp.max(jnp.where(accuracy >= share * control, scales, -jnp.inf), axis=-1)
    return jnp.where(jnp.isnan(control[..., 0]), jnp.nan, largest)
