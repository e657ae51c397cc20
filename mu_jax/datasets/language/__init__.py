"""Texts as rows of tokens: tokenizers, templates, scored tokens, secrets, padding and packing."""

from mu_jax.datasets.language.packing import Packed, cut, packed, padded
from mu_jax.datasets.language.rows import chats, documents, preferences, questions
from mu_jax.datasets.language.sequences import PreferenceRows, Tokenized, TokenRows, tokenized
from mu_jax.datasets.language.templates import (
    CHATML,
    PLAIN,
    JinjaTemplate,
    RoleTemplate,
    Script,
    Template,
    read_chat_template,
)
from mu_jax.datasets.language.tokenizer import (
    ByteTokenizer,
    Encoded,
    FileTokenizer,
    Tokenizer,
    read_tokenizer,
)

__all__ = [
    "CHATML",
    "PLAIN",
    "ByteTokenizer",
    "Encoded",
    "FileTokenizer",
    "JinjaTemplate",
    "Packed",
    "PreferenceRows",
    "RoleTemplate",
    "Script",
    "Template",
    "TokenRows",
    "Tokenized",
    "Tokenizer",
    "chats",
    "cut",
    "documents",
    "packed",
    "padded",
    "preferences",
    "questions",
    "read_chat_template",
    "read_tokenizer",
    "tokenized",
]
