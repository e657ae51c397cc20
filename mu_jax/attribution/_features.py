"""Projected gradients of margins, and the sums over them that TRAK needs."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mu_jax._at_once import holds
from mu_jax._tracing import cached
from mu_jax.data.batches import Batch, is_concrete
from mu_jax.data.checks import check_params
from mu_jax.evaluation.margins import margins
from mu_jax.loops.labels import counted
from mu_jax.losses import total_weight, weighted_sum, wide
from mu_jax.model import Model
from mu_jax.statistics.accumulator import (
    Accumulator,
    Statistic,
    fingerprint,
    sum_dtype,
    zero_weight,
)
from mu_jax.statistics.projections import Projection, ravel

PyTree = Any


def margin_features(
    model: Model, variables: PyTree, projection: Projection, batch: Batch
) -> tuple[jax.Array, jax.Array]:
    """Margins f[B] of a batch on its labels, and their projected gradients f[B, dim]."""
    check_classes(batch.targets)
    params, state = model.split(variables)

    def one(inputs, label):
        def margin(params):
            row = jax.tree.map(lambda x: x[None], inputs)
            return checked_margins(model.predict(params, state, row), label[None])[0]

        value, gradient = jax.value_and_grad(margin)(params)
        return value, projection.project(ravel(gradient))

    try:
        return jax.vmap(one)(batch.inputs, batch.targets)
    except NotImplementedError:  # a primitive that runs for one row at a time, such as `ragged_dot`
        return jax.lax.map(lambda row: one(*row), (batch.inputs, batch.targets))


def check_classes(labels: Any) -> None:
    if not hasattr(labels, "dtype") or labels.ndim != 1 or not _is_integer(labels):
        found = ", ".join(f"{x.dtype}{list(x.shape)}" for x in jax.tree.leaves(labels))
        raise ValueError(
            "expected one integer label per example as targets, of which margins are taken, found "
            f"{found or 'none'} in a {type(labels).__name__}: give classes [B] as targets, or an "
            "attribution that needs no labels"
        )


def _is_integer(labels: jax.Array) -> bool:
    return jnp.issubdtype(labels.dtype, jnp.integer)


def checked_margins(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Margins; NaN for a label that is not a class, which no check can see inside `jit`."""
    labels = wide(labels)
    known = (labels >= 0) & (labels < logits.shape[-1])
    return jnp.where(known, margins(logits, labels), jnp.nan)


def curvature(margin: jax.Array, gauss_newton: bool) -> jax.Array:
    """`p (1 - p)`, the second derivative of the loss in the margin; 1 without Gauss-Newton."""
    if not gauss_newton:
        return jnp.ones_like(margin)
    return jax.nn.sigmoid(margin) * jax.nn.sigmoid(-margin)


def leverages(features: jax.Array, factor: jax.Array) -> jax.Array:
    """`phi_i^T K^-1 phi_i` for features f[B, dim] and the Cholesky factor of K."""
    return jnp.square(jax.scipy.linalg.solve_triangular(factor, features.T, lower=True)).sum(0)


@dataclasses.dataclass(frozen=True)
class Gram(Statistic):
    """The matrix `sum_i w_i r_i phi_i phi_i^T` of projected margin gradients, streamed.

    Its variables are `(variables, projection)`; the mean margin comes with it, so that a margin
    that is not finite is noticed in whatever form it enters.
    """

    def init(self, variables: tuple[PyTree, Projection]) -> Accumulator:
        """The empty sum."""
        params, projection = self.params(variables), variables[1]
        check_params(params)
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        dtype = jnp.result_type(*map(sum_dtype, (x.dtype for x in jax.tree.leaves(params))))
        dim = size if projection.dim is None else projection.dim
        zeros = {"gram": jnp.zeros((dim, dim), dtype), "margin": jnp.zeros((), dtype)}
        same = fingerprint((params, jax.random.key_data(projection.key)))
        return Accumulator(zeros, zero_weight(params), same, self.definition)


@cached(maxsize=64)
def gram(model: Model, gauss_newton: bool) -> Gram:
    """The statistic `Gram` for a model; `r_i` is 1, or `p_i (1 - p_i)` with Gauss-Newton."""

    def terms(variables, batch):
        variables, projection = variables
        batch = counted(model, batch)
        margin, features = margin_features(model, variables, projection, batch)
        root = jnp.sqrt(curvature(margin, gauss_newton) * batch.weight)[:, None]
        scaled = (root * features).astype(features.dtype)
        matrix = jnp.matmul(scaled.T, scaled, precision="highest")
        return {"gram": matrix, "margin": weighted_sum(margin, batch.weight)}, total_weight(
            batch.weight
        )

    name = "Gauss-Newton matrix" if gauss_newton else "Gram matrix"
    return Gram(terms, lambda variables: model.params(variables[0]), f"{name} of margins")


def factorize(
    matrix: Accumulator, ridge: jax.Array | float, weight_decay: jax.Array | float | None
) -> jax.Array:
    """Lower Cholesky factor of `K`, the Gram matrix with its diagonal raised."""
    factor, diagonal = _factorize(matrix.sum["gram"], matrix.weight, ridge, weight_decay)
    _check_factor(factor, diagonal)
    return factor


@jax.jit
def _factorize(
    values: jax.Array,
    weight: jax.Array,
    ridge: jax.Array | float,
    weight_decay: jax.Array | float | None,
) -> tuple[jax.Array, jax.Array]:
    """The factor, and the raised diagonal."""
    diagonal = jnp.diagonal(values)
    added = ridge * diagonal.mean()
    if weight_decay is not None:
        added = added + weight.astype(values.dtype) * weight_decay
    raised = values + jnp.asarray(added, values.dtype) * jnp.eye(len(values), dtype=values.dtype)
    return jnp.linalg.cholesky(raised), jnp.diagonal(raised)


def coefficients(
    margin: jax.Array, leverage: jax.Array | float, weight: jax.Array, gauss_newton: bool
) -> jax.Array:
    """`w_i (1 - p_i) / (1 - w_i r_i h_i)`; leverage 0 leaves the denominator out."""
    denominator = 1 - weight * curvature(margin, gauss_newton) * leverage
    return weight * jax.nn.sigmoid(-margin) / denominator


def _check_factor(factor: jax.Array, diagonal: jax.Array) -> None:
    """Refuse a matrix whose pivots, what each column adds to the others, are rounding noise."""
    if not is_concrete(factor):
        return
    tolerance = 3 * len(factor) ** 0.5 * float(jnp.finfo(factor.dtype).eps)

    def sound(xp: Any, factor: Any, diagonal: Any) -> Any:
        return xp.all(xp.square(xp.diagonal(factor)) / diagonal > tolerance)

    if not holds(sound, factor, diagonal):
        raise ValueError(
            f"expected a Gram matrix that can be inverted, found a singular one of dimension "
            f"{len(factor)}: give ridge=1e-3, more weight_decay or a smaller dim"
        )
