"""ROUGE: the words that count, and the longest common subsequence against a table."""

from __future__ import annotations

import numpy as np
import pytest

from mu_jax.evaluation import language


def common_subsequence(first, second):
    table = np.zeros((len(first) + 1, len(second) + 1), int)
    for i, a in enumerate(first, 1):
        for j, b in enumerate(second, 1):
            same = table[i - 1, j - 1] + 1
            table[i, j] = same if a == b else max(table[i - 1, j], table[i, j - 1])
    return table[-1, -1]


def test_the_longest_common_subsequence():
    random = np.random.default_rng(0)
    texts = [[" ".join(random.choice(list("abcd"), n)) for n in range(1, 30)] for _ in range(2)]
    found = language.rouge_l(*texts, stem=False)
    for i, (generation, reference) in enumerate(zip(*texts)):
        wanted = common_subsequence(generation.split(), reference.split())
        assert found.recall[i] == pytest.approx(wanted / len(reference.split()))
        assert found.precision[i] == pytest.approx(wanted / len(generation.split()))


def test_words():
    assert language.words("Café-bar, N°5!", stem=False) == ["caf", "bar", "n", "5"]
    assert language.words("the Stories was dying", stem=True) == ["the", "stori", "was", "die"]


def test_texts_without_words_score_zero():
    found = language.rouge_l(["", "...", "yes", "no"], ["yes", "yes", "", "yes"], stem=False)
    assert not np.any(found)


def test_bad_input_is_one_sentence():
    with pytest.raises(ValueError, match="found 1 generations and 2 references"):
        language.rouge_l(["a"], ["a", "b"], stem=False)
    with pytest.raises(ValueError, match="give two lists of texts"):
        language.rouge_1("a", "b", stem=False)


def test_answers_are_cut_at_the_next_question():
    assert language.cut_answer("May\nQuestion 2") == "May"
    assert language.cut_answer("May\n\nJune") == "May"
    assert language.cut_answer("Question: a") == ""
    assert language.cut_answer("May\nJune") == "May\nJune"
