"""TRAK: data attribution by one Newton step on random projections of margin gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mu_jax.attribution._features import (
    coefficients,
    factorise,
    gram,
    leverages,
    margin_features,
)
from mu_jax.attribution.directions import Directions
from mu_jax.attribution.groups import group_direction
from mu_jax.data import ids_of
from mu_jax.mapping import map_rows
from mu_jax.model import Model
from mu_jax.statistics.accumulator import Accumulator
from mu_jax.statistics.collecting import collect
from mu_jax.statistics.projections import Projection
from mu_jax.tracing import cached

PyTree = Any


class Checkpoint(NamedTuple):
    """What TRAK knows of one trained model.

    Attributes:
      variables: the model's arrays.
      projection: its random projection.
      gram: the streamed Gram matrix; `.sum["gram"]` is f[dim, dim], `.value["margin"]` the mean
        margin.
      factor: lower Cholesky factor of `K`, the Gram matrix with what is added to its diagonal.
    """

    variables: PyTree
    projection: Projection
    gram: Accumulator
    factor: jax.Array

    @property
    def condition(self) -> jax.Array:
        """A lower bound of the condition number of `K`."""
        pivots = jnp.square(jnp.diagonal(self.factor))
        return pivots.max() / pivots.min()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trak:
    """Attribution by TRAK: a matrix per checkpoint; no features and no scores are kept.

    Use it in `trak_scores`, or for a whole group of examples in `group_direction` and `effect`.

    Attributes:
      model: the classifier.
      checkpoints: one `Checkpoint` for each trained model.
      ridge: what is added to the diagonal, relative to its mean.
      weight_decay: of the training loss; None means the plain Gram matrix.
    """

    model: Model = dataclasses.field(metadata={"static": True})
    checkpoints: tuple[Checkpoint, ...]
    ridge: jax.Array | float
    weight_decay: jax.Array | float | None

    @property
    def gauss_newton(self) -> bool:
        """Whether margins are weighted by the curvature of the loss."""
        return self.weight_decay is not None

    def directions(self, forget: Any, **options: bool) -> Directions:
        """What one request needs: a direction for each checkpoint; see `group_direction`."""
        variables = tuple(checkpoint.variables for checkpoint in self.checkpoints)
        found = tuple(group_direction(self, forget, **options))
        return Directions(self.model, variables, found, ids_of(forget))

    def effect(self, forget: Any, data: Any, **options: bool) -> jax.Array:
        """How much the forget set raises every logit of `data`, f[n, K]: mean over checkpoints.

        The logits of a model trained without it are predicted as `logits - effect`. See
        `group_direction` for the options and the cost; `directions` where it is asked for often.
        """
        return self.directions(forget, **options).effect(forget, data)


def trak(
    model: Model,
    checkpoints: Iterable[PyTree],
    data: Any,
    *,
    key: jax.Array,
    dim: int | None = 2048,
    weight_decay: jax.Array | float | None = None,
    ridge: jax.Array | float | None = None,
) -> Trak:
    """Prepare TRAK: for each checkpoint the Gram matrix of projected margin gradients.

    With the margin `f_i` of example i on its label, `p_i = sigmoid(f_i)` and
    `phi_i = P^T grad f_i`, the effect of including i on an output with projected gradient `psi` is

        tau_i = psi^T K^-1 phi_i (1 - p_i),    K = sum_j r_j phi_j phi_j^T + d I.

    | form | call | r_j | d |
    |---|---|---|---|
    | TRAK: ranks examples | default | 1 | `ridge` x mean of the diagonal |
    | Gauss-Newton: predicts changes | `weight_decay=wd` | `p_j (1 - p_j)` | `n wd` |

    Args:
      model: a classifier with logits [B, K]; inference mode.
      checkpoints: variables of one or more trained models; independent trainings are best, and a
        few rank examples poorly.
      data: the training set, `Batches` or an iterable of `Batch`; integer labels as targets. One
        batch is one chunk of per-example gradients.
      key: typed key of the projections; checkpoint m takes `fold_in(key, m)`.
      dim: columns of the projection, at most the number of examples; None projects nothing, and
        then K is p x p.
      weight_decay: coefficient wd of `wd/2 |theta|^2` beside the *mean* loss in training. Effects
        approach those without projection as `dim` grows; `attribution.multiplier` corrects the
        rest.
      ridge: added to the diagonal of K, relative to its mean; default 1e-3, or 0 with
        `weight_decay`.

    Returns:
      A `Trak`.

    Raises:
      ValueError: no checkpoints; `dim` larger than the number of examples or not smaller than that
        of parameters; a margin that is not finite or a label that is no class; a K that is
        singular.

    Cost: for each checkpoint one forward and backward pass per example and `2 n p dim` operations.
    Memory: `4 B p` bytes for a batch of B gradients, one tile of the projection, and `4 dim^2`.

    Differences from the reference program (`MadryLab/trak`):
      1. Entries of P are +-1/sqrt(dim), and gradients are not divided by sqrt(p): scores come in
         units of logits. `trak_scores(..., reference_scaling=True)` gives the program's units.
      2. A relative ridge and a Cholesky solve; the program inverts K as it is.
      3. Float32 sums; the program computes in float16.

    Reference:
      S. M. Park, K. Georgiev, A. Ilyas, G. Leclerc, A. Madry. TRAK: Attributing Model Behavior at
      Scale. ICML 2023.

    Example:
      >>> import jax, jax.numpy as jnp, optax, mu_jax as mu
      >>> from mu_jax import attribution
      >>> predict = lambda w, state, x: x @ w
      >>> model = mu.from_function(predict, optax.softmax_cross_entropy_with_integer_labels)
      >>> data = mu.batches(jnp.eye(4), jnp.array([0, 1, 0, 1]), batch_size=2)
      >>> checkpoints = [mu.Variables(0.1 * jnp.ones((4, 2)))]
      >>> store = attribution.trak(model, checkpoints, data, key=jax.random.key(0), dim=None)
      >>> scores = attribution.trak_scores(store, data, data)
      >>> scores.shape, bool(scores[0, 0] > abs(scores[0, 1]))
      ((4, 4), True)
    """
    ridge = (1e-3 if weight_decay is None else 0.0) if ridge is None else ridge
    prepared = []
    for number, variables in enumerate(checkpoints):
        _check_dim(dim, model.params(variables), data)
        projection = Projection(jax.random.fold_in(key, number), dim)
        matrix = collect(gram(model, weight_decay is not None), (variables, projection), data)
        factor = factorise(matrix, ridge, weight_decay)
        prepared.append(Checkpoint(variables, projection, matrix, factor))
    if not prepared:
        raise ValueError("expected at least one checkpoint, found none: give trained variables")
    return Trak(model, tuple(prepared), ridge, weight_decay)


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
    for checkpoint in store.checkpoints:
        point = checkpoint.variables, checkpoint.projection, checkpoint.factor
        psi = map_rows(_feature_rows(store.model), targets, point)
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


def _check_dim(dim: int | None, params: PyTree, data: Any) -> None:
    if dim is None:
        return
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    limit = min(size - 1, getattr(data, "num_examples", size))
    if not 1 <= dim <= limit:
        raise ValueError(
            f"expected dim from 1 to {limit}, at most the number of examples and less than the "
            f"{size} parameters, found {dim}: give a smaller dim, or None to project nothing"
        )
