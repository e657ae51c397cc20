"""The score of the NeurIPS 2023 unlearning competition: attacks that know the distributions."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mu_jax._at_once import holds
from mu_jax.evaluation.accuracy import as_float, is_concrete
from mu_jax.evaluation.epsilon import DENSITY, epsilons
from mu_jax.evaluation.klom import _check_margins, halves

MIN_MODELS = 32  # below, the floor of the score is no longer near 0.2


class ForgettingQuality(NamedTuple):
    """score: mean of `points`, in [0, 1]. epsilon, points: `[n]`. models: of each kind."""

    score: jax.Array
    epsilon: jax.Array
    points: jax.Array
    models: int


def forgetting_quality(
    oracle_margins: ArrayLike, unlearned_margins: ArrayLike, *, min_models: int = MIN_MODELS
) -> ForgettingQuality:
    """Forgetting quality of the NeurIPS 2023 competition: how well rules tell two ensembles apart.

    On every forget example, a family of decision rules tells margins of unlearned from margins of
    retrained models; a rule with false positive rate a and false negative rate b shows that

        `epsilon >= max(log(1 - delta - a) - log b, log(1 - delta - b) - log a)`,  delta = 1e-5,

    and epsilon(x) is the largest such bound, in [0, 50]. The rules are "margin >= t", with 100
    thresholds per unit, and "left <= margin <= right" around the narrower sample. A rule that
    errs on one side only says that samples are too few and is left out; one that never errs, or a
    sample whose range is less than a hundredth of the other's, gives 50. An example earns
    `2^-floor(2 epsilon)` points if epsilon < ceil(log(M - 1)), else none; the score is their mean.
    Direction: higher is better, up to `forgetting_quality_floor`, not up to 1: two samples of one
    distribution have epsilon near 1.5 and a score near 0.2. Never compare values across M.

    Args:
        oracle_margins: float `[M, n]`, finite, of M models retrained without the forget set (512
            in the competition); see `margins`.
        unlearned_margins: float `[M, n]`, of M runs of the unlearner from one original model.
        min_models: the fewest models accepted.

    Returns:
        `ForgettingQuality`. Under `jax.jit` bad margins give NaN instead of an error.

    Raises:
        ValueError: fewer than `min_models` models, another number of either kind, shapes that
            disagree, non-finite margins, or an example on which all models are equal or too alike
            for a rule.

    Cost:
        Per example a sort of 2 M numbers and 401 x 2 M comparisons, whatever the range of the
        margins: thresholds between the same two samples decide alike, so each such gap counts
        once. Eight examples are worked on at a time.

    Differences from the published program:
        1. It stops with an error as soon as an example has two rules to choose from; here it runs.
        2. Its rates and single thresholds are rounded to float32; here all have the type of the
           margins. With 64-bit margins epsilon is the one of its formulas in NumPy.
        3. Models that all agree on an example raise an error that says so.

    Example:
        >>> oracle, same = jax.random.normal(jax.random.key(0), (2, 64, 16))
        >>> quality = forgetting_quality(oracle, same)
        >>> bool(0.05 < quality.score < 0.4 and 1 < quality.epsilon.mean() < 2)
        True
        >>> float(forgetting_quality(oracle, same + 20).score)
        0.0

    Reference:
        Triantafillou et al., "Are we making progress in unlearning? Findings from the first
        NeurIPS unlearning competition", 2024.
    """
    oracle, unlearned = _check_margins(oracle_margins, unlearned_margins)
    models = oracle.shape[0]
    if unlearned.shape[0] != models:
        raise ValueError(
            f"expected as many unlearned as retrained models, found {unlearned.shape[0]} and "
            f"{models}: the score depends on their number, so leave out the surplus"
        )
    if models < max(min_models, 3):
        raise ValueError(
            f"expected at least {max(min_models, 3)} models of each kind, found {models}: train "
            "more, or report KL divergences of Gaussians, which need fewer"
        )
    epsilon = epsilons(oracle, unlearned)
    if is_concrete(epsilon) and holds(lambda xp, found: xp.isnan(found).any(), epsilon):
        given = oracle_margins, unlearned_margins
        _refuse_untold(given, np.isnan(epsilon), epsilon.dtype.name)
    points = forgetting_points(epsilon, models)
    return ForgettingQuality(points.mean(), epsilon, points, models)


def _refuse_untold(given: tuple[ArrayLike, ArrayLike], untold: np.ndarray, dtype: str) -> None:
    """Say of examples without an epsilon whether all models agree, or no rule can tell them."""
    margins = np.concatenate([np.asarray(each, np.float64) for each in given])[:, untold]
    spread = np.ptp(margins, axis=0)
    equal = int((spread == 0).sum())
    if equal:
        raise ValueError(
            "expected margins that differ between models, found one value for all of them on "
            f"{equal} examples: leave those out, or the repeated models"
        )
    raise ValueError(
        f"expected margins that a rule tells apart, found none that does so in {dtype} on "
        f"{spread.size} examples, whose margins differ by at most {spread.max():.1e} where "
        f"thresholds are {1 / DENSITY:g} apart: leave those examples out"
    )


def forgetting_points(epsilon: ArrayLike, models: int) -> jax.Array:
    """Points of each example, `2^-floor(2 epsilon)`; none from epsilon = ceil(log(M - 1)) on.

    Args:
        epsilon: float `[...]`, at least 0.
        models: M, the number of models of each kind, at least 3.

    Returns:
        f32 `[...]` in [0, 1]; NaN where epsilon is.

    Example:
        >>> forgetting_points([0.0, 0.5, 1.49, 6.9, 7.0], models=512).tolist()
        [1.0, 0.5, 0.25, 0.0001220703125, 0.0]
    """
    return _points(as_float(epsilon), models)


@functools.partial(jax.jit, static_argnums=1)
def _points(epsilon: jax.Array, models: int) -> jax.Array:
    buckets = jnp.floor(2 * epsilon)  # half a unit wide
    points = jnp.ldexp(jnp.ones_like(epsilon), -buckets.astype(jnp.int32))
    points = jnp.where(epsilon >= np.ceil(np.log(models - 1)), 0.0, points)
    return jnp.where(jnp.isnan(epsilon), jnp.nan, points)


def forgetting_quality_floor(
    oracle_margins: ArrayLike, key: jax.Array, *, min_models: int = MIN_MODELS
) -> ForgettingQuality:
    """Quality of one random half of the oracles against the other, as of a perfect unlearner.

    Args:
        oracle_margins: float `[M, n]`, finite, M >= 2 `min_models`.
        key: random key of the split; an odd model is left out.
        min_models: the fewest models accepted on each side.

    Returns:
        `ForgettingQuality` of M // 2 models against M // 2; compare with it only values of as
        many models.

    Raises:
        ValueError: too few oracles, or as `forgetting_quality`.

    Cost:
        As `forgetting_quality`.

    Example:
        >>> oracle = jax.random.normal(jax.random.key(0), (128, 16))
        >>> floor = forgetting_quality_floor(oracle, jax.random.key(1))
        >>> floor.models, bool(0.05 < floor.score < 0.4)
        (64, True)
    """
    oracle_margins = as_float(oracle_margins)
    if oracle_margins.ndim != 2 or oracle_margins.shape[0] < 2 * min_models:
        raise ValueError(
            f"expected margins [models, examples] of at least {2 * min_models} oracles, found "
            f"shape {oracle_margins.shape}: retrain more models to know the floor"
        )
    return forgetting_quality(*halves(oracle_margins, key), min_models=min_models)


def competition_score(
    quality: ArrayLike,
    *,
    retain_accuracy: ArrayLike,
    oracle_retain_accuracy: ArrayLike,
    test_accuracy: ArrayLike,
    oracle_test_accuracy: ArrayLike,
) -> jax.Array:
    """Final score: forgetting quality times relative utility on retained and on test examples.

    `F * mean(RA unlearned) / mean(RA oracle) * mean(TA unlearned) / mean(TA oracle)`. In the
    competition a run beyond the time limit was not scored at all. Direction: higher is better.

    Args:
        quality: F, the score of `forgetting_quality`.
        retain_accuracy: fractions `[M]` on the retain set, of the unlearned models.
        oracle_retain_accuracy: fractions `[M]`, of the retrained models.
        test_accuracy: fractions `[M]` on the test set, of the unlearned models.
        oracle_test_accuracy: fractions `[M]`, of the retrained models.

    Returns:
        f32 scalar; it may exceed F where the unlearned models are more accurate than the oracles.

    Raises:
        ValueError: fractions outside [0, 1] or NaN, none, or oracles without any correct answer.

    Example:
        >>> accuracy = dict(retain_accuracy=[0.9, 0.9], test_accuracy=[0.4, 0.6])
        >>> oracle = dict(oracle_retain_accuracy=[1.0, 0.8], oracle_test_accuracy=[1.0])
        >>> round(float(competition_score(0.2, **accuracy, **oracle)), 6)
        0.1
    """
    retain = _mean_fraction(retain_accuracy) / _mean_fraction(oracle_retain_accuracy, oracle=True)
    test = _mean_fraction(test_accuracy) / _mean_fraction(oracle_test_accuracy, oracle=True)
    return as_float(quality) * retain * test


def _mean_fraction(values: ArrayLike, oracle: bool = False) -> jax.Array:
    values = as_float(values)
    if values.size == 0:
        raise ValueError("expected accuracies, found none: pass those of every model")
    if is_concrete(values) and not holds(lambda xp, v: xp.all((v >= 0) & (v <= 1)), values):
        raise ValueError(
            f"expected accuracies in [0, 1], found {float(values.min())} to {float(values.max())}: "
            "divide percentages by 100, and leave out models that failed"
        )
    mean = values.mean()
    if oracle and is_concrete(mean) and not bool(mean > 0):
        raise ValueError("expected oracles that are right at times, found accuracy 0: check them")
    return mean
