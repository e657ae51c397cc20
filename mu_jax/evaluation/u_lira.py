"""U-LiRA: whether an example was unlearned or never seen, by shadow models that were unlearned."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from mu_jax.evaluation.lira import Fit, check_finite, fit_normals
from mu_jax.evaluation.membership import auc, tpr_at_fpr


class ULiraTargets(NamedTuple):
    """Results of `u_lira` for every target, arrays `[T]`; shadows is the fewest used on a side."""

    base: np.ndarray
    run: np.ndarray
    accuracy: np.ndarray
    auc: np.ndarray
    tpr: np.ndarray
    shadows: np.ndarray


class ULira(NamedTuple):
    """Result of `u_lira`: means over targets, and the details.

    `accuracy_std`, `auc_std` and `tpr_std` are sample standard deviations over targets: the spread
    of one target. They are not standard errors of the means, which targets that share shadow
    models do not give.

    accuracy: of the decision "unlearned" against "never seen"; chance is 0.5.
    auc: of the log-ratio; chance is 0.5.
    tpr: of the log-ratio at false positive rate `fpr`; chance is `fpr`.
    targets: the same of every target.
    forgotten_scores, unseen_scores: log-ratios of all targets, for rates over all of them.
    """

    accuracy: float
    accuracy_std: float
    auc: float
    auc_std: float
    tpr: float
    tpr_std: float
    fpr: float
    targets: ULiraTargets
    forgotten_scores: np.ndarray
    unseen_scores: np.ndarray


class ULiraOptions(NamedTuple):
    """Options of `u_lira` and of `u_lira_floor`, which are to have the same.

    targets: number of attacked models, spread over all base models before one repeats.
    cap: most shadow models per side (300 in the published program).
    min_shadows: fewest shadow models per side of every example.
    fit: as `fit_normals`; "quantiles" where runs diverge now and then.
    fpr: false positive rate of `tpr`; each target needs 1 / fpr forgotten examples.
    """

    targets: int = 50
    cap: int = 300
    min_shadows: int = 30
    fit: Fit = "moments"
    fpr: float = 0.05


DEFAULTS = ULiraOptions()


def u_lira(
    margins: ArrayLike,
    trained: ArrayLike,
    forgotten: ArrayLike,
    *,
    seed: int,
    options: ULiraOptions = DEFAULTS,
) -> ULira:
    """Unlearning likelihood-ratio attack: tells unlearned examples from examples never seen.

    N base models are trained on random subsets, and k random forget sets are unlearned from each.
    A target is one of the N k unlearned models. For each example that it unlearned, and for as
    many examples of the pool (those that any run forgot) that its base model never saw, a normal
    distribution is fitted to the margins of shadow models that unlearned the example, another to
    those of as many unlearned models that never saw it, and the sign of `log N(m; unlearned) -
    log N(m; never seen)` decides. Shadow models of a target are the runs on *other* base models.

    Direction: closer to `u_lira_floor`, which is near 0.5. A constant or random model also scores
    0.5, so read it together with accuracies.

    Args:
        margins: float `[N, k, n]`, finite, of the unlearned models; see `margins`.
        trained: bool `[N, n]`, whether a base model was trained on an example.
        forgotten: bool `[N, k, n]`, whether a run unlearned an example; only trained ones.
        seed: seed of the targets, of the examples never seen and of the order of shadows.
        options: see `ULiraOptions`.

    Returns:
        `ULira`.

    Raises:
        ValueError: shapes disagree, non-finite margins, an example forgotten that was not
            trained on, too few base models, runs or unseen examples (with the number needed).

    Cost:
        On the host, per target some passes over (N - 1) k margins of the examples it decides.

    Differences from the published procedure:
        1. Shadow models never share their base model with the target, which they do there; they
           would not be independent of it.
        2. Examples never seen are compared under unlearned models; the published program takes
           base models that were not unlearned.
        3. The logarithm of the ratio decides, also where both densities round to 0.
        4. AUC and the true positive rate are added to the accuracy.

    Example:
        >>> random = np.random.default_rng(0)
        >>> trained = random.random((24, 60)) < 0.5
        >>> forgotten = trained[:, None] & (random.random((24, 20, 60)) < 0.4)
        >>> margins = random.normal(size=(24, 20, 60)) + 3.0 * forgotten
        >>> options = ULiraOptions(targets=5, fpr=0.2)
        >>> result = u_lira(margins, trained, forgotten, seed=0, options=options)
        >>> bool(result.accuracy > 0.85)
        True

    Reference:
        Hayes, Shumailov, Triantafillou, Khalifa, Papernot, "Inexact Unlearning Needs More Careful
        Evaluations to Avoid a False Sense of Privacy", IEEE Conference on Secure and Trustworthy
        Machine Learning 2025.
    """
    margins, trained, forgotten = _check(margins, trained, forgotten)
    unseen = ~trained & forgotten.any((0, 1))
    return _attack(margins, forgotten, unseen, np.random.default_rng(seed), options)


def u_lira_floor(
    margins: ArrayLike,
    trained: ArrayLike,
    forgotten: ArrayLike,
    *,
    seed: int,
    options: ULiraOptions = DEFAULTS,
) -> ULira:
    """U-LiRA of a perfect unlearner: `u_lira` among examples that no base model concerned has seen.

    For every example of the pool, half of the base models that never saw it, chosen at random,
    play the part of those that unlearned it, in runs that forget as many as the real ones where
    there are so many. The other half stays "never seen". Arguments, errors and cost: as
    `u_lira`.

    Returns:
        `ULira`, whose means are near chance and whose standard deviations say how near a method
        can be expected to come. Each example has half as many shadow models that never saw it.

    Example:
        >>> random = np.random.default_rng(0)
        >>> trained = random.random((24, 60)) < 0.5
        >>> forgotten = trained[:, None] & (random.random((24, 20, 60)) < 0.4)
        >>> margins = random.normal(size=(24, 20, 60)) + 3.0 * forgotten
        >>> options = ULiraOptions(targets=5, min_shadows=10, fpr=0.25)
        >>> floor = u_lira_floor(margins, trained, forgotten, seed=0, options=options)
        >>> bool(abs(floor.accuracy - 0.5) < 0.15)
        True
    """
    margins, trained, forgotten = _check(margins, trained, forgotten)
    unseen = ~trained & forgotten.any((0, 1))
    random = np.random.default_rng(seed)
    # The first half of a random order of the base models that never saw an example.
    order = np.argsort(np.where(unseen, random.random(unseen.shape), np.inf), 0)
    half = unseen & (np.argsort(order, 0) < unseen.sum(0) // 2)
    rest = unseen & ~half
    pretended = np.zeros_like(forgotten)
    for base, run in np.ndindex(forgotten.shape[:2]):
        size = min(forgotten[base, run].sum(), rest[base].sum())
        pretended[base, run, random.permutation(np.flatnonzero(half[base]))[:size]] = True
    return _attack(margins, pretended, rest, random, options)


def _attack(
    margins: np.ndarray,
    forgotten: np.ndarray,
    unseen: np.ndarray,
    random: np.random.Generator,
    options: ULiraOptions,
) -> ULira:
    rows, positives, negatives = [], [], []
    bases, runs = margins.shape[:2]
    for base, run in _choose_targets(bases, runs, options.targets, random):
        chosen = _examples(forgotten[base, run], unseen[base], random)
        positive, negative, fewest = _log_ratios(
            margins, forgotten, unseen, (base, run, chosen), random, options
        )
        decisions = np.concatenate([positive > 0, negative <= 0])
        tpr = tpr_at_fpr(positive, negative, options.fpr)
        rows.append((base, run, decisions.mean(), auc(positive, negative), tpr, fewest))
        positives.append(positive)
        negatives.append(negative)
    targets = ULiraTargets(*(np.array(column) for column in zip(*rows)))
    return ULira(
        accuracy=float(targets.accuracy.mean()),
        accuracy_std=float(targets.accuracy.std(ddof=1)),
        auc=float(targets.auc.mean()),
        auc_std=float(targets.auc.std(ddof=1)),
        tpr=float(targets.tpr.mean()),
        tpr_std=float(targets.tpr.std(ddof=1)),
        fpr=options.fpr,
        targets=targets,
        forgotten_scores=np.concatenate(positives),
        unseen_scores=np.concatenate(negatives),
    )


def _choose_targets(
    bases: int, runs: int, targets: int, random: np.random.Generator
) -> list[tuple[int, int]]:
    """Random pairs (base, run), as many of each base model as of any other."""
    if not 2 <= targets <= bases * runs:
        raise ValueError(
            f"expected from 2 to {bases * runs} targets, found {targets}: every unlearned model is "
            "a target at most once"
        )
    order = [random.permutation(bases) for _ in range(runs)]
    run_of = np.stack([random.permutation(runs) for _ in range(bases)], 1)
    pairs = [(int(base), int(run_of[turn, base])) for turn in range(runs) for base in order[turn]]
    return pairs[:targets]


def _examples(
    forgotten: np.ndarray, unseen: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the forgotten examples, and of as many examples never seen."""
    positive, candidates = np.flatnonzero(forgotten), np.flatnonzero(unseen)
    if positive.size == 0 or candidates.size < positive.size:
        raise ValueError(
            "expected as many examples of the pool that a base model never saw as it forgot, found "
            f"{candidates.size} and {positive.size}: forget fewer, or draw from a larger pool"
        )
    return positive, random.choice(candidates, positive.size, replace=False)


def _log_ratios(
    margins: np.ndarray,
    forgotten: np.ndarray,
    unseen: np.ndarray,
    target: tuple[int, int, tuple[np.ndarray, np.ndarray]],
    random: np.random.Generator,
    options: ULiraOptions,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Log-ratios of the target's forgotten and unseen examples, and the fewest shadows used."""
    base, run, examples = target
    columns = np.concatenate(examples)
    others = np.flatnonzero(np.arange(len(margins)) != base)
    # One random order of all shadow models, so that a cut does not favor some base models.
    order = random.permutation(others.size * margins.shape[1])
    model, which = others[order // margins.shape[1]], order % margins.shape[1]
    pick = (model[:, None], which[:, None], columns)
    shadow, unlearned = margins[pick], forgotten[pick]
    never = unseen[model[:, None], columns]
    count = np.minimum(unlearned.sum(0), never.sum(0))
    if count.min() < max(options.min_shadows, 2):
        raise ValueError(
            f"expected at least {max(options.min_shadows, 2)} shadow models that unlearned, and as "
            f"many that never saw, each example, found {count.min()} for example "
            f"{int(columns[count.argmin()])}: add base models or runs, or shrink the pool"
        )
    count = np.minimum(count, options.cap)
    sides = [side & (np.cumsum(side, 0) <= count) for side in (unlearned, never)]
    positive, negative = (fit_normals(shadow, side, fit=options.fit) for side in sides)
    values = margins[base, run, columns]
    ratios = positive.log_density(values) - negative.log_density(values)
    half = columns.size // 2
    return ratios[:half], ratios[half:], int(count.min())


def _check(
    margins: ArrayLike, trained: ArrayLike, forgotten: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    margins = check_finite("margins", margins)
    trained, forgotten = np.asarray(trained), np.asarray(forgotten)
    if margins.ndim != 3 or min(margins.shape, default=0) < 1 or margins.shape[0] < 2:
        raise ValueError(
            "expected margins [base models, runs, examples] of at least two base models, found "
            f"shape {margins.shape}: shadow models must not share the target's base model"
        )
    if (
        forgotten.shape != margins.shape
        or trained.shape != (margins.shape[0], margins.shape[2])
        or (trained.dtype, forgotten.dtype) != (bool, bool)
    ):
        raise ValueError(
            f"expected bool masks trained [N, n] and forgotten [N, k, n] for margins "
            f"{margins.shape}, found {trained.dtype} {trained.shape} and {forgotten.dtype} "
            f"{forgotten.shape}: give one entry per base model, run and example"
        )
    if (forgotten & ~trained[:, None]).any():
        raise ValueError(
            "expected only examples to be forgotten that the base model was trained on, found "
            f"{int((forgotten & ~trained[:, None]).sum())} others: check the order of the models"
        )
    return margins, trained, forgotten
