"""TRAK: data attribution by one Newton step on random projections of margin gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mu_jax import _progress
from mu_jax._tracing import cached
from mu_jax.attribution._features import (
    check_classes,
    checked_margins,
    coefficients,
    factorize,
    gram,
    leverages,
    margin_features,
)
from mu_jax.attribution.group_effects import Directions
from mu_jax.data.batches import ids_of
from mu_jax.loops.labels import counted
from mu_jax.losses import total_weight, weighted_sum
from mu_jax.mesh.shards import summary
from mu_jax.model import Model
from mu_jax.statistics.accumulator import Accumulator, Statistic
from mu_jax.statistics.collecting import collect
from mu_jax.statistics.projections import Projection, ravel, unravel

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


def group_direction(
    store: Trak, forget: Any, *, leave_one_out: bool = False, retain_only: bool = False
) -> list[PyTree]:
    """The direction in which the forget set has moved the parameters, for each checkpoint.

    `w_F = P K^-1 sum_{i in F} (1 - p_i) phi_i`, shaped like the parameters. To first order,
    `theta - w_F` is the model without F, and `J_x w_F` the effect of F on the logits of any x. It
    needs no features: `sum_i (1 - p_i) grad f_i` is one gradient over the forget set.

    Args:
      store: from `trak`; with `weight_decay` if magnitudes matter.
      forget: the examples of the group, part of the data of `store`.
      leave_one_out: divide each term by `1 - r_i phi_i^T K^-1 phi_i`.
      retain_only: take the group out of K; what correlated groups need, for which the sum of
        single effects is far off.

    Returns:
      One tree shaped like the parameters for each checkpoint.

    Raises:
      ValueError: both options at once; a margin that is not finite; a K that is singular without
        the group.

    Cost: for each checkpoint one forward and backward pass over the forget set, two products with
    P and one triangular solve. `leave_one_out` and `retain_only` project the forget set's
    gradients as well, and `retain_only` factorizes K again.

    Example:
      >>> import jax, jax.numpy as jnp, optax, mu_jax as mu
      >>> from mu_jax import attribution
      >>> predict = lambda w, state, x: x @ w
      >>> model = mu.from_function(predict, optax.softmax_cross_entropy_with_integer_labels)
      >>> data = mu.batches(jnp.eye(4), jnp.array([0, 1, 0, 1]), batch_size=2)
      >>> variables = mu.Variables(0.1 * jnp.ones((4, 2)))
      >>> store = attribution.trak(
      ...     model, [variables], data, key=jax.random.key(0), dim=None, weight_decay=0.1)
      >>> [direction] = attribution.group_direction(store, data.take(jnp.array([2])))
      >>> attribution.group_effect(model, variables, direction, jnp.eye(4))[2].round(2)
      Array([ 0.56, -0.56], dtype=float32)
    """
    if leave_one_out and retain_only:
        raise ValueError(
            "expected leave_one_out or retain_only, found both: each takes the group out of K"
        )
    directions = []
    for point in store.checkpoints:
        factor = _factor_without(store, point, forget) if retain_only else point.factor
        statistic = _residual_gradient(store.model, store.gauss_newton, leave_one_out)
        given = point.variables, point.projection, factor
        gradient = ravel(collect(statistic, given, forget).sum)
        direction = _solve(point.projection, factor, gradient)
        directions.append(unravel(direction, store.model.params(point.variables)))
    return directions


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
    for number, variables in enumerate(_progress.each(checkpoints, "TRAK", "checkpoint")):
        _check_dim(dim, model.params(variables), data)
        projection = Projection(jax.random.fold_in(key, number), dim)
        matrix = collect(gram(model, weight_decay is not None), (variables, projection), data)
        factor = factorize(matrix, ridge, weight_decay)
        prepared.append(Checkpoint(variables, projection, matrix, factor))
    if not prepared:
        raise ValueError("expected at least one checkpoint, found none: give trained variables")
    return Trak(model, tuple(prepared), ridge, weight_decay)


@summary
def _solve(projection: Projection, factor: jax.Array, gradient: jax.Array) -> jax.Array:
    """`P K^-1 P^T gradient`."""
    solved = jax.scipy.linalg.cho_solve((factor, True), projection.project(gradient))
    return projection.lift(solved, gradient.size)


def _factor_without(store: Trak, point: Checkpoint, forget: Any) -> jax.Array:
    part = collect(
        gram(store.model, store.gauss_newton), (point.variables, point.projection), forget
    )
    return factorize(point.gram.without(part), store.ridge, store.weight_decay)


@cached(maxsize=64)
def _residual_gradient(model: Model, gauss_newton: bool, leave_one_out: bool) -> Statistic:
    """`sum_i c_i grad f_i` as the gradient of one weighted sum of margins."""

    def terms(given, batch):
        variables, projection, factor = given
        check_classes(batch.targets)
        batch = counted(model, batch)
        params, state = model.split(variables)
        leverage: jax.Array | float = 0.0
        if leave_one_out:
            features = margin_features(model, variables, projection, batch)[1]
            leverage = leverages(features, factor)

        def total(params):
            margin = checked_margins(model.predict(params, state, batch.inputs), batch.targets)
            fixed = jax.lax.stop_gradient(margin)
            scale = coefficients(fixed, leverage, batch.weight, gauss_newton)
            return weighted_sum(scale * margin, jnp.sign(batch.weight))

        return jax.grad(total)(params), total_weight(batch.weight)

    return Statistic(terms, lambda given: model.params(given[0]), "gradient of the group's margins")


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
