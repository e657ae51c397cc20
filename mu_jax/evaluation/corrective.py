"""Corrective unlearning: the repair when only part of the manipulated data is known."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from mu_jax.evaluation.accuracy import accuracy


class CorrectiveCurve(NamedTuple):
    """Result of `corrective_curve`, in ascending order of `fraction`.

    fraction: f64 `[G]`, known part of the manipulated examples.
    corrected: f32 `[G, ...]`, clean-label accuracy where the manipulation strikes.
    retained: f32 `[G, ...]`, clean accuracy elsewhere.
    n_corrected, n_retained: numbers of examples, for `clopper_pearson`.
    """

    fraction: np.ndarray
    corrected: jax.Array
    retained: jax.Array
    n_corrected: int
    n_retained: int


def corrective_curve(
    fraction: ArrayLike,
    affected: tuple[ArrayLike, ArrayLike],
    retained: tuple[ArrayLike, ArrayLike],
    *,
    trigger_label: int | None = None,
) -> CorrectiveCurve:
    """Accuracies after corrective unlearning as a curve over the known part of the manipulation.

    Training data hold a manipulated set S_m, of which the unlearner is given the fraction gamma.
    The corrected accuracy is that on *clean* labels where the manipulation strikes: on test
    images with the trigger (poisoning), or on test examples of the confused classes (label
    swaps). The retained accuracy is that on clean test examples elsewhere. Direction: closer to a
    model retrained without *all* of S_m, whose two numbers are the reference at every gamma; for
    gamma < 1 a model retrained without the known part is not. The spread of that reference
    between seeds is the floor.

    Args:
        fraction: float `[G]` in (0, 1], different values of gamma.
        affected: logits `[G, ..., n, K]` and clean labels int `[n]` of the affected examples; the
            labels not traced by `jax.jit`.
        retained: logits `[G, ..., m, K]` and labels int `[m]` of the others.
        trigger_label: the class that the trigger leads to; affected examples that truly are of it
            are left out, since the trigger does not make them wrong.

    Returns:
        `CorrectiveCurve`.

    Raises:
        ValueError: fractions outside (0, 1] or repeated, another number of models than fractions,
            no affected examples left, or as `accuracy`.

    Cost:
        One pass over the logits.

    Differences from the published program:
        1. It counts triggered images of the trigger's own class as corrected.

    Example:
        >>> right, wrong = [[5.0, 0.0]], [[0.0, 5.0]]
        >>> affected = [wrong, right], [0]
        >>> curve = corrective_curve([0.1, 1.0], affected, ([right, right], [0]))
        >>> curve.corrected.tolist(), curve.retained.tolist()
        ([0.0, 1.0], [1.0, 1.0])

    Reference:
        Goel, Prabhu, Torr, Kumaraguru, Sanyal, "Corrective Machine Unlearning", TMLR 2024.
    """
    fraction = _check_fractions(fraction)
    labels = np.asarray(affected[1])
    counted = np.ones(labels.shape, bool) if trigger_label is None else labels != trigger_label
    if not counted.any():
        raise ValueError(
            f"expected affected examples of other classes than {trigger_label}, found none: "
            "trigger images of every class"
        )
    curves = [accuracy(*affected, counted.astype(np.float32)), accuracy(*retained)]
    for curve in curves:
        if curve.ndim == 0 or curve.shape[0] != fraction.size:
            raise ValueError(
                f"expected logits [{fraction.size}, ..., n, K], one entry per fraction, found "
                f"accuracies of shape {curve.shape}: stack the unlearned models in that order"
            )
    order = np.argsort(fraction)
    corrected, elsewhere = (curve[order] for curve in curves)
    return CorrectiveCurve(
        fraction[order], corrected, elsewhere, int(counted.sum()), np.size(retained[1])
    )


def _check_fractions(fraction: ArrayLike) -> np.ndarray:
    fraction = np.asarray(fraction, np.float64)
    if fraction.ndim != 1 or not ((fraction > 0) & (fraction <= 1)).all() or not fraction.size:
        raise ValueError(
            f"expected fractions [G] in (0, 1], found {fraction.tolist()}: divide the known by all "
            "manipulated examples"
        )
    if np.unique(fraction).size != fraction.size:
        raise ValueError(
            f"expected different fractions, found {fraction.tolist()}: put repeated runs on a "
            "further axis of the logits"
        )
    return fraction
