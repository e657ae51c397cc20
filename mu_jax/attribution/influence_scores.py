"""Influence scores: the effect of every training example on every target, by EK-FAC."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from mu_jax import _progress
from mu_jax._tracing import cached
from mu_jax.attribution._features import check_classes, checked_margins
from mu_jax.data.batches import Batch, Batches
from mu_jax.loops.labels import counted
from mu_jax.loops.predict import map_rows, unweighted
from mu_jax.mesh.shards import summary
from mu_jax.model import Model
from mu_jax.statistics._engine.per_example import map_gradients
from mu_jax.statistics.curvature import KroneckerFactors, KroneckerInverse

PyTree = Any
Measure = Literal["loss", "margin"]


def influence_scores(
    model: Model,
    variables: PyTree,
    factors: KroneckerFactors,
    data: Any,
    targets: Batches,
    *,
    damping: jax.Array | float | None = None,
    of: Measure = "loss",
) -> jax.Array:
    """Influence of including each training example on each target, f[n, T], as of `trak_scores`.

    With the loss gradient `g_i` of example i, the gradient `h_q` of the loss, or of minus the
    margin, of target q, and the curvature C of the mean loss by K-FAC or EK-FAC,

        score_iq = w_i h_q^T (C + damping I)^-1 g_i

    Divided by `factors.factors.weight`, the total weight, it is the change to first order: how much
    the loss of q rises, or its margin falls, when i is left out.

    Args:
      model, variables: the trained model.
      factors: from `mu.statistics.curvature.kronecker_factors` over the training set.
      data: the training examples to score, `Batches` or a `Stream`.
      targets: the examples whose loss or margin is explained, as `Batches`; one batch of them is
        scored at a time.
      damping: absolute; default a tenth of the mean eigenvalue of each block, as for
        `KroneckerFactors.inverse`.
      of: "loss" (default), or "margin", `log(p / (1 - p))` of the label, as of TRAK.

    Returns:
      Scores, row i for example i of `data`; positive where the example helps the target, so that it
      lowers its loss or raises its margin.

    Raises:
      ValueError: factors of other variables, an unknown measure, targets that are no `Batches`, a
        negative damping.

    Cost: one forward and backward pass for each target, and one for each training example and each
    batch of targets, with a product of its gradient with those of the batch. Memory: the scores and
    the gradients of one batch of targets and one chunk of examples; there is no table of the
    gradients of all examples.

    Differences from `pomonam/kronfluence`: damping unset is a tenth of the mean eigenvalue in place
    of 1e-8. The scores are not divided by the number of examples in either.

    References:
      R. Grosse et al. Studying Large Language Model Generalization with Influence Functions. 2023
      (arXiv 2308.03296). P. W. Koh, P. Liang. Understanding Black-box Predictions via Influence
      Functions. ICML 2017.

    Example:
      >>> import jax.numpy as jnp, mu_jax as mu
      >>> from mu_jax.statistics.curvature import kronecker_factors
      >>> model = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
      >>> data = mu.batches(jnp.eye(2), jnp.array([[1.0], [2.0]]), batch_size=2)
      >>> variables = mu.Variables(jnp.zeros((2, 1)))  # gradients (-2, 0) and (0, -4), C the unit
      >>> factors = kronecker_factors(model, variables, data)
      >>> influence_scores(model, variables, factors, data, data, damping=1.0).round(3).tolist()
      [[2.0, 0.0], [0.0, 8.0]]
    """
    known = get_args(Measure)
    if of not in known:
        raise ValueError(f"expected a measure among {', '.join(known)}, found {of!r}: choose one")
    if not isinstance(targets, Batches):
        raise ValueError(
            f"expected targets as Batches, found {type(targets).__name__}: make them with "
            "mu.batches, so that a batch of them can be scored at a time"
        )
    factors.check(model.params(variables))
    if of == "margin":
        check_classes(targets.targets)
    inverse = factors.inverse(damping)
    columns = []
    starts = range(0, targets.num_examples, targets.batch_size)
    for start in _progress.each(starts, "influence on targets", "batch"):
        rows = jnp.arange(start, min(start + targets.batch_size, targets.num_examples))
        found = map_rows(_target_rows(model, of), unweighted(targets.take(rows)), variables)
        columns.append(map_rows(_score_rows(model), data, variables, _solved(inverse, found)))
    return jnp.concatenate(columns, axis=1)


@summary
def _solved(inverse: KroneckerInverse, gradients: PyTree) -> PyTree:
    """The inverse times each of several gradients."""
    return jax.vmap(inverse)(gradients)


@cached(maxsize=64)
def _target_rows(model: Model, of: Measure) -> Callable:
    def rows(batch: Batch, variables: PyTree) -> PyTree:
        params, state = model.split(variables)

        def values(params, batch):
            if of == "loss":
                return _losses(model, params, state, batch)
            return -checked_margins(model.predict(params, state, batch.inputs), batch.targets)

        return map_gradients(lambda gradients: gradients, values, params, batch)

    return rows


@cached(maxsize=64)
def _score_rows(model: Model) -> Callable:
    def rows(batch: Batch, variables: PyTree, solved: PyTree) -> jax.Array:
        batch = counted(model, batch)
        params, state = model.split(variables)

        def products(gradients):
            return sum(map(_products, *map(jax.tree.leaves, (gradients, solved))))

        def losses(params, batch):
            return _losses(model, params, state, batch)

        scores = map_gradients(products, losses, params, batch)
        weight = batch.weight[:, None]
        return jnp.where(weight != 0, weight * scores, 0).astype(scores.dtype)

    return rows


def _losses(model: Model, params: PyTree, state: PyTree, batch: Batch) -> jax.Array:
    return model.per_example(model.for_loss(params, state, batch.inputs), batch)


def _products(gradients: jax.Array, solved: jax.Array) -> jax.Array:
    """Inner products of the gradients of some examples and the solutions of some targets."""
    flat = (x.reshape(len(x), -1) for x in (gradients, solved))
    return jnp.matmul(next(flat), next(flat).T, precision="highest")
