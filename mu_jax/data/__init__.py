"""Examples: batches, streams, stable ids, and the split into forget and retain sets."""

from mu_jax.data.batches import (
    Batch,
    Batches,
    batches,
    concatenate,
    in_memory,
)
from mu_jax.data.forget_retain import split
from mu_jax.data.id_table import IdTable, id_table, load_id_table
from mu_jax.data.streams import Stream, stream
from mu_jax.data.tokens import Preference, Tokens, TokenTargets

__all__ = [
    "Batch",
    "Batches",
    "IdTable",
    "Preference",
    "Stream",
    "TokenTargets",
    "Tokens",
    "batches",
    "concatenate",
    "id_table",
    "in_memory",
    "load_id_table",
    "split",
    "stream",
]
