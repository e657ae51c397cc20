"""Regression: errors by split, distances between predictions, a constant baseline, an attack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mu_jax._at_once import holds
from mu_jax.evaluation.accuracy import (
    _check_regression,
    _columns,
    _weighted_square,
    as_float,
    is_concrete,
)
from mu_jax.evaluation.membership import LossMia, loss_mia
from mu_jax.evaluation.threshold_attack import ThresholdMia, threshold_mia


class RegressionErrors(NamedTuple):
    """Result of `regression_errors`, each f32 `[...]`; closer to the retrained model is better.

    mae: mean absolute error. rmse: root of the mean squared error; both in units of the target.
    r2: coefficient of determination, averaged over outputs; NaN where the targets do not vary.
    """

    mae: jax.Array
    rmse: jax.Array
    r2: jax.Array


class PairedDistance(NamedTuple):
    """Result of `paired_distance`, each f32 `[...]`: the mean and the root mean square."""

    mean_absolute: jax.Array
    rms: jax.Array


class RegressionMia(NamedTuple):
    """Result of `regression_mia`; the target of every field is the retrained model's value."""

    logistic: LossMia
    threshold: ThresholdMia


def regression_errors(
    predictions: ArrayLike, targets: ArrayLike, weight: ArrayLike | None = None
) -> RegressionErrors:
    """Mean absolute error, root mean squared error and R2 of one split, by example means.

    With w_i the weights and d outputs, `MAE = sum_i w_i sum_k |f_ik - t_ik| / (d sum_i w_i)`,
    `RMSE = sqrt(sum_i w_i sum_k (f_ik - t_ik)^2 / (d sum_i w_i))`, and R2 as in `r2`.

    Args:
        predictions: float `[..., n]` or `[..., n, d]`; leading axes are models.
        targets: float `[n]` or `[n, d]`.
        weight: f32 `[n]`, 0 for padding; None counts every example once.

    Returns:
        `RegressionErrors`.

    Raises:
        ValueError: shapes disagree, no examples, or weights sum to 0.

    Cost:
        A few passes over the predictions.

    Differences from the published regression program:
        1. It averages the means of batches, so that a short last batch counts too much.

    Example:
        >>> mae, rmse, r2 = regression_errors([1.0, 2.0, 4.0, 1.0], [1.0, 2.0, 2.0, 3.0])
        >>> float(mae), round(float(rmse), 4), float(r2)
        (1.0, 1.4142, -3.0)
    """
    return _errors(*_check_regression(predictions, targets, weight))


@jax.jit
def _errors(predictions: jax.Array, targets: jax.Array, weight: jax.Array) -> RegressionErrors:
    found, wanted, rows = _columns(predictions, targets, weight)
    counted = jnp.where(rows > 0, rows * jnp.abs(found - wanted), 0.0)
    mean = jnp.sum(jnp.where(rows > 0, rows * wanted, 0.0), 0, keepdims=True) / jnp.sum(rows)
    total = _weighted_square(wanted - mean, rows)
    residual = _weighted_square(found - wanted, rows)
    share = residual / jnp.where(total > 0, total, jnp.nan)
    return RegressionErrors(
        mae=jnp.mean(counted.sum(-2), -1) / jnp.sum(rows),
        rmse=jnp.sqrt(jnp.mean(residual, -1) / jnp.sum(rows)),
        r2=jnp.mean(1 - share, -1),
    )


def errors_by_split(
    predictions: Mapping[str, ArrayLike],
    targets: Mapping[str, ArrayLike],
    weight: Mapping[str, ArrayLike] | None = None,
) -> dict[str, RegressionErrors]:
    """`regression_errors` of every split: retain and forget examples, of training and test.

    The splits that a regression is judged by are retain and forget examples of each of training,
    validation and test. Where labels are forgotten by their value, the retrained model errs near
    the edge of the band too: compare with it, not with the original.

    Args:
        predictions: by name of the split, as in `regression_errors`.
        targets: by the same names.
        weight: by name; splits that are left out count every example once.

    Returns:
        `RegressionErrors` by name, in the order of `predictions`.

    Raises:
        ValueError: different splits on both sides, or as `regression_errors`.

    Example:
        >>> found = errors_by_split({"retain": [1.0, 2.0], "forget": [9.0]},
        ...     {"retain": [1.0, 3.0], "forget": [5.0]})
        >>> {name: float(errors.mae) for name, errors in found.items()}
        {'retain': 0.5, 'forget': 4.0}
    """
    if set(predictions) != set(targets):
        raise ValueError(
            f"expected predictions and targets of the same splits, found {sorted(predictions)} and "
            f"{sorted(targets)}: give both for every split"
        )
    weight = weight or {}
    return {
        name: regression_errors(predictions[name], targets[name], weight.get(name))
        for name in predictions
    }


def constant_predictions(
    retain_targets: ArrayLike,
    targets: ArrayLike,
    *,
    statistic: Literal["mean", "median"] = "median",
) -> jax.Array:
    """Predictions of a model that learned one number only: a baseline row for every table.

    The median of the retained training targets has the least mean absolute error of all constants,
    their mean the least mean squared error. A model, a teacher or a retrained reference that is no
    better than this has nothing to unlearn.

    Args:
        retain_targets: float `[n_retain]` or `[n_retain, d]`, of retained *training* examples.
        targets: float `[n]` or `[n, d]` of any split; read for its shape only.
        statistic: "median" beside the mean absolute error, "mean" beside the squared one.

    Returns:
        f32 in the shape of `targets`, for `regression_errors`.

    Raises:
        ValueError: no retained targets, shapes disagree, or an unknown statistic.

    Example:
        >>> constant_predictions([1.0, 2.0, 6.0], [5.0, 7.0], statistic="mean").tolist()
        [3.0, 3.0]
    """
    retained, targets = as_float(retain_targets), as_float(targets)
    if retained.size == 0 or retained.ndim == 0 or retained.shape[1:] != targets.shape[1:]:
        raise ValueError(
            f"expected retained targets [n] or [n, d] like the others, found {retained.shape} and "
            f"{targets.shape}: give the training targets of the same outputs"
        )
    if statistic not in ("mean", "median"):
        raise ValueError(
            f'expected statistic "mean" or "median", found "{statistic}": use one of those'
        )
    value = jnp.mean(retained, 0) if statistic == "mean" else jnp.median(retained, 0)
    return jnp.broadcast_to(value, targets.shape)


def wasserstein(predictions: ArrayLike, reference: ArrayLike) -> jax.Array:
    """1-Wasserstein distance between two multisets of predictions, `integral |F_u - F_v|`.

    F are the empirical distribution functions; for equally many predictions it is
    `mean |sort(u) - sort(v)|`. Customary between the unlearned and the retrained model on the
    forget training set, under the test transform. It does not see which example got which
    prediction: report `paired_distance` beside it, and the distance of two retrained models as its
    floor. Direction: lower is better.

    Args:
        predictions: float `[n]`, finite.
        reference: float `[m]`, finite.

    Returns:
        f32 `[]`, in units of the target. Under `jax.jit` non-finite predictions give NaN.

    Raises:
        ValueError: not two vectors with entries, or non-finite ones.

    Cost:
        Sorts of n, m and n + m numbers.

    Example:
        >>> float(wasserstein([0.0, 1.0, 3.0], [8.0, 5.0, 6.0])), float(wasserstein([0, 2], [1]))
        (5.0, 1.0)

    Reference:
        Tarun, Chundawat, Mandal, Kankanhalli, "Deep Regression Unlearning", ICML 2023.
    """
    return _wasserstein(_vector(predictions), _vector(reference))


@jax.jit
def _wasserstein(predictions: jax.Array, reference: jax.Array) -> jax.Array:
    first, second = jnp.sort(predictions), jnp.sort(reference)
    every = jnp.sort(jnp.concatenate([first, second]))
    below, below_reference = (
        jnp.searchsorted(side, every[:-1], side="right").astype(every.dtype)
        for side in (first, second)
    )
    if first.size == second.size:  # a difference of counts: exactly 0 where both are the same
        apart = (below - below_reference) / first.size
    else:
        apart = below / first.size - below_reference / second.size
    return jnp.sum(jnp.abs(apart) * jnp.diff(every))


def paired_distance(predictions: ArrayLike, reference: ArrayLike) -> PairedDistance:
    """Distance to the retrained model's prediction, example by example.

    `mean_i |u_i - v_i|` and `sqrt(mean_i (u_i - v_i)^2)`, over outputs as well. It is never below
    the Wasserstein distance. Direction: lower is better; the floor is that of two retrained
    models.

    Args:
        predictions: float `[..., n]` or `[..., n, d]`; leading axes are models.
        reference: float `[n]` or `[n, d]`, of the retrained model on the same examples.

    Returns:
        `PairedDistance`, in units of the target.

    Raises:
        ValueError: shapes disagree or no examples.

    Example:
        >>> distance = paired_distance([1.0, 3.0, 2.0, 2.0], [2.0, 3.0, 2.0, 5.0])
        >>> float(distance.mean_absolute), round(float(distance.rms), 4)
        (1.0, 1.5811)
    """
    mae, rmse, _ = regression_errors(predictions, reference)
    return PairedDistance(mae, rmse)


def example_errors(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    kind: Literal["absolute", "squared"] = "absolute",
) -> jax.Array:
    """Error of every example, the score that membership attacks on a regression see.

    Args:
        predictions: float `[..., n]` or `[..., n, d]`.
        targets: float `[n]` or `[n, d]`.
        kind: "absolute" (as published) or "squared", averaged over outputs.

    Returns:
        f32 `[..., n]`.

    Raises:
        ValueError: shapes disagree, no examples, or an unknown kind.

    Example:
        >>> example_errors([1.0, 5.0], [2.0, 2.0]).tolist()
        [1.0, 3.0]
    """
    if kind not in ("absolute", "squared"):
        raise ValueError(f'expected kind "absolute" or "squared", found "{kind}": use one of those')
    found, wanted, _ = _columns(*_check_regression(predictions, targets, None))
    errors = jnp.abs(found - wanted)
    return jnp.mean(errors if kind == "absolute" else errors**2, -1)


def regression_mia(
    retain_errors: ArrayLike,
    test_errors: ArrayLike,
    forget_errors: ArrayLike,
    *,
    seed: int,
    fpr: float = 0.01,
) -> RegressionMia:
    """Membership attacks on a regression, by the error of each example.

    `loss_mia` tells forget from test examples by a logistic regression on the error;
    `threshold_mia` finds the error that best tells retained from test examples and counts the
    forget examples above it as non-members. Direction: closer to retrain.

    The test examples must be distributed like the forget ones: on a test set balanced by label the
    attacks tell the label distributions apart, and where a band of labels is forgotten, take the
    test examples of that band.

    Args:
        retain_errors: float `[n_retain]`, finite, of retained training examples; at least 10. See
            `example_errors`; no augmentation on any side.
        test_errors: float `[n_test]`, of examples that no model was trained on; at least 10, and
            1 / fpr.
        forget_errors: float `[n_forget]`, of forget *training* examples; at least 10.
        seed: of the subsample and the splits of `loss_mia`.
        fpr: false positive rate at which `threshold_mia` reports.

    Returns:
        `RegressionMia`.

    Raises:
        ValueError: as `loss_mia` and `threshold_mia`.

    Cost:
        Ten fits of two parameters and some sorts, on the host.

    Differences from the published regression program:
        1. It fits a support vector classifier, see `svc_mia`, to 2,000 random training and test
           rows, forget rows among them, and augments the former only.

    Example:
        >>> low, high = np.linspace(0.0, 1.0, 200), np.linspace(2.0, 3.0, 200)
        >>> attack = regression_mia(low, high, low, seed=0)
        >>> attack.logistic.auc, attack.threshold.nonmember_fraction
        (1.0, 0.0)

    Reference:
        Tarun, Chundawat, Mandal, Kankanhalli, "Deep Regression Unlearning", ICML 2023.
    """
    scores = (-np.asarray(errors) for errors in (retain_errors, test_errors, forget_errors))
    return RegressionMia(
        logistic=loss_mia(forget_errors, test_errors, seed=seed),
        threshold=threshold_mia(*scores, fpr=fpr),
    )


def _vector(values: ArrayLike) -> jax.Array:
    values = as_float(values)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(
            f"expected a vector of predictions, found shape {values.shape}: compare one output of "
            "one model at a time, with jax.vmap for more"
        )
    if is_concrete(values) and not holds(lambda xp, found: xp.isfinite(found).all(), values):
        raise ValueError(
            "expected finite predictions, found NaN or infinity: a model that diverged has no "
            "distance, so report it as failed"
        )
    return values
