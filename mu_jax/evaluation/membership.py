"""Membership inference attacks on populations: from losses, from entropies, from any score."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from mu_jax._extras import extra

MINIMUM = 10  # examples per side: a tenth of them still holds one of each side
SPLITS, HELD_OUT = 10, 0.1  # of the starting kit
CORRELATION = 0.16  # of the accuracies of two splits, at most: see `loss_mia`
ROUNDING = 1e-6  # relative: outputs of a collapsed model still differ in the last float32 bits


class LossMia(NamedTuple):
    """Result of `loss_mia`; the target of every field is the retrained model's value, near 0.5.

    accuracy: mean held-out accuracy of the attack over the splits.
    accuracy_std: sample standard deviation of the accuracies of the ten splits. This is the spread
        of one split, about twice the error of their mean: never print it behind `accuracy`.
    accuracy_stderr: standard error of `accuracy`, over draws of examples and of splits.
    strength: max(accuracy, 1 - accuracy): losses *above* the losses of unseen examples leak too.
    auc: probability that a forget example has a lower loss than a test example, ties one half.
    auc_null_std: standard deviation of the AUC around 0.5 if both sides were alike.
    n: examples per side that the attack was fitted and scored on.
    """

    accuracy: float
    accuracy_std: float
    accuracy_stderr: float
    strength: float
    auc: float
    auc_null_std: float
    n: int


class EntropyMia(NamedTuple):
    """Result of `entropy_mia`; the target is the retrained model's value.

    member_fraction: fraction of the forget set that the attack takes for members.
    weight, bias: the fitted log-odds of membership, `weight * entropy + bias`.
    n_retain, n_test, n_forget: examples of each kind.
    """

    member_fraction: float
    weight: float
    bias: float
    n_retain: int
    n_test: int
    n_forget: int


def _scores(name: str, values: ArrayLike, minimum: int = 1) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or values.size < minimum:
        raise ValueError(
            f"expected a vector of at least {minimum} {name}, found shape {values.shape}: attack "
            "one model at a time, with more examples"
        )
    if not np.isfinite(values).all():
        raise ValueError(
            f"expected finite {name}, found NaN or infinity in {(~np.isfinite(values)).sum()} of "
            f"{values.size}: a model that diverged has no membership score, so report it as failed"
        )
    return values


def _refuse_constant(name: str, values: np.ndarray, tolerance: float = 0.0) -> None:
    if np.ptp(values) <= tolerance * float(np.abs(values).max()):
        raise ValueError(
            f"expected {name} that differ between examples, found {values[0]:.6g} for all "
            f"{values.size}: constant outputs (a collapsed model) leave nothing to attack"
        )


def _refuse_unmoved(name: str, values: np.ndarray, weights: list[float]) -> None:
    """Refuse fits that stopped at their start, whose decision is the same for every example."""
    if not any(weights):
        raise ValueError(
            f"expected {name} that a logistic regression can tell apart, found a range of "
            f"{np.ptp(values):.1e} within which it stays at its start: constant outputs (a "
            "collapsed model) leave nothing to attack, of others take the AUC"
        )


def loss_mia(forget_losses: ArrayLike, test_losses: ArrayLike, *, seed: int) -> LossMia:
    """Attack of the NeurIPS 2023 starting kit: tell forget from test examples by their loss.

    A logistic regression on one feature, the loss of the unlearned model, is fitted to tell
    forget examples (class 1) from test examples (class 0); the larger side is subsampled to the
    size of the smaller one. Its accuracy is averaged over 10 stratified shuffled splits that hold
    out a tenth. Direction: closer to retrain, which scores near 0.5; neither lower nor higher is
    better, and a cross-validated accuracy a little below 0.5 is noise.

    The standard error of the mean of J splits whose accuracies have variance v and correlation rho
    is `sqrt(v (rho + (1 - rho) / J))`. The sample variance s^2 of the splits estimates
    `v (1 - rho)`, since correlated numbers spread less, so that

        `accuracy_stderr = s sqrt(1 / J + rho / (1 - rho))`,  J = 10.

    Two splits share a tenth of the examples that they hold out, so rho is 0.1 if the fits do not
    depend on the split. Near chance the fits follow the examples held out elsewhere, and rho is
    0.16 in simulations. The larger number is used: in simulations with 10 to 1,000 examples per
    side the root mean square of the standard error is 0.9 to 1.1 times the true standard deviation
    near chance, and up to 1.25 times where the attack succeeds. With ten splits one standard error
    is itself uncertain by a quarter; `accuracy +- 2.26 accuracy_stderr` (t with 9 degrees of
    freedom) covers the expected accuracy with 94 to 98 %.

    Args:
        forget_losses: float `[n_forget]`, finite, nats; at least 10.
        test_losses: float `[n_test]`, finite, of examples that no model was trained on.
        seed: seed of the subsample and of the splits.

    Returns:
        `LossMia`, Python numbers. The AUC uses all examples.

    Raises:
        ValueError: fewer than 10 examples on a side, non-finite losses, or losses so alike that no
            fit leaves its start (its accuracy would be 1/2, whatever the losses); `auc` takes them.

    Cost:
        10 fits of two parameters on the host, O(n) each, and a sort.

    Differences from the starting kit:
        1. The subsample and the splits follow `seed`; there the splits have seed 0 and the
           subsample is the caller's business.
        2. Standard error, AUC, strength and the null's width are added: accuracy alone cannot be
           read.

    Example:
        >>> losses = np.linspace(0.0, 1.0, 100)
        >>> result = loss_mia(losses, losses + 2.0, seed=0)
        >>> result.accuracy, result.auc, result.n
        (1.0, 1.0, 100)

    Reference:
        Triantafillou et al., "Are we making progress in unlearning? Findings from the first
        NeurIPS unlearning competition", 2024.
        Nadeau, Bengio, "Inference for the Generalization Error", Machine Learning 2003: the
        standard error of repeated splits.
    """
    with extra("evaluation"):
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedShuffleSplit, cross_validate
        from threadpoolctl import threadpool_limits

    forget = _scores("forget losses", forget_losses, MINIMUM)
    test = _scores("test losses", test_losses, MINIMUM)
    _refuse_constant("losses", np.concatenate([forget, test]), ROUNDING)
    n = min(forget.size, test.size)
    random = np.random.default_rng(seed)
    sides = [
        side if side.size == n else random.choice(side, n, replace=False) for side in (test, forget)
    ]
    splits = StratifiedShuffleSplit(n_splits=SPLITS, test_size=HELD_OUT, random_state=seed)
    losses = np.concatenate(sides)
    with threadpool_limits(1):  # two parameters are fitted faster than threads meet
        fits = cross_validate(
            LogisticRegression(),
            losses[:, None],
            np.repeat([0, 1], n),
            cv=splits,
            return_estimator=True,
        )
    _refuse_unmoved("losses", losses, [fit.coef_[0, 0] for fit in fits["estimator"]])
    found = fits["test_score"]
    mean, std = float(found.mean()), float(found.std(ddof=1))
    return LossMia(
        accuracy=mean,
        accuracy_std=std,
        accuracy_stderr=std * (1 / SPLITS + CORRELATION / (1 - CORRELATION)) ** 0.5,
        strength=max(mean, 1 - mean),
        auc=auc(-forget, -test),
        auc_null_std=auc_null_std(forget.size, test.size),
        n=n,
    )


def entropy_mia(
    retain_entropy: ArrayLike,
    test_entropy: ArrayLike,
    forget_entropy: ArrayLike,
    *,
    C: float = 2.0,
) -> EntropyMia:
    """Attack of the SSD paper: the fraction of the forget set that looks like training data.

    A logistic regression on the entropy of the prediction is fitted to tell retained training
    examples (members) from test examples, both classes weighted alike, with an L2 penalty on the
    weight; it is then applied to the forget set. Direction: closer to retrain.

    Args:
        retain_entropy: float `[n_retain]`, nats, see `entropy`; at least 10.
        test_entropy: float `[n_test]`, at least 10; the paper's includes the forgotten class.
        forget_entropy: float `[n_forget]`, of forget *training* examples.
        C: inverse strength of the penalty. The default 2 in the binary form equals the published
            program's 1 in its two-row softmax form, which scikit-learn no longer has.

    Returns:
        `EntropyMia`, Python numbers.

    Raises:
        ValueError: too few examples, non-finite entropies, or the entropies of the retained and
            test examples are all equal, or so alike that the fit does not leave its start (a
            collapsed model, whose attack would score a perfect 0).

    Cost:
        One fit of two parameters on the host, O(n_retain + n_test).

    Example:
        >>> low, high = np.linspace(0.0, 0.5, 40), np.linspace(1.0, 2.0, 40)
        >>> entropy_mia(low, high, [0.1, 0.2, 1.9, 1.8]).member_fraction
        0.5

    Reference:
        Foster, Schoepf, Brintrup, "Fast Machine Unlearning Without Retraining Through Selective
        Synaptic Dampening", AAAI 2024.
    """
    with extra("evaluation"):
        from sklearn.linear_model import LogisticRegression

    retain = _scores("retain entropies", retain_entropy, MINIMUM)
    test = _scores("test entropies", test_entropy, MINIMUM)
    forget = _scores("forget entropies", forget_entropy)
    features = np.concatenate([retain, test])
    _refuse_constant("entropies", features, ROUNDING)
    is_member = np.repeat([1, 0], [retain.size, test.size])
    attack = LogisticRegression(C=C, class_weight="balanced").fit(features[:, None], is_member)
    _refuse_unmoved("entropies", features, [attack.coef_[0, 0]])
    return EntropyMia(
        member_fraction=float(attack.predict(forget[:, None]).mean()),
        weight=float(attack.coef_[0, 0]),
        bias=float(attack.intercept_[0]),
        n_retain=retain.size,
        n_test=test.size,
        n_forget=forget.size,
    )


def auc(member_scores: ArrayLike, nonmember_scores: ArrayLike) -> float:
    """Area under the ROC curve, `P(member > nonmember) + P(member = nonmember) / 2`, exactly.

    Args:
        member_scores: float `[m]`, finite; higher means more like a member.
        nonmember_scores: float `[n]`.

    Returns:
        A number in [0, 1]; 0.5 when the scores tell nothing, within `auc_null_std`.

    Raises:
        ValueError: an empty side, non-finite scores, or all scores equal.

    Cost:
        One sort of the non-members.

    Example:
        >>> auc([2.0, 3.0], [1.0, 2.0])
        0.875
    """
    members, others = _both_sides(member_scores, nonmember_scores)
    others = np.sort(others)
    below = np.searchsorted(others, members, "left").sum(dtype=np.int64)
    not_above = np.searchsorted(others, members, "right").sum(dtype=np.int64)
    return float(below + not_above) / (2 * members.size * others.size)


def auc_null_std(members: int, nonmembers: int) -> float:
    """Standard deviation of the AUC of two samples of one continuous distribution.

    `sqrt((m + n + 1) / (12 m n))`, the variance of the Mann-Whitney statistic.

    Example:
        >>> round(auc_null_std(200, 200), 3)
        0.029
    """
    return float(np.sqrt((members + nonmembers + 1) / (12 * members * nonmembers)))


def tpr_at_fpr(member_scores: ArrayLike, nonmember_scores: ArrayLike, fpr: float) -> float:
    """Largest true positive rate of a rule "score >= t" whose false positive rate is <= fpr.

    Equal scores fall on the same side of every threshold and nothing is interpolated, so the
    value is one that an attacker reaches.

    Args:
        member_scores: float `[m]`, finite; higher means more like a member.
        nonmember_scores: float `[n]`, with n >= 1 / fpr.
        fpr: allowed false positive rate, in (0, 1).

    Returns:
        A number in [0, 1]. Two samples of one distribution exceed fpr by chance, the more the
        fewer non-members there are: print the number of both.

    Raises:
        ValueError: as `auc`, or fewer non-members than one in 1 / fpr.

    Cost:
        One sort of the non-members.

    Example:
        >>> tpr_at_fpr([0.9, 0.8, 0.4, 0.1], [0.7, 0.3, 0.2, 0.1], fpr=0.25)
        0.75

    Reference:
        Carlini, Chien, Nasr, Song, Terzis, Tramer, "Membership Inference Attacks From First
        Principles", IEEE Symposium on Security and Privacy 2022.
    """
    if not 0 < fpr < 1:
        raise ValueError(f"expected a false positive rate in (0, 1), found {fpr}: 0.01 is usual")
    members, others = _both_sides(member_scores, nonmember_scores)
    # Rounding must not take away the last allowed one: 100 * 0.29 is 28.999999999999996.
    allowed = min(int(others.size * fpr * (1 + 1e-12)), others.size - 1)
    if allowed < 1:
        raise ValueError(
            f"expected at least {int(np.ceil(1 / fpr))} non-members for a false positive rate of "
            f"{fpr:g}, found {others.size}: take a larger rate or more test examples"
        )
    # The first score that is not allowed in: only what is strictly above it counts.
    barrier = -np.partition(-others, allowed)[allowed]
    return float((members > barrier).mean())


def _both_sides(members: ArrayLike, others: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    members, others = _scores("member scores", members), _scores("non-member scores", others)
    _refuse_constant("scores", np.concatenate([members, others]))
    return members, others
