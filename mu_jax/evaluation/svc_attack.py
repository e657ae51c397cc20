"""Support vector attack on one model, as in the sparsity and saliency papers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from mu_jax._extras import extra
from mu_jax.evaluation.membership import MINIMUM, ROUNDING, _refuse_constant, _scores

if TYPE_CHECKING:
    from sklearn.svm import SVC


class SvcMia(NamedTuple):
    """Result of `svc_mia`; the target is the retrained model's value.

    nonmember_fraction: fraction of the forget set taken for non-members; tables call it MIA, or
        forget efficacy.
    fit_accuracy: balanced accuracy on the examples that the attack was fitted to.
    n_fit, n_forget: examples of each side of the fit, and forget examples.
    """

    nonmember_fraction: float
    fit_accuracy: float
    n_fit: int
    n_forget: int


def svc_mia(
    retain_features: ArrayLike,
    test_features: ArrayLike,
    forget_features: ArrayLike,
    *,
    seed: int,
    C: float = 3.0,
) -> SvcMia:
    """Support vector attack of the sparsity and saliency papers: who is taken for a non-member.

    A support vector classifier (radial kernel, gamma one over the number of features) is fitted
    to tell retained (member) from test examples (non-members) by the unlearned model's outputs,
    and applied to the forget set. The side with more examples is subsampled to the size of the
    other. Direction: closer to retrain.

    Args:
        retain_features: float `[n_retain]` or `[n_retain, d]`, finite; at least 10. Any field of
            `membership_scores` (the papers report the confidence), or probabilities.
        test_features: float `[n_test]` or `[n_test, d]`; at least 10.
        forget_features: float `[n_forget]` or `[n_forget, d]`, of forget *training* examples.
        seed: seed of the subsample.
        C: inverse strength of the penalty (3 in the published program).

    Returns:
        `SvcMia`, Python numbers.

    Raises:
        ValueError: shapes disagree, too few examples, non-finite or constant features.

    Cost:
        On the host, quadratic in the number of retain and test examples: some minutes for 20,000.

    Differences from the published program:
        1. It takes as members the first n_test retained examples, whatever their classes, and all
           of them where there are fewer. Pass as many retained as test examples for its numbers.

    Example:
        >>> inside, outside = np.linspace(0.9, 1.0, 40), np.linspace(0.0, 0.6, 40)
        >>> svc_mia(inside, outside, [0.95, 0.97, 0.2, 0.1], seed=0).nonmember_fraction
        0.5

    Reference:
        Jia, Liu, Ram, Yao, Liu, Liu, Sharma, Liu, "Model Sparsity Can Simplify Machine
        Unlearning", NeurIPS 2023.
    """
    retain = _features("retain features", retain_features, MINIMUM)
    test = _features("test features", test_features, MINIMUM)
    forget = _features("forget features", forget_features, 1)
    _check_columns(retain, test, forget)
    members, others = _balance(retain, test, np.random.default_rng(seed))
    attack = _fit(members, others, C)
    recalls = attack.predict(members).mean(), 1 - attack.predict(others).mean()
    return SvcMia(
        nonmember_fraction=float(1 - attack.predict(forget).mean()),
        fit_accuracy=float(np.mean(recalls)),
        n_fit=len(others),
        n_forget=len(forget),
    )


def svc_training_privacy(
    retain_features: ArrayLike, test_features: ArrayLike, *, seed: int, C: float = 3.0
) -> float:
    """Support vector attack on all training data: its balanced accuracy on examples not fitted to.

    The classifier of `svc_mia` is fitted to a random half of the test set and as many retained
    examples, and scored on the other ones. Direction: closer to retrain; 0.5 is chance.

    Args:
        retain_features: float `[n_retain]` or `[n_retain, d]`, finite; more than half as many as
            test examples.
        test_features: float `[n_test]` or `[n_test, d]`; at least 20.
        seed: seed of the halves.
        C: inverse strength of the penalty.

    Returns:
        Mean of the fractions of members and of non-members that are recognized.

    Raises:
        ValueError: as `svc_mia`, or no retained examples left to score on.

    Cost:
        As `svc_mia`, for half of the test set.

    Example:
        >>> inside, outside = np.linspace(0.9, 1.0, 40), np.linspace(0.0, 0.6, 40)
        >>> svc_training_privacy(inside, outside, seed=0)
        1.0
    """
    test = _features("test features", test_features, 2 * MINIMUM)
    half = len(test) // 2
    retain = _features("retain features", retain_features, half + 1)
    _check_columns(retain, test)
    random = np.random.default_rng(seed)
    retain, test = random.permutation(retain), random.permutation(test)
    attack = _fit(retain[:half], test[:half], C)
    recalls = attack.predict(retain[half:]).mean(), 1 - attack.predict(test[half:]).mean()
    return float(np.mean(recalls))


def _features(name: str, values: ArrayLike, minimum: int) -> np.ndarray:
    """Returns features f64 `[n, d]`, or raises ValueError."""
    values = np.asarray(values, np.float64)
    if values.ndim not in (1, 2) or len(values) < minimum or values.size == 0:
        raise ValueError(
            f"expected {name} [n] or [n, d] of at least {minimum} examples, found shape "
            f"{values.shape}: attack one model at a time, with more examples"
        )
    _scores(name, values.ravel())
    return values.reshape(len(values), -1)


def _check_columns(*features: np.ndarray) -> None:
    columns = [side.shape[1] for side in features]
    if len(set(columns)) > 1:
        raise ValueError(
            f"expected as many features in every set, found {columns}: collect the same outputs"
        )


def _balance(
    members: np.ndarray, others: np.ndarray, random: np.random.Generator
) -> list[np.ndarray]:
    n = min(len(members), len(others))
    return [
        side if len(side) == n else side[random.choice(len(side), n, replace=False)]
        for side in (members, others)
    ]


def _fit(members: np.ndarray, others: np.ndarray, C: float) -> SVC:
    with extra("evaluation"):
        from sklearn.svm import SVC

    features = np.concatenate([members, others])
    # The most varied feature stands for all: where it is constant, so are they.
    widest = np.argmax(np.ptp(features, 0))
    _refuse_constant("features", features[:, widest], ROUNDING)
    is_member = np.repeat([1, 0], [len(members), len(others)])
    return SVC(C=C, kernel="rbf", gamma="auto").fit(features, is_member)
