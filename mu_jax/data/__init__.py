"""Examples: batches, streams, stable ids, and the split into forget and retain sets."""

from mu_jax.data.batches import (
    Batch,
    Batches,
    batches,
    concatenate,
    in_memory,
)
from mu_jax.data.forget_retain import split
from mu_jax.data.streams import Stream, stream

__all__ = [
    "Batch",
    "Batches",
    "Stream",
    "batches",
    "concatenate",
    "in_memory",
    "split",
    "stream",
]
