"""Scores of generated text against a reference, on the host: ROUGE-L and ROUGE-1."""

from __future__ import annotations

import collections
import functools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mu_jax._extras import extra


class Rouge(NamedTuple):
    """recall, precision and their harmonic mean, each f64 `[n]`."""

    recall: np.ndarray
    precision: np.ndarray
    f1: np.ndarray


def rouge_l(generations: Sequence[str], references: Sequence[str], *, stem: bool) -> Rouge:
    """ROUGE-L of texts: the longest common subsequence of words.

    `recall = LCS / |reference|`, `precision = LCS / |generation|`, `f1 = 2 P R / (P + R)`; all 0
    where nothing is common or a side has no word. Words are the runs of a-z and 0-9 after lowering
    the case; all else separates them. TOFU reports the recall with stemming, MUSE the F1 without.

    Args:
        generations, references: n texts each.
        stem: reduce words of more than three letters to their stem by Porter's algorithm (the extra
            `text`).

    Returns:
        `Rouge`.

    Raises:
        ValueError: another number of references than of generations.

    Cost:
        On the host, `|generation| |reference|` comparisons a pair, a row at a time.

    Differences from the package rouge-score 0.1.2, whose words and stems these are:
        1. None in value. It has had no release since 2022; what it takes from nltk, the stemmer, is
           taken from there.

    Example:
        >>> found = rouge_l(["the cat lay on a mat today"], ["the cat sat on the mat"], stem=False)
        >>> [round(float(score[0]), 6) for score in found]
        [0.666667, 0.571429, 0.615385]

    Reference:
        Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004.
    """
    return _rouge(generations, references, stem, _common_subsequence)


def rouge_1(generations: Sequence[str], references: Sequence[str], *, stem: bool) -> Rouge:
    """ROUGE-1 of texts: common words, each as often as both have it; else as `rouge_l`.

    Example:
        >>> found = rouge_1(["no, no"], ["no and yes"], stem=False)
        >>> [round(float(score[0]), 6) for score in found]
        [0.333333, 0.5, 0.4]
    """
    return _rouge(generations, references, stem, _common_words)


def _rouge(
    generations: Sequence[str],
    references: Sequence[str],
    stem: bool,
    common: Callable[[list[str], list[str]], int],
) -> Rouge:
    if len(generations) != len(references) or isinstance(generations, str):
        raise ValueError(
            f"expected one reference for each generation, found {len(generations)} generations and "
            f"{len(references)} references: give two lists of texts"
        )
    scores = np.zeros((3, len(references)))
    for i, (generation, reference) in enumerate(zip(generations, references)):
        found, wanted = words(generation, stem=stem), words(reference, stem=stem)
        number = common(wanted, found)
        if number:
            recall, precision = number / len(wanted), number / len(found)
            scores[:, i] = recall, precision, 2 * precision * recall / (precision + recall)
    return Rouge(*scores)


def words(text: str, *, stem: bool) -> list[str]:
    """The words of a text as ROUGE counts them: lower case, letters a-z and digits, stemmed."""
    found = re.findall("[a-z0-9]+", text.lower())
    if not stem:
        return found
    return [_stemmer().stem(word) if len(word) > 3 else word for word in found]


@functools.cache
def _stemmer():
    with extra("text"):
        from nltk.stem.porter import PorterStemmer
    return PorterStemmer()


def _common_subsequence(first: list[str], second: list[str]) -> int:
    """Length of the longest common subsequence, row by row."""
    ids: dict[str, int] = {}
    a, b = (np.array([ids.setdefault(w, len(ids)) for w in side], int) for side in (first, second))
    row = np.zeros(b.size + 1, int)
    for word in a:
        grown = np.maximum(row[1:], row[:-1] + (b == word))
        row[1:] = np.maximum.accumulate(grown)
    return int(row[-1])


def _common_words(first: list[str], second: list[str]) -> int:
    return (collections.Counter(first) & collections.Counter(second)).total()
