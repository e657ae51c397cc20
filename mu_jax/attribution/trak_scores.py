"""The scores of TRAK: the effect of every training example on the margin of every target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mu_jax import _progress
from mu_jax._tracing import cached
from mu_jax.attribution._features import coefficients, leverages, margin_features
from mu_jax.attribution.trak import Checkpoint, Trak
from mu_jax.loops.labels import counted
from mu_jax.loops.predict import map_rows, unweighted
from mu_jax.model import Model


def trak_scores(
    store: Trak,
    data: Any,
    targets: Any,
    *,
    leave_one_out: bool = False,
    product_of_averages: bool = True,
    reference_scaling: bool = False,
) -> jax.Array:
    """Effect of including each training example on the margin of each target, f[n, T].

    Args:
      store: from `trak`.
      data: the training set that `store` was made from, `Batches` or a `Stream`.
      targets: the examples whose margins are explained.
      leave_one_out: divide each score by `1 - r_i phi_i^T K^-1 phi_i`, which removes example i
        from K.
      product_of_averages: average `psi^T K^-1 phi_i` and `1 - p_i` over the checkpoints separately
        and multiply, as published; otherwise average their products.
      reference_scaling: the reference program's units, in which `K^-1` is divided by its mean
        magnitude: without meaning beyond the order of examples.

    Returns:
      Scores, row i for example i of `data`; positive where it raises the margin.

    Cost: one forward and backward pass per example, target and checkpoint; memory of the scores
    and of `4 dim T` bytes.
    """
    products, residuals, scores = [], [], []
    for checkpoint in _progress.each(store.checkpoints, "TRAK scores", "checkpoint"):
        point = checkpoint.variables, checkpoint.projection, checkpoint.factor
        psi = map_rows(_feature_rows(store.model), unweighted(targets), point)
        solved = jax.scipy.linalg.cho_solve((checkpoint.factor, True), psi.T)
        rows = _score_rows(store.model, store.gauss_newton, leave_one_out)
        product, residual = map_rows(rows, data, point, solved)
        if reference_scaling:
            product = product * _reference_scale(store.model, checkpoint)
        products.append(product)
        residuals.append(residual[:, None])
        scores.append(product * residual[:, None])
    if product_of_averages:
        return sum(products) / len(products) * (sum(residuals) / len(residuals))
    return sum(scores) / len(scores)


@cached(maxsize=64)
def _feature_rows(model: Model) -> Callable:
    return lambda batch, point: margin_features(model, point[0], point[1], batch)[1]


@cached(maxsize=64)
def _score_rows(model: Model, gauss_newton: bool, leave_one_out: bool) -> Callable:
    def rows(batch, point, solved):
        variables, projection, factor = point
        batch = counted(model, batch)
        margin, features = margin_features(model, variables, projection, batch)
        leverage = leverages(features, factor) if leave_one_out else 0.0
        residual = coefficients(margin, leverage, batch.weight, gauss_newton)
        return jnp.matmul(features, solved, precision="highest"), residual.astype(features.dtype)

    return rows


def _reference_scale(model: Model, checkpoint: Checkpoint) -> jax.Array:
    """From logits to the reference's units: gradients over sqrt(p), `K^-1` over its mean size."""
    size = sum(leaf.size for leaf in jax.tree.leaves(model.params(checkpoint.variables)))
    identity = jnp.eye(len(checkpoint.factor), dtype=checkpoint.factor.dtype)
    inverse = jax.scipy.linalg.cho_solve((checkpoint.factor, True), identity)
    return (checkpoint.projection.dim or 1) / size / jnp.abs(inverse).mean()
