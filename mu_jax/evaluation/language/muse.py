"""MUSE: verbatim and knowledge memorization of generated text, and the leakage of membership."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from mu_jax.evaluation.language.text import rouge_l
from mu_jax.evaluation.membership import auc, auc_null_std

VERBATIM_TOKENS, ANSWER_TOKENS = 128, 32  # generated greedily in MUSE


class PrivLeak(NamedTuple):
    """Result of `privleak`.

    value: percent, 0 for an unlearned model that leaks as the retrained one does; negative says
    that too little was unlearned, positive too much. auc, auc_retrained: of forgotten against
    unseen texts, 0 where every forgotten text looks like a member, 0.5 where nothing tells.
    null_std: standard deviation of an AUC around 0.5 if both sides were alike.
    n_forget, n_holdout: texts of the unlearned model.
    """

    value: float
    auc: float
    auc_retrained: float
    null_std: float
    n_forget: int
    n_holdout: int


def privleak(
    forget_scores: ArrayLike,
    holdout_scores: ArrayLike,
    retrained_forget_scores: ArrayLike,
    retrained_holdout_scores: ArrayLike,
) -> PrivLeak:
    """PrivLeak: how far a membership attack is from where it stands on the retrained model.

    With `A = P(forget > holdout) + P(forget = holdout) / 2` for scores that are low for members,

        `value = 100 (A - A_retrained) / A_retrained`.

    Published models aim for [-5, 5]; the band that chance leaves is `privleak_floor`. The ratio is
    unstable where the retrained AUC is near 0, so both AUCs are returned: print them. Direction:
    closer to 0, which is the retrained model's.

    Args:
        forget_scores, holdout_scores: float `[n]`, `[m]`, such as `min_k` with ratio 0.4.
        retrained_forget_scores, retrained_holdout_scores: those of the retrained model.

    Returns:
        `PrivLeak`, Python numbers.

    Raises:
        ValueError: an empty side, non-finite or equal scores, or a retrained AUC of 0.

    Differences from the published programs:
        1. A retrained model is required. One program takes 0.5 without a word, the other a table of
           published AUCs.
        2. One adds 1e-10 to the divisor, so that a retrained AUC of 0 gives a huge number; here it
           is an error.

    Example:
        >>> found = privleak([1, 1.2, 0.9, 2, 1.1], [1.5, 2.2, 1.8, 0.95, 2.5], [1, 2], [1, 2])
        >>> round(found.auc, 2), found.auc_retrained, round(found.value, 1)
        (0.24, 0.5, -52.0)

    Reference:
        Shi et al., "MUSE: Machine Unlearning Six-Way Evaluation for Language Models", ICLR 2025.
    """
    found = auc(forget_scores, holdout_scores)
    retrained = auc(retrained_forget_scores, retrained_holdout_scores)
    if retrained == 0:
        raise ValueError(
            "expected a retrained model whose AUC is not 0, found 0: to it every forgotten text "
            "looks like a member, so check that it was trained without them"
        )
    n, m = np.size(forget_scores), np.size(holdout_scores)
    value = 100 * (found - retrained) / retrained
    return PrivLeak(value, found, retrained, auc_null_std(n, m), n, m)


def privleak_floor(n_forget: int, n_holdout: int) -> float:
    """Half the width of the band that 95 % of PrivLeaks of retrained models lie in, in percent.

    `100 * 1.96 sqrt(2) auc_null_std / 0.5`, for two retrained models whose AUCs are near 0.5 and
    independent. Models that score the same texts agree in part, so that the band is too wide for
    them rather than too narrow.

    Example:
        >>> round(privleak_floor(1000, 1000), 1)
        7.2
    """
    return float(100 * 1.96 * 2**0.5 * auc_null_std(n_forget, n_holdout) / 0.5)


def verbatim_memorization(
    generations: Sequence[str],
    continuations: Sequence[str],
    *,
    encode: Callable[[str], Sequence[Any]],
    decode: Callable[[Sequence[Any]], str],
    tokens: int = VERBATIM_TOKENS,
) -> np.ndarray:
    """VerbMem of texts: ROUGE-L F1, unstemmed, of what follows a prefix against the original.

    Args:
        generations: n texts, greedily decoded after the prefixes, at most `tokens` long.
        continuations: how the originals go on; cut to `tokens` tokens.
        encode, decode: of the model's tokenizer, without special tokens.
        tokens: 128 in MUSE.

    Returns:
        f64 `[n]` in [0, 1]; MUSE prints 100 times the mean. Direction: closer to retrain.

    Example:
        >>> cut = dict(encode=str.split, decode=" ".join, tokens=2)
        >>> verbatim_memorization(["on a"], ["on a hill"], **cut).tolist()
        [1.0]

    Reference:
        Shi et al., "MUSE: Machine Unlearning Six-Way Evaluation for Language Models", ICLR 2025.
    """
    cut = [decode(encode(text)[:tokens]) for text in continuations]
    return rouge_l(generations, cut, stem=False).f1


def knowledge_memorization(generations: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """KnowMem of questions: ROUGE-L F1, unstemmed, of the cut answers against the true ones.

    Args:
        generations: n texts, greedily decoded after a few-shot prompt of "Question: ...",
            "Answer: ..." blocks; 32 tokens in MUSE. They are cut by `cut_answer`.
        answers: the true ones.

    Returns:
        f64 `[n]` in [0, 1]; MUSE prints 100 times the mean. Direction: closer to retrain on what is
        to be forgotten, higher on the rest.

    Example:
        >>> knowledge_memorization(["in May Question: And then"], ["in May"]).tolist()
        [1.0]

    Reference:
        Shi et al., "MUSE: Machine Unlearning Six-Way Evaluation for Language Models", ICLR 2025.
    """
    return rouge_l([cut_answer(text) for text in generations], answers, stem=False).f1


def cut_answer(text: str) -> str:
    r"""The text up to an empty line, a new line "Question", or "Question:".

    Example:
        >>> cut_answer("Anna Holm \n\n Question: next")
        'Anna Holm '
    """
    for end in ("\n\n", "\nQuestion", "Question:"):
        text = text.split(end)[0]
    return text
