"""Magnitude pruning, a preparation that other methods profit from."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mu_jax import edits
from mu_jax._at_once import elementwise
from mu_jax.data.checks import check_range
from mu_jax.mesh.shards import summary
from mu_jax.model import Model
from mu_jax.transforms._shared.transform import Unlearn, method, report

PyTree = Any


@method
def magnitude_prune(model: Model, sparsity: jax.Array | float = 0.5) -> Unlearn:
    """Set the weights of least magnitude to 0, over all matrices and kernels together.

    Args:
      model: the model.
      sparsity: fraction of the entries of leaves with two or more axes to remove, may be traced.
        Vectors (biases, norm scales) stay.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; no data are read.

    Raises:
      ValueError: a sparsity outside [0, 1], where it can be seen.

    Cost: one sort of the weights.

    References:
      J. Jia, J. Liu, P. Ram, Y. Yao, G. Liu, Y. Liu, P. Sharma, S. Liu. Model Sparsity Can
      Simplify Machine Unlearning. NeurIPS 2023 (pruning before unlearning).
    """

    check_range(0, 1, sparsity=sparsity)

    def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):
        del key
        params = model.params(variables)
        threshold = _threshold(params, jnp.asarray(sparsity))
        after = model.with_params(variables, edits.apply(params, _updates(params, threshold)))
        return report(model, variables, after, (forget, retain), steps=0, example_passes=0)

    return unlearn


@elementwise
def _updates(xp: Any, params: PyTree, threshold: jax.Array) -> PyTree:
    def update(x):
        small = (x.ndim > 1) & (xp.abs(x) < threshold)
        return xp.where(small, -x, 0).astype(x.dtype)

    return jax.tree.map(update, params)


@summary
def _threshold(params: PyTree, sparsity: jax.Array) -> jax.Array:
    matrices = [jnp.abs(x).ravel() for x in jax.tree.leaves(params) if x.ndim > 1]
    if not matrices:
        raise ValueError(
            "expected at least one leaf with two or more axes to prune, found none: vectors are "
            "not pruned"
        )
    wide = [x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in matrices]
    return jnp.quantile(jnp.concatenate(wide), sparsity)
