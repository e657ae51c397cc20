"""TOFU: the numbers of a set of questions, model utility, forget quality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from mu_jax._extras import extra
from mu_jax.evaluation.intervals import Interval
from mu_jax.evaluation.language.truth_ratio import (
    closeness_to_one,
    losses_of_answers,
    preference_for_truth,
    probability_with_options,
    truth_ratio,
)

FORGET, RETAIN = "forget", "retain"
UTILITY_SETS = (RETAIN, "real authors", "world facts")
PARAPHRASED = (FORGET, RETAIN)  # the others have no paraphrases, and probabilities with options
SMALLEST = float(np.log10(5e-324))  # p-values below underflow
FEWEST = 20  # questions a set: with fewer, no interval of the utility is given
UNCERTAIN = 0.3  # relative standard error of one of the nine numbers, above which there is none


class TofuSet(NamedTuple):
    """What a model says of one set of questions; each is kept by example, as the log of a run.

    answer_nll: `mean_nll` of the true answers, [n]. perturbed_nll: of the wrong ones, [n, m].
    rouge: ROUGE-L recall, stemmed, of the greedy answers, [n]. paraphrased_nll: of paraphrases of
    the true answers, [n]; `()` where there are none. ids: of the questions, [n], if known: logs of
    other questions are then refused.
    """

    answer_nll: ArrayLike
    perturbed_nll: ArrayLike
    rouge: ArrayLike
    paraphrased_nll: Any = ()
    ids: Any = ()


class ForgetQuality(NamedTuple):
    """Result of `forget_quality`.

    p_value: of the two-sided Kolmogorov-Smirnov test. log10_p: its logarithm, -323.3 where the
    p-value underflows. statistic: the largest distance of the distribution functions. n,
    n_retrained: questions; p-values of different numbers are not comparable.
    """

    p_value: float
    log10_p: float
    statistic: float
    n: int
    n_retrained: int


def utility_numbers(found: TofuSet, name: str) -> dict[str, np.ndarray]:
    """Probability, ROUGE and truth ratio score of every question of a set, f64 `[n]` each.

    The forget set has the plain probability and `closeness_to_one`, the retain set the plain
    probability and `preference_for_truth`, both with paraphrases; real authors and world facts the
    probability with options and `preference_for_truth`, against the answer itself if they have no
    paraphrases.

    Args:
        found: the losses. name: "forget", "retain", "real authors" or "world facts".

    Raises:
        ValueError: as `truth_ratio`; another number of ROUGE scores; no paraphrases of forget or
            retain.
    """
    answer, wrong = losses_of_answers(found.answer_nll, found.perturbed_nll)
    rouge = np.asarray(found.rouge, np.float64)
    if rouge.shape != answer.shape or not np.isfinite(rouge).all():
        raise ValueError(
            f"expected one finite ROUGE score for each of {answer.size} questions of {name!r}, "
            f"found shape {rouge.shape}: score the generations of the same questions"
        )
    ratio = ratio_of(found, name)
    score = closeness_to_one if name == FORGET else preference_for_truth
    plain = name in PARAPHRASED
    likely = np.exp(-answer) if plain else probability_with_options(answer, wrong)
    return {"probability": likely, "ROUGE": rouge, "truth ratio": score(ratio)}


def ratio_of(found: TofuSet, name: str) -> np.ndarray:
    """The truth ratios of a set: against paraphrases, or the answers where there need be none."""
    plain = np.size(found.paraphrased_nll) == 0
    if plain and name in PARAPHRASED:
        raise ValueError(
            f"expected the losses of paraphrased answers for {name!r}, found none: the truth ratio "
            "of this set is defined on paraphrases"
        )
    return truth_ratio(found.answer_nll if plain else found.paraphrased_nll, found.perturbed_nll)


def harmonic_mean(values: ArrayLike) -> float:
    """Harmonic mean of numbers >= 0, `n / sum_i 1 / x_i`; 0 as soon as one is 0.

    Raises:
        ValueError: no values, negative or non-finite ones.

    Example:
        >>> round(harmonic_mean([0.9, 0.8, 0.5, 0.4, 0.9, 0.6, 0.4, 0.9, 0.5]), 6)
        0.590164
    """
    values = np.asarray(values, np.float64)
    if not values.size or not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError(
            f"expected finite numbers >= 0, found {values.tolist()}: a metric that failed has no "
            "value, and leaves the mean without one"
        )
    return 0.0 if (values == 0).any() else float(values.size / np.sum(1 / values))


def model_utility(sets: Mapping[str, TofuSet]) -> float:
    """TOFU's model utility: the harmonic mean of nine numbers.

    The means of probability, ROUGE and truth ratio score (`utility_numbers`) over the retain set,
    real authors and world facts. Direction: higher is better, and not above the retrained model's.
    It is 0 as soon as one of the nine is 0.

    Args:
        sets: by name; "retain", "real authors" and "world facts" are read.

    Raises:
        ValueError: a set is missing, or as `utility_numbers`.

    Reference:
        Maini, Feng, Schwarzschild, Lipton, Kolter, "TOFU: A Task of Fictitious Unlearning for
        LLMs", COLM 2024.
    """
    return harmonic_mean(np.array([x.mean() for part in _nine(sets) for x in part.values()]))


def _nine(sets: Mapping[str, TofuSet]) -> list[dict[str, np.ndarray]]:
    absent = [name for name in UTILITY_SETS if name not in sets]
    if absent:
        raise ValueError(
            f"expected the sets {', '.join(UTILITY_SETS)}, found none of {', '.join(absent)}: "
            "score them, or report the numbers of the others alone"
        )
    return [utility_numbers(sets[name], name) for name in UTILITY_SETS]


def model_utility_interval(sets: Mapping[str, TofuSet], *, level: float = 0.95) -> Interval:
    """Interval of the model utility over other questions of the same kinds.

    With m_k the nine means and h the utility, question i of set s moves h by
    `g_i = h^2 / 9 sum_{k in s} x_ki / m_k^2`; the standard error of h is
    `sqrt(sum_s var(g) / n_s)`. On the logarithmic scale, with Student's t of the smallest set:
    `h exp(+- t error / h)`.

    Args:
        sets: as `model_utility`, at least 20 questions each. level: probability of covering.

    Raises:
        ValueError: fewer questions, or one of the nine numbers is hardly told from 0.
    """
    with extra("evaluation"):
        from scipy.stats import t

    parts = _nine(sets)
    sizes = [len(part["ROUGE"]) for part in parts]
    value = harmonic_mean(np.array([x.mean() for part in parts for x in part.values()]))
    relative = [x.std(ddof=1) / x.mean() / x.size**0.5 for p in parts for x in p.values() if value]
    if min(sizes) < FEWEST or not value or max(relative) > UNCERTAIN:
        raise ValueError(
            f"expected at least {FEWEST} questions a set and nine numbers well above 0, found "
            f"{min(sizes)} questions and a utility of {value:.3g}: print no interval"
        )
    moves = [value**2 / 9 * sum(x / x.mean() ** 2 for x in part.values()) for part in parts]
    error = np.sqrt(sum(move.var(ddof=1) / move.size for move in moves))
    width = float(np.exp(t.ppf((1 + level) / 2, min(sizes) - 1) * error / value))
    return Interval(value, value / width, value * width, level)


def forget_quality(ratio: ArrayLike, retrained_ratio: ArrayLike) -> ForgetQuality:
    """TOFU's forget quality: whether truth ratios look like those of the retrained model.

    The p-value of the two-sided Kolmogorov-Smirnov test of R on the forget set, exact up to 10,000
    questions. The retrained model's ratios are required. Direction: higher is better, but a perfect
    unlearner's p-value is spread over all of (0, 1): values above 0.05 tell nothing apart. The test
    is the same for R and 1 / R. With 40 questions a small difference goes unseen.

    Args:
        ratio: float `[n]`, `truth_ratio` of the unlearned model on the forget set.
        retrained_ratio: float `[m]`, of the model trained without it, on the same questions.

    Returns:
        `ForgetQuality`, Python numbers.

    Raises:
        ValueError: an empty side, or non-finite ratios.

    Cost:
        One sort, and `O(n m)` at most for the exact value; on the host.

    Example:
        >>> found = forget_quality(np.arange(1, 21) / 20, np.arange(1, 21) / 20 + 0.2)
        >>> round(found.statistic, 2), round(found.p_value, 6)
        (0.25, 0.571336)

    Reference:
        Maini, Feng, Schwarzschild, Lipton, Kolter, "TOFU: A Task of Fictitious Unlearning for
        LLMs", COLM 2024.
    """
    with extra("evaluation"):
        from scipy.stats import ks_2samp

    sides = [np.asarray(side, np.float64) for side in (ratio, retrained_ratio)]
    if any(side.ndim != 1 or not side.size or not np.isfinite(side).all() for side in sides):
        raise ValueError(
            f"expected finite truth ratios of both models, [n] and [m], found shapes "
            f"{sides[0].shape} and {sides[1].shape}: a model without finite ratios has failed"
        )
    found = ks_2samp(*sides)
    p = float(found.pvalue)
    logarithm = max(SMALLEST, float(np.log10(p))) if p > 0 else SMALLEST
    return ForgetQuality(p, logarithm, float(found.statistic), sides[0].size, sides[1].size)
