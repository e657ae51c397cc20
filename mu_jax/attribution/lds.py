"""The linear datamodeling score: does an attribution rank the effects of whole subsets?"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import rankdata
from jax.typing import ArrayLike

from mu_jax._at_once import as_array, holds
from mu_jax.data.batches import is_concrete


class LDS(NamedTuple):
    """A linear datamodeling score.

    Attributes:
      mean: f[], the score: mean of `by_target`.
      low, high: f[], bounds of the bootstrap interval of the mean.
      by_target: f[T], rank correlation of each target.
    """

    mean: jax.Array
    low: jax.Array
    high: jax.Array
    by_target: jax.Array


def lds(
    scores: ArrayLike,
    masks: ArrayLike,
    outputs: ArrayLike,
    *,
    key: jax.Array,
    num_resamples: int = 200,
    level: float = 0.95,
) -> LDS:
    """Linear datamodeling score with an interval over targets *and* subsets.

    The output of a target under subset j is predicted as `sum_{i in S_j} tau_i`; the score of a
    target is Spearman's correlation over the subsets between prediction and truth, and the LDS its
    mean over targets. Ties get their mean rank.

    Only ranks count: the score says nothing about magnitudes, and a constant added to tau cancels
    for subsets of one size. Noise of training caps it, so average several models per subset; it
    depends on the size of the subsets and on the targets, so state both.

    Subsets that are drawn twice are ties, which lower the correlation, so that the interval is the
    basic one, `[2 mean - q_high, 2 mean - q_low]` with the quantiles of the bootstrap. Coverage of
    the 95 % interval, simulated with 30 and 100 subsets and 8 and 100 targets: 95 to 100 % at
    scores of 0.6 and 0.98, where the quantiles themselves cover 70 to 100 %.

    Args:
      scores: f[n, T], effect of including each training example on each target, averaged over
        checkpoints *before* this call.
      masks: bool[s, n], the subsets, s >= 3.
      outputs: f[s, T], each target's output averaged over the models of each subset.
      key: typed key of the bootstrap, which resamples targets and subsets together.
      num_resamples: of the bootstrap.
      level: of the interval.

    Returns:
      An `LDS`.

    Raises:
      ValueError: shapes that do not fit, too few subsets, values that are not finite, a target
        whose prediction or output is the same for all subsets.

    Cost: `2 s n T` operations; the bootstrap sorts `s T` numbers `num_resamples` times.

    Reference:
      S. M. Park, K. Georgiev, A. Ilyas, G. Leclerc, A. Madry. TRAK: Attributing Model Behavior at
      Scale. ICML 2023.
      A. C. Davison, D. V. Hinkley. Bootstrap Methods and their Application, section 5.2. 1997.

    Example:
      >>> masks = jnp.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]], bool)
      >>> scores = jnp.array([[1.0], [2.0], [4.0]])
      >>> outputs = jnp.array([[1.0], [2.0], [3.0], [4.0]])
      >>> round(float(lds(scores, masks, outputs, key=jax.random.key(0)).mean), 4)
      0.8
    """
    scores, masks, outputs = (as_array(x) for x in (scores, masks, outputs))
    _check_shapes(scores, masks, outputs)
    dtype = jnp.promote_types(scores.dtype, jnp.float32)
    masks = masks.astype(dtype)
    predicted = jnp.matmul(masks, scores.astype(dtype), precision="highest")
    _check_spread(predicted, outputs)
    by_target = spearman(predicted, outputs)
    means = _bootstrap(predicted, outputs, jax.random.split(key, num_resamples))
    mean = by_target.mean()
    above, below = jnp.nanquantile(means, jnp.array([(1 - level) / 2, (1 + level) / 2]))
    low, high = 2 * mean - below, 2 * mean - above
    return LDS(mean, jnp.maximum(low, -1), jnp.minimum(high, 1), by_target)


@jax.jit
def _bootstrap(predicted: jax.Array, outputs: jax.Array, keys: jax.Array) -> jax.Array:
    """The mean correlation of resampled targets over resampled subsets, for each key."""
    subsets, targets = outputs.shape

    def resample(key: jax.Array) -> jax.Array:
        subset_key, target_key = jax.random.split(key)
        rows = jax.random.choice(subset_key, subsets, (subsets,))
        columns = jax.random.choice(target_key, targets, (targets,))
        # A draw in which all subsets agree has no correlation, and does not count.
        return jnp.nanmean(spearman(predicted[rows], outputs[rows])[columns])

    return jax.lax.map(resample, keys)


def spearman(a: ArrayLike, b: ArrayLike) -> jax.Array:
    """Spearman's rank correlation along the first axis, f[...]; NaN for a constant column.

    Example:
      >>> spearman(jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 8.0, 27.0])).round(4)
      Array(1., dtype=float32)
    """
    return _spearman(as_array(a), as_array(b))


@jax.jit
def _spearman(a: jax.Array, b: jax.Array) -> jax.Array:
    ranks = [rankdata(x, method="average", axis=0) for x in (a, b)]
    x, y = (rank - rank.mean(0) for rank in ranks)
    spread = jnp.sqrt(jnp.square(x).sum(0) * jnp.square(y).sum(0))
    return jnp.where(spread > 0, (x * y).sum(0) / jnp.where(spread > 0, spread, 1), jnp.nan)


def _check_shapes(scores: jax.Array, masks: jax.Array, outputs: jax.Array) -> None:
    fits = scores.ndim == masks.ndim == outputs.ndim == 2
    if (
        not fits
        or (len(masks), len(scores)) != masks.shape
        or outputs.shape
        != (
            len(masks),
            scores.shape[1],
        )
    ):
        raise ValueError(
            f"expected scores [n, T], masks [s, n] and outputs [s, T], found {scores.shape}, "
            f"{masks.shape} and {outputs.shape}: give one column of scores and outputs per target"
        )
    if len(masks) < 3:
        raise ValueError(
            f"expected at least 3 subsets to rank, found {len(masks)}: train models on more subsets"
        )


def _check_spread(predicted: jax.Array, outputs: jax.Array) -> None:
    if not (is_concrete(predicted) and is_concrete(outputs)):
        return
    for name, values in (("predictions", predicted), ("outputs", outputs)):
        if not holds(lambda xp, found: xp.isfinite(found).all(), values):
            raise ValueError(
                f"expected finite {name}, found NaN or infinity: check scores and models"
            )
        constant = np.max(values, 0) == np.min(values, 0)
        if constant.any():
            raise ValueError(
                f"expected {name} that differ between subsets, found {int(constant.sum())} "
                f"targets for which they do not (first: {int(np.argmax(constant))}): leave these "
                "targets out"
            )
