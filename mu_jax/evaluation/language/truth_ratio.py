"""Right answers against wrong ones, by question: truth ratio and probability with options."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jax.typing import ArrayLike

Average = Literal["geometric", "arithmetic"]


def truth_ratio(
    correct_nll: ArrayLike, wrong_nll: ArrayLike, *, average: Average = "geometric"
) -> np.ndarray:
    """Truth ratio of questions: how likely wrong answers are against the correct one.

    `R = exp(correct_nll - mean_i wrong_nll_i)`, the geometric mean of the wrong answers'
    length-normalized probabilities over that of the correct answer; with "arithmetic"
    `R = mean_i exp(-wrong_nll_i) / exp(-correct_nll)`.

    Args:
        correct_nll: float `[n]`, `mean_nll` of the paraphrased answers; of the answers themselves
            where there are no paraphrases.
        wrong_nll: float `[n, m]`, of the perturbed answers.
        average: "geometric" as the programs compute, "arithmetic" as the paper writes.

    Returns:
        f64 `[n]`, positive.

    Raises:
        ValueError: shapes disagree, non-finite values, or an unknown average.

    Differences from the published programs:
        1. One adds 1e-10 to the divisor.

    Example:
        >>> losses = [[1, 1.4, 0.9], [1.2, 0.7, 1.6]]
        >>> [round(float(r), 6) for r in truth_ratio([0.8, 1.1], losses)]
        [0.740818, 0.935507]

    Reference:
        Maini, Feng, Schwarzschild, Lipton, Kolter, "TOFU: A Task of Fictitious Unlearning for
        LLMs", COLM 2024.
    """
    correct, wrong = losses_of_answers(correct_nll, wrong_nll)
    if average == "geometric":
        return np.exp(correct - wrong.mean(1))
    if average != "arithmetic":
        raise ValueError(f'expected "geometric" or "arithmetic", found {average!r}: use one')
    return np.exp(correct) * np.exp(-wrong).mean(1)


def closeness_to_one(ratio: ArrayLike) -> np.ndarray:
    """`min(R, 1 / R)` by question: 1 where right and wrong answers are alike; for the forget set.

    Example:
        >>> closeness_to_one([0.5, 4.0]).tolist()
        [0.5, 0.25]
    """
    ratio = np.asarray(ratio, np.float64)
    return np.minimum(ratio, 1 / ratio)


def preference_for_truth(ratio: ArrayLike) -> np.ndarray:
    """`max(0, 1 - R)` by question: 1 where wrong answers are impossible; for all other sets.

    Example:
        >>> preference_for_truth([0.25, 3.0]).tolist()
        [0.75, 0.0]
    """
    return np.maximum(0, 1 - np.asarray(ratio, np.float64))


def share_of_truth(ratio: ArrayLike) -> np.ndarray:
    """`correct / (correct + wrong) = 1 / (1 + R)` by question.

    Example:
        >>> share_of_truth([1.0, 3.0]).tolist()
        [0.5, 0.25]
    """
    return 1 / (1 + np.asarray(ratio, np.float64))


def probability_with_options(answer_nll: ArrayLike, wrong_nll: ArrayLike) -> np.ndarray:
    """Probability of the answer among the given ones, `P(a) / (P(a) + sum_i P(wrong_i))`.

    P is the length-normalized probability, `exp(-mean_nll)`.

    Args:
        answer_nll: float `[n]`. wrong_nll: float `[n, m]`.

    Returns:
        f64 `[n]` in (0, 1).

    Raises:
        ValueError: as `truth_ratio`.

    Example:
        >>> probability_with_options([0.0], [[0.0, 0.0, 0.0]]).tolist()
        [0.25]
    """
    answer, wrong = losses_of_answers(answer_nll, wrong_nll)
    return 1 / (1 + np.exp(answer[:, None] - wrong).sum(1))


def losses_of_answers(correct: ArrayLike, wrong: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Losses of answers [n] and of wrong ones [n, m] in f64, or a ValueError."""
    correct, wrong = np.asarray(correct, np.float64), np.asarray(wrong, np.float64)
    if correct.ndim != 1 or wrong.ndim != 2 or len(wrong) != len(correct) or not wrong.size:
        raise ValueError(
            f"expected the answers' losses [n] and the wrong ones' [n, m], found {correct.shape} "
            f"and {wrong.shape}: give those of the same questions"
        )
    if not (np.isfinite(correct).all() and np.isfinite(wrong).all()):
        raise ValueError(
            "expected finite losses, found NaN or infinity: an answer without tokens has no loss, "
            "and a model that diverged has failed"
        )
    return correct, wrong
