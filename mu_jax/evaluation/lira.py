"""LiRA: whether an example was trained on, by the margins of shadow models with and without it."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from jax.typing import ArrayLike

Fit = Literal["median", "moments", "quantiles"]


class Normals(NamedTuple):
    """A normal distribution for every example: arrays of one shape."""

    center: np.ndarray
    std: np.ndarray

    def standardize(self, values: np.ndarray) -> np.ndarray:
        """Distances from the center in standard deviations."""
        return (values - self.center) / self.std

    def log_density(self, values: np.ndarray) -> np.ndarray:
        """Logarithm of the density, less the constant log(2 pi) / 2."""
        return -np.log(self.std) - self.standardize(values) ** 2 / 2


def fit_normals(
    margins: np.ndarray, chosen: np.ndarray, *, fit: Fit, pooled_variance: bool = False
) -> Normals:
    """Fits a normal distribution to the chosen models' margins of every example.

    Args:
        margins: f64 `[S, ...]`.
        chosen: bool, broadcasts to the margins' shape; at least one model per example.
        fit: "moments" takes mean and standard deviation (of the sample, divided by its size),
            "median" the median and that standard deviation, "quantiles" the median and the
            interquartile range over 1.349, which a few diverged models do not move.
        pooled_variance: one variance for all examples, `sum_j (n_j - 1) s_j^2 / sum_j (n_j - 1)`
            with s_j^2 the unbiased variance *within* example j.

    Returns:
        `Normals`, arrays of shape `margins.shape[1:]`.

    Raises:
        ValueError: an unknown fit, or an example on which all chosen models agree.
    """
    if fit not in ("median", "moments", "quantiles"):
        raise ValueError(
            f'expected fit "median", "moments" or "quantiles", found "{fit}": use one of those'
        )
    chosen = np.broadcast_to(chosen, margins.shape)
    count = chosen.sum(0)
    mean = np.where(chosen, margins, 0).sum(0) / count
    if fit != "moments":
        ascending = np.sort(np.where(chosen, margins, np.inf), 0)
        center = _quantile(ascending, count, 0.5)
    else:
        center = mean
    if fit == "quantiles":
        spread = _quantile(ascending, count, 0.75) - _quantile(ascending, count, 0.25)
        variance = (spread / 1.3489795003921634) ** 2
    else:
        variance = np.where(chosen, (margins - mean) ** 2, 0).sum(0) / count
    if pooled_variance:
        unbiased = variance if fit == "quantiles" else variance * count / (count - 1)
        axes = tuple(range(count.ndim))
        variance = np.broadcast_to(np.average(unbiased, axes, count - 1), variance.shape)
    if not (variance > 0).all():
        raise ValueError(
            "expected margins that differ between shadow models, found one value for all of them "
            f"on {int((variance <= 0).sum())} of {variance.size} examples: check for repeated or "
            "collapsed models, or pool the variance"
        )
    return Normals(center, np.sqrt(variance))


def _quantile(ascending: np.ndarray, count: np.ndarray, q: float) -> np.ndarray:
    """Linearly interpolated quantile of the first `count` rows of each sorted column."""
    position = q * (count - 1)
    below = np.floor(position).astype(int)
    above = np.minimum(below + 1, count - 1)
    low, high = (np.take_along_axis(ascending, row[None], 0)[0] for row in (below, above))
    return low + (position - below) * (high - low)


def lira(
    target_margins: ArrayLike,
    shadow_margins: ArrayLike,
    trained: ArrayLike,
    *,
    fit: Fit = "median",
    pooled_variance: bool = False,
    min_shadows: int | None = None,
) -> np.ndarray:
    """Likelihood-ratio attack, online: log of the odds that the target was trained on an example.

    `log N(m; in) - log N(m; out)`, with one normal distribution per example fitted to the margins
    of the shadow models that were trained on it and one to those that were not. Direction: higher
    means member; `attack_summary` of the members' and the non-members' scores has AUC and true
    positive rates together with what chance would give.

    Args:
        target_margins: float `[..., n]`, finite, of the attacked models; see `margins`.
        shadow_margins: float `[S, n]`, finite, of models each trained on a random half of the
            data; the target must not be among them. With a further axis for augmentations of an
            example, here and in the target, scores are averaged over it.
        trained: bool `[S, n]`, whether a shadow model was trained on an example.
        fit: as `fit_normals`; "median" is the published program's.
        pooled_variance: one variance per side for all examples, for few shadow models.
        min_shadows: fewest shadow models on each side of every example; None asks for 32, or for
            8 with a pooled variance.

    Returns:
        f64 `[..., n]`.

    Raises:
        ValueError: shapes disagree, non-finite margins, too few shadow models on a side, or
            shadow models that all agree on an example.

    Cost:
        On the host, one sort of the shadow margins per side.

    Differences from the published program:
        1. With a pooled variance it takes that of the members for both sides, and lets the
           differences *between* examples in; here each side has the variance within examples.
        2. Every example uses all of its shadow models; there all use as many as the rarest.
        3. The score has the other sign: there lower means member.

    Example:
        >>> random = np.random.default_rng(0)
        >>> trained = random.random((129, 500)) < 0.5
        >>> margins = random.normal(size=(129, 500)) + 2.0 * trained
        >>> scores = lira(margins[0], margins[1:], trained[1:])
        >>> bool(scores[trained[0]].mean() > 1 > -1 > scores[~trained[0]].mean())
        True

    Reference:
        Carlini, Chien, Nasr, Song, Terzis, Tramer, "Membership Inference Attacks From First
        Principles", IEEE Symposium on Security and Privacy 2022.
    """
    least = (8 if pooled_variance else 32) if min_shadows is None else min_shadows
    target, shadow, trained = _check(target_margins, shadow_margins, trained)
    _check_counts(trained, "trained on", least)
    _check_counts(~trained, "not trained on", least)
    chosen = trained.reshape(trained.shape + (1,) * (shadow.ndim - 2))
    inside = fit_normals(shadow, chosen, fit=fit, pooled_variance=pooled_variance)
    outside = fit_normals(shadow, ~chosen, fit=fit, pooled_variance=pooled_variance)
    return _over_views(inside.log_density(target) - outside.log_density(target), shadow.ndim)


def lira_offline(
    target_margins: ArrayLike,
    shadow_margins: ArrayLike,
    trained: ArrayLike,
    *,
    fit: Fit = "median",
    pooled_variance: bool = False,
    min_shadows: int | None = None,
) -> np.ndarray:
    """Likelihood-ratio attack, offline: from shadow models *without* the example alone.

    `-log Pr[N(out) > m]`, which orders examples as the paper's `1 - Pr[N(out) > m]` does and does
    not round to 1 far out. Arguments, checks and cost: as `lira`, for one side.

    Returns:
        f64 `[..., n]`, at least 0; higher means member.

    Differences from the published program:
        1. It scores by `-log N(m; out)`, for which a margin far *below* those of models without
           the example speaks for membership too; here, as in the paper, only one above does.
        2. A pooled variance is the one within examples.

    Example:
        >>> random = np.random.default_rng(0)
        >>> margins = random.normal(size=(40, 3))
        >>> never = np.zeros((40, 3), bool)
        >>> low, middle, high = lira_offline(np.array([-9.0, 0.0, 9.0]), margins, never)
        >>> bool(low < 0.01 < middle < 2 < 20 < high)
        True

    Reference:
        Carlini, Chien, Nasr, Song, Terzis, Tramer, "Membership Inference Attacks From First
        Principles", IEEE Symposium on Security and Privacy 2022.
    """
    from scipy.special import log_ndtr

    least = (8 if pooled_variance else 32) if min_shadows is None else min_shadows
    target, shadow, trained = _check(target_margins, shadow_margins, trained)
    _check_counts(~trained, "not trained on", least)
    without = ~trained.reshape(trained.shape + (1,) * (shadow.ndim - 2))
    outside = fit_normals(shadow, without, fit=fit, pooled_variance=pooled_variance)
    return _over_views(-log_ndtr(-outside.standardize(target)), shadow.ndim)


def _over_views(scores: np.ndarray, ndim: int) -> np.ndarray:
    return scores.mean(-1) if ndim == 3 else scores


def check_finite(name: str, margins: ArrayLike) -> np.ndarray:
    """Returns margins in f64, or raises ValueError when any is NaN or infinite."""
    margins = np.asarray(margins, np.float64)
    if not np.isfinite(margins).all():
        raise ValueError(
            f"expected finite {name}, found NaN or infinity in {(~np.isfinite(margins)).sum()} of "
            f"{margins.size}: leave out the diverged models and report how many there were"
        )
    return margins


def _check(
    target: ArrayLike, shadow: ArrayLike, trained: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    shadow, target = check_finite("shadow margins", shadow), check_finite("target margins", target)
    trained = np.asarray(trained)
    views = target.shape[-(shadow.ndim - 1) :] if shadow.ndim > 1 else None
    if shadow.ndim not in (2, 3) or shadow.size == 0 or views != shadow.shape[1:]:
        raise ValueError(
            "expected shadow margins [S, n] or [S, n, augmentations] and target margins with the "
            f"same last axes, found {shadow.shape} and {target.shape}: score all on one set"
        )
    if trained.shape != shadow.shape[:2] or trained.dtype != bool:
        raise ValueError(
            f"expected a bool {shadow.shape[:2]} that says which shadow model was trained on which "
            f"example, found {trained.dtype} {trained.shape}: pass the masks of the subsets"
        )
    return target, shadow, trained


def _check_counts(chosen: np.ndarray, what: str, least: int) -> None:
    count, least = chosen.sum(0), max(least, 2)
    if count.min() < least:
        raise ValueError(
            f"expected at least {least} shadow models {what} each example, found {count.min()} for "
            f"example {int(count.argmin())}: train more, or pool the variance"
        )
