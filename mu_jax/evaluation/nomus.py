"""NoMUS: utility and forgetting, by a membership attack, in one number."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from mu_jax.evaluation.membership import loss_mia


class Nomus(NamedTuple):
    """Result of `nomus` and `nomus_floor`, Python numbers; never print the first one alone.

    value: NoMUS.
    utility: accuracy on the test set, U.
    forgetting_score: |a - 1/2| of the attack, FS.
    attack_accuracy: a, 1/2 where forget and unseen examples look alike.
    n: examples per side of the attack.
    """

    value: float
    utility: float
    forgetting_score: float
    attack_accuracy: float
    n: int


def nomus(
    utility: float,
    forget_losses: ArrayLike,
    unseen_losses: ArrayLike,
    *,
    seed: int,
    utility_weight: float = 0.5,
) -> Nomus:
    """Normalized machine unlearning score of the MUFAC and MUCAC benchmarks.

    `NoMUS = w U + (1 - w) (1 - 2 FS)` with `FS = |a - 1/2|`, where a is the accuracy of `loss_mia`
    in telling forget from unseen examples by their losses. NoMUS is in [0, 1], and was published
    as "higher is better". It can be gamed: a constant prediction gives FS = 0 and a NoMUS of
    `0.5 + U / 2`, which beats many models that work. A retrained model's FS is not 0 where forget
    and unseen examples differ by themselves. Read NoMUS beside U, FS, the retrained model's three
    values, `nomus_gap` and `nomus_floor`. Direction: closer to retrain.

    Args:
        utility: accuracy U on the test set, a fraction.
        forget_losses: float `[n_forget]`, finite, of one model in inference mode without
            augmentation; at least 10. For several labels at once, the mean of their losses.
        unseen_losses: float `[n_unseen]`, of examples that neither training nor U has used.
        seed: of the attack's subsample and of its ten splits.
        utility_weight: w; 1/2 in the benchmark.

    Returns:
        `Nomus`.

    Raises:
        ValueError: utility or its weight outside [0, 1], or as `loss_mia`, which refuses the equal
            losses of a constant prediction.

    Cost:
        10 fits of two parameters on the host.

    Differences from the published program:
        1. The larger side is subsampled. There only the forget set is, so that with more unseen
           than forget examples the sides are unequal, and always naming the larger one has an
           accuracy above 1/2.
        2. Subsample and splits follow `seed`; there their seeds are 42 and 0.
        3. Equal losses of all examples are refused; there they are perfect forgetting.

    Example:
        >>> losses = np.linspace(0.0, 1.0, 100)
        >>> found = nomus(0.8, losses, losses + 2.0, seed=0)  # the attack is always right
        >>> found.value, found.forgetting_score
        (0.4, 0.5)

    Reference:
        Choi, Na, "Towards Machine Unlearning Benchmarks: Forgetting the Personal Identities in
        Facial Recognition Systems", 2023.
    """
    _check_fraction("a utility", utility)
    _check_fraction("a weight of the utility", utility_weight)
    attack = loss_mia(forget_losses, unseen_losses, seed=seed)
    score = abs(attack.accuracy - 0.5)
    value = utility_weight * utility + (1 - utility_weight) * (1 - 2 * score)
    return Nomus(value, float(utility), score, attack.accuracy, attack.n)


def nomus_gap(found: Nomus, retrained: Nomus) -> float:
    """Distance from the retrained model that a collapsed one does not win: `|dU| + |dFS|`.

    Args:
        found: of the unlearned model.
        retrained: of the retrained model.

    Returns:
        A number in [0, 1.5]; lower is better.

    Example:
        >>> nomus_gap(Nomus(0.75, 0.75, 0.125, 0.625, 99), Nomus(0.8, 0.5, 0.0, 0.5, 99))
        0.375
    """
    utility = abs(found.utility - retrained.utility)
    return utility + abs(found.forgetting_score - retrained.forgetting_score)


def nomus_floor(
    utility: float,
    unseen_losses: ArrayLike,
    *,
    n: int,
    seed: int,
    repeats: int = 20,
    utility_weight: float = 0.5,
) -> Nomus:
    """NoMUS of a perfect unlearner: forget examples that look like unseen ones, n on each side.

    Both sides of the attack are drawn with replacement from the losses of unseen examples. FS is
    still not 0, since it is the absolute value of a chance deviation; it falls as n grows.

    Args:
        utility: accuracy of the retrained model, a fraction.
        unseen_losses: float `[n_unseen]`, of the retrained model.
        n: examples per side, `Nomus.n` of the values that the floor stands beside.
        seed: of the draws.
        repeats: pairs of draws, over which the value is averaged.
        utility_weight: as in `nomus`.

    Returns:
        `Nomus`, the means over the draws.

    Raises:
        ValueError: fewer than one repeat, or as `nomus`.

    Cost:
        `repeats` times that of `nomus`.

    Example:
        >>> losses = np.linspace(0.0, 1.0, 100)
        >>> floor = nomus_floor(0.8, losses, n=100, seed=0)
        >>> 0.02 < floor.forgetting_score < 0.08
        True
    """
    if repeats < 1:
        raise ValueError(f"expected at least one repeat, found {repeats}: 20 are enough")
    losses = np.asarray(unseen_losses, np.float64)
    random = np.random.default_rng(seed)
    draws = [
        nomus(
            utility,
            random.choice(losses, n),
            random.choice(losses, n),
            seed=seed + repeat,
            utility_weight=utility_weight,
        )
        for repeat in range(repeats)
    ]
    value, _, score, attack, _ = np.mean(draws, axis=0).tolist()
    return Nomus(value, float(utility), score, attack, n)


def _check_fraction(what: str, value: float) -> None:
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise ValueError(
            f"expected {what} in [0, 1], found {value}: give accuracies as fractions, and report a "
            "model without one as failed"
        )
