"""A tokenizer of whole words, for small made-up languages."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mu_jax.datasets.language import Encoded

_WORD = re.compile(r"\w+|[^\w\s]")


@dataclasses.dataclass(frozen=True)
class WordTokenizer:
    """Words and signs of a list as ids from 2; 0 ends a text and fills up rows, 1 is unknown.

    Example:
      >>> words = WordTokenizer.of(["Who is it?"])
      >>> words.encode("Who?").tokens.tolist(), words.decode([5, 2, 0])
      ([5, 2], 'Who ?')
    """

    known: Mapping[str, int]
    begin: int | None = None
    end: int = 0
    pad: int = 0

    @classmethod
    def of(cls, texts: Iterable[str]) -> WordTokenizer:
        """The tokenizer of the words in some texts, in alphabetical order."""
        words = sorted({word for text in texts for word in _WORD.findall(text)})
        order = sorted(words, key=lambda word: (word.isalpha(), word.lower(), word))
        return cls({word: number for number, word in enumerate(order, 2)})

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return len(self.known) + 2

    def encode(self, text: str) -> Encoded:
        """The words of a text."""
        found = list(_WORD.finditer(text))
        tokens = np.array([self.known.get(word.group(), 1) for word in found], np.int32)
        places = np.array([word.span() for word in found], np.int32).reshape(-1, 2)
        return Encoded(tokens, places[:, 0], places[:, 1])

    def decode(self, tokens: Any) -> str:
        """The words, with a space between them; what is no word is left out."""
        names = {number: word for word, number in self.known.items()}
        return " ".join(names[int(token)] for token in tokens if int(token) in names)

    def token_id(self, token: str) -> int | None:
        """The id of a word."""
        return self.known.get(token)
