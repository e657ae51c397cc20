"""A model that is a table of bigrams, rows of tokens for it, and the golden numbers."""

from __future__ import annotations

import numpy as np

from mu_jax.data.tokens import Tokens, TokenTargets
from mu_jax.evaluation import language

PADDING = 0


def scored_targets(golden, name, *, without_last: bool = False) -> TokenTargets:
    """The targets of a set; the released programs drop the last scored token in some metrics."""
    mask = (golden[f"{name}/labels"] != -100).astype(np.float32)
    if without_last:
        last = mask.shape[1] - 1 - np.argmax(mask[:, ::-1], 1)
        mask[np.arange(len(mask)), last] = 0
    return TokenTargets(golden[f"{name}/tokens"].astype(np.int32), mask)


def golden_statistics(golden, name, *, table="table", without_last=False):
    """Token statistics of a set of the golden file."""
    targets = scored_targets(golden, name, without_last=without_last)
    return language.token_statistics(golden[table][targets.tokens], targets)


def text_statistics(golden, texts, table):
    """Token statistics of whole texts, padded on the right."""
    number = {word: i for i, word in enumerate(golden["vocabulary"])}
    documents = [[number[word] for word in text.split()] for text in texts]
    inputs, targets = rows(documents, [1] * len(documents), max(map(len, documents)))
    return language.token_statistics(golden[table][inputs.tokens], targets)


def rows(documents, prompts, length, *, left=False) -> tuple[Tokens, TokenTargets]:
    """One document a row; its first `prompt` tokens are not scored."""
    tokens = np.full((len(documents), length), PADDING, np.int32)
    position, segment = np.zeros_like(tokens), np.zeros_like(tokens)
    mask = np.zeros(tokens.shape, np.float32)
    for i, (document, prompt) in enumerate(zip(documents, prompts)):
        start = length - len(document) if left else 0
        where = slice(start, start + len(document))
        tokens[i, where], segment[i, where] = document, 1
        position[i, where] = np.arange(len(document))
        mask[i, start + prompt : start + len(document)] = 1
    return Tokens(tokens, position, segment), TokenTargets(tokens, mask)


def packed(documents, prompts) -> tuple[Tokens, TokenTargets]:
    """All documents in one row."""
    parts = [rows([d], [p], len(d)) for d, p in zip(documents, prompts)]
    inputs = Tokens(*(np.concatenate(x, 1) for x in zip(*(part[0] for part in parts))))
    number = np.concatenate([[i] * len(d) for i, d in enumerate(documents, 1)])[None]
    mask = np.concatenate([part[1].mask for part in parts], 1)
    return inputs._replace(segment=number), TokenTargets(inputs.tokens, mask)
