"""Scores of single training examples: how hard they are, and how much a model memorizes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mu_jax import _progress
from mu_jax._tracing import cached
from mu_jax.attribution.datamodels import check_ensemble
from mu_jax.data.batches import Batch, is_concrete
from mu_jax.evaluation.accuracy import check_classification
from mu_jax.loops.predict import map_rows, unweighted
from mu_jax.model import Model
from mu_jax.statistics._engine.per_example import squared_norms

PyTree = Any


def grand(model: Model, checkpoints: Iterable[PyTree], data: Any) -> jax.Array:
    """GraNd: the norm of each example's loss gradient, f[n], averaged over trained models.

    `|grad_theta l_i(theta)|_2`, inference mode. Take checkpoints of an *early epoch*, from several
    trainings: there is no default, as a network at initialization, which was first said to do,
    does not rank examples.

    Args:
      model: the model with its loss.
      checkpoints: variables of one or more models.
      data: `Batches` or a `Stream`.

    Raises:
      ValueError: no checkpoints, or a gradient that is not finite.

    Cost: one forward and backward pass per example and checkpoint; dense layers and convolutions
    without per-example gradients (`mu_jax.statistics._engine.per_example`).

    Reference:
      M. Paul, S. Ganguli, G. K. Dziugaite. Deep Learning on a Data Diet: Finding Important
      Examples Early in Training. NeurIPS 2021.

    Example:
      >>> import jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, optax.squared_error)
      >>> data = mu.batches(2 * jnp.eye(2), jnp.array([1.0, 3.0]), batch_size=2)
      >>> grand(model, [mu.Variables(jnp.zeros(2))], data)
      Array([ 4., 12.], dtype=float32)
    """
    function, data = _gradient_norms(model), unweighted(data)
    every = _progress.each(checkpoints, "gradient norms", "checkpoint")
    norms = [map_rows(function, data, variables) for variables in every]
    if not norms:
        raise ValueError("expected at least one checkpoint, found none: give trained variables")
    mean = sum(norms) / len(norms)
    if is_concrete(mean) and not bool(jnp.isfinite(mean).all()):
        raise ValueError(
            f"expected finite gradients, found {int((~jnp.isfinite(mean)).sum())} examples with "
            "NaN or infinity: check inputs, targets and parameters"
        )
    return mean


@cached(maxsize=64)
def _gradient_norms(model: Model) -> Callable:
    def rows(batch: Batch, variables: PyTree) -> jax.Array:
        params, state = model.split(variables)

        def losses(params, batch):
            return model.per_example(model.for_loss(params, state, batch.inputs), batch)

        return jnp.sqrt(squared_norms(losses, params, batch))

    return rows


def el2n(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    """EL2N: the length of each example's error vector, f[n] in [0, sqrt(2)].

    `|softmax(z_i) - onehot(y_i)|_2`, averaged over models of an early epoch.

    Args:
      logits: f[n, K], or f[R, n, K] of R models.
      labels: int[n].

    Cost: one pass over the logits.

    Reference:
      M. Paul, S. Ganguli, G. K. Dziugaite. Deep Learning on a Data Diet: Finding Important
      Examples Early in Training. NeurIPS 2021.

    Example:
      >>> el2n([[100.0, 0.0], [100.0, 0.0]], [0, 1]).round(4)
      Array([0.    , 1.4142], dtype=float32)
    """
    logits, labels = check_classification(logits, labels)
    return _error_lengths(logits, labels)


@jax.jit
def _error_lengths(logits: jax.Array, labels: jax.Array) -> jax.Array:
    errors = jax.nn.softmax(logits) - jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    lengths = jnp.linalg.norm(errors, axis=-1)
    return lengths.reshape(-1, labels.size).mean(0)


def memorization(masks: ArrayLike, correct: ArrayLike) -> jax.Array:
    """How much more often an example is classified correctly if it was trained on, f[n].

    `P[correct on i | i in the subset] - P[correct on i | i not in it]`, over models trained on
    random subsets; the diagonal of `difference_of_means(masks, correct)`.

    Args:
      masks: bool[M, n], which examples each model was trained on.
      correct: bool[M, n], which it classifies correctly; floats, such as probabilities or margins
        of the label, give the same for their means.

    Raises:
      ValueError: shapes that differ, an example that is in every or in no subset.

    Reference:
      V. Feldman, C. Zhang. What Neural Networks Memorize and Why: Discovering the Long Tail via
      Influence Estimation. NeurIPS 2020.

    Example:
      >>> masks = [[True, False], [False, True]]
      >>> memorization(masks, [[1, 1], [0, 1]])
      Array([1., 0.], dtype=float32)
    """
    if np.shape(masks) != np.shape(correct):
        raise ValueError(
            f"expected masks and correct of one shape [models, examples], found {np.shape(masks)} "
            f"and {np.shape(correct)}: give one row for each model"
        )
    inside, correct = check_ensemble(masks, correct)
    mean_inside = (inside * correct).sum(0) / inside.sum(0)
    return mean_inside - ((1 - inside) * correct).sum(0) / (1 - inside).sum(0)


def forgetting_events(correct: ArrayLike) -> jax.Array:
    """How often training unlearned each example: transitions from correct to wrong, f32[n].

    Args:
      correct: bool[T, n], whether example i was classified correctly at time t, T >= 2.

    Returns:
      The number of transitions; infinity for an example that was never correct.

    Reference:
      M. Toneva, A. Sordoni, R. Tachet des Combes, A. Trischler, Y. Bengio, G. J. Gordon. An
      Empirical Study of Example Forgetting during Deep Neural Network Learning. ICLR 2019.

    Example:
      >>> forgetting_events([[True, False, True], [False, False, True], [True, False, True]])
      Array([ 1., inf,  0.], dtype=float32)
    """
    correct = jnp.asarray(correct, bool)
    if correct.ndim != 2 or len(correct) < 2:
        raise ValueError(
            f"expected correct [T, n] with at least 2 times, found {correct.shape}: record every "
            "example at several times of the training"
        )
    lost = (correct[:-1] & ~correct[1:]).sum(0)
    return jnp.where(correct.any(0), lost.astype(jnp.float32), jnp.inf)
