"""Texts as rows of tokens: tokenizers, templates, scored tokens, secrets, padding and packing."""

from mu_jax.datasets.language.tokenizer import (
    ByteTokenizer,
    Encoded,
    FileTokenizer,
    Tokenizer,
    read_tokenizer,
)

__all__ = [
    "ByteTokenizer",
    "Encoded",
    "FileTokenizer",
    "Tokenizer",
    "read_tokenizer",
]
