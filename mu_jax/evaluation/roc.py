"""Reading a membership score: the best threshold, and the numbers that attacks report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from mu_jax.evaluation.membership import _both_sides, auc, auc_null_std, tpr_at_fpr


class BestThreshold(NamedTuple):
    """threshold: members score at least this. balanced_accuracy: (TPR + TNR) / 2 there."""

    threshold: float
    balanced_accuracy: float


class AttackSummary(NamedTuple):
    """Result of `attack_summary`; every number has its floor or the counts that give it.

    auc, auc_null_std: area under the curve, and its standard deviation around 0.5 by chance.
    balanced_accuracy, balanced_accuracy_floor: at the best threshold, and its mean by chance.
    fpr, tpr: allowed false positive rates, and the true positive rates reached; by chance alike.
    members, nonmembers: numbers of scores.
    """

    auc: float
    auc_null_std: float
    balanced_accuracy: float
    balanced_accuracy_floor: float
    fpr: tuple[float, ...]
    tpr: tuple[float, ...]
    members: int
    nonmembers: int


def best_threshold(member_scores: ArrayLike, nonmember_scores: ArrayLike) -> BestThreshold:
    """Threshold t of the rule "member if score >= t" with the largest balanced accuracy.

    Candidates are the scores themselves; of equally good ones the largest is taken. The balanced
    accuracy is `(1 + D) / 2` with D the one-sided Kolmogorov-Smirnov statistic, so it exceeds 1/2
    by chance, see `balanced_accuracy_floor`, unless the threshold is used on other examples.

    Args:
        member_scores: float `[m]`, finite; higher means more like a member.
        nonmember_scores: float `[n]`.

    Returns:
        `BestThreshold`, Python numbers.

    Raises:
        ValueError: an empty side, non-finite scores, or all scores equal.

    Cost:
        One sort of all scores.

    Example:
        >>> best_threshold([2.0, 3.0, 3.0, 4.0], [0.0, 1.0, 1.0, 3.0])
        BestThreshold(threshold=2.0, balanced_accuracy=0.875)

    Reference:
        Song, Mittal, "Systematic Evaluation of Privacy Risks of Machine Learning Models", USENIX
        Security Symposium 2021.
    """
    return separate(*_both_sides(member_scores, nonmember_scores))


def separate(member_scores: np.ndarray, nonmember_scores: np.ndarray) -> BestThreshold:
    """`best_threshold` without its checks; of equal scores it takes all for members."""
    members, others = np.sort(member_scores), np.sort(nonmember_scores)
    candidates = np.unique(np.concatenate([members, others]))[::-1]
    accepted = members.size - np.searchsorted(members, candidates)
    rejected = np.searchsorted(others, candidates)
    # In whole numbers, so that equally good thresholds are equal.
    best = int(np.argmax(accepted * others.size + rejected * members.size))
    rates = accepted[best] / members.size + rejected[best] / others.size
    return BestThreshold(float(candidates[best]), float(rates / 2))


def balanced_accuracy_floor(members: int, nonmembers: int) -> float:
    """Mean balanced accuracy of the best threshold on two large samples of one distribution.

    `1/2 + sqrt(pi / 32) sqrt((m + n) / (m n))`, from the limit of the Kolmogorov-Smirnov statistic.

    Example:
        >>> round(balanced_accuracy_floor(200, 200), 3)
        0.531
    """
    return float(0.5 + np.sqrt(np.pi / 32 * (members + nonmembers) / (members * nonmembers)))


def attack_summary(
    member_scores: ArrayLike,
    nonmember_scores: ArrayLike,
    *,
    fpr: Sequence[float] = (1e-3, 1e-2),
) -> AttackSummary:
    """Numbers by which membership attacks are reported, beside the values of chance alone.

    Args:
        member_scores: float `[m]`, finite; higher means more like a member, as those of `lira` or
            `membership_scores`, or losses with their sign turned.
        nonmember_scores: float `[n]`, with n >= 1 / min(fpr).
        fpr: allowed false positive rates; an average over all of them hides the members that an
            attacker is sure of, so low ones are customary.

    Returns:
        `AttackSummary`, Python numbers.

    Raises:
        ValueError: as `auc`, or fewer non-members than one in 1 / fpr.

    Cost:
        One sort of the scores, and one per rate.

    Example:
        >>> scores = np.arange(1000.0)
        >>> summary = attack_summary(scores + 10, scores, fpr=[0.01])
        >>> round(summary.auc, 5), summary.tpr
        (0.50995, (0.02,))

    Reference:
        Carlini, Chien, Nasr, Song, Terzis, Tramer, "Membership Inference Attacks From First
        Principles", IEEE Symposium on Security and Privacy 2022.
    """
    members, nonmembers = np.size(member_scores), np.size(nonmember_scores)
    return AttackSummary(
        auc=auc(member_scores, nonmember_scores),
        auc_null_std=auc_null_std(members, nonmembers),
        balanced_accuracy=best_threshold(member_scores, nonmember_scores).balanced_accuracy,
        balanced_accuracy_floor=balanced_accuracy_floor(members, nonmembers),
        fpr=tuple(float(rate) for rate in fpr),
        tpr=tuple(tpr_at_fpr(member_scores, nonmember_scores, rate) for rate in fpr),
        members=members,
        nonmembers=nonmembers,
    )
