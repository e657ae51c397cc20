"""Threshold attack on one model: forget examples that score below the members' threshold."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from mu_jax.evaluation.membership import (
    MINIMUM,
    ROUNDING,
    _refuse_constant,
    _scores,
    auc,
    auc_null_std,
    tpr_at_fpr,
)
from mu_jax.evaluation.roc import separate

Labels = tuple[ArrayLike, ArrayLike, ArrayLike]


class ThresholdMia(NamedTuple):
    """Result of `threshold_mia`; the target of every field is the retrained model's value.

    nonmember_fraction: fraction of the forget set below the threshold.
    auc, auc_null_std: of forget against test examples, and its standard deviation by chance.
    tpr, fpr: rate of forget examples above a threshold that lets through `fpr` of the test ones.
    thresholds: one for each class number, or a single one; NaN for classes not in both sets.
    balanced_accuracy: on the retain and test examples that the thresholds were chosen on.
    """

    nonmember_fraction: float
    auc: float
    auc_null_std: float
    tpr: float
    fpr: float
    thresholds: np.ndarray
    balanced_accuracy: float


def threshold_mia(
    retain_scores: ArrayLike,
    test_scores: ArrayLike,
    forget_scores: ArrayLike,
    *,
    labels: Labels | None = None,
    fpr: float = 0.01,
) -> ThresholdMia:
    """Threshold attack: forget examples that score below the best threshold are non-members.

    The threshold tells retained examples (members) from test examples with the largest balanced
    accuracy; if labels are given, each class has its own threshold. Direction: closer to retrain;
    neither a high nor a low fraction is good by itself.

    Args:
        retain_scores: float `[n_retain]`, finite, higher for members; see `membership_scores`. At
            least 10.
        test_scores: float `[n_test]`, of examples that no model was trained on; at least 10.
        forget_scores: float `[n_forget]`, of forget *training* examples.
        labels: classes of the retain, test and forget examples, for a threshold per class.
        fpr: false positive rate at which to report; it needs 1 / fpr test examples.

    Returns:
        `ThresholdMia`. AUC and rates use the score less the threshold of its class.

    Raises:
        ValueError: too few examples, non-finite or constant scores, labels of another shape, or a
            forgotten class without retained or test examples, which has no threshold.

    Cost:
        Sorts on the host.

    Differences from the published program:
        1. Of equally good thresholds the largest is taken; there the first in the data's order.
        2. The program attacks a shadow model's members and non-members to find the thresholds;
           here retained and test examples of the attacked model stand for those.

    Example:
        >>> scores = np.arange(100.0)
        >>> result = threshold_mia(scores + 50, scores, [20.0, 101.0, 102.0, 103.0])
        >>> result.nonmember_fraction, result.thresholds.tolist(), result.balanced_accuracy
        (0.25, [100.0], 0.75)

    Reference:
        Song, Mittal, "Systematic Evaluation of Privacy Risks of Machine Learning Models", USENIX
        Security Symposium 2021.
    """
    retain = _scores("retain scores", retain_scores, MINIMUM)
    test = _scores("test scores", test_scores, MINIMUM)
    forget = _scores("forget scores", forget_scores)
    _refuse_constant("scores", np.concatenate([retain, test]), ROUNDING)
    classes = _classes((retain, test, forget), labels)
    thresholds = np.full(max(int(side.max()) for side in classes) + 1, np.nan)
    # A class that was not forgotten needs a threshold only if it can have one.
    shared = np.intersect1d(classes[0], classes[1])
    for label in np.union1d(shared, classes[2]):
        chosen = [side[of == label] for side, of in zip((retain, test), classes)]
        if not (chosen[0].size and chosen[1].size):
            raise ValueError(
                "expected retained and test examples of every forgotten class, found "
                f"{chosen[0].size} and {chosen[1].size} of class {label}: leave out `labels` for "
                "one threshold"
            )
        thresholds[label] = separate(*chosen).threshold
    shifted = [side - thresholds[of] for side, of in zip((retain, test, forget), classes)]
    retain, test, forget = shifted
    retain, test = retain[~np.isnan(retain)], test[~np.isnan(test)]
    return ThresholdMia(
        nonmember_fraction=float((forget < 0).mean()),
        auc=auc(forget, test),
        auc_null_std=auc_null_std(forget.size, test.size),
        tpr=tpr_at_fpr(forget, test, fpr),
        fpr=float(fpr),
        thresholds=thresholds,
        balanced_accuracy=float(((retain >= 0).mean() + (test < 0).mean()) / 2),
    )


def _classes(scores: tuple[np.ndarray, ...], labels: Labels | None) -> list[np.ndarray]:
    """Class numbers of each set of scores; zeros without labels."""
    if labels is None:
        return [np.zeros(side.size, int) for side in scores]
    found = [np.asarray(side) for side in labels]
    shapes = [side.shape for side in found]
    whole = all(np.issubdtype(side.dtype, np.integer) and (side >= 0).all() for side in found)
    if shapes != [side.shape for side in scores] or not whole:
        raise ValueError(
            f"expected class numbers (retain, test, forget) of the scores' shapes, found "
            f"{shapes}: give one label per score"
        )
    return found
