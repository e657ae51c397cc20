"""Training objectives, one family a file."""

from mu_jax.objectives.blindspot import attention_layers, attention_map, blindspot
from mu_jax.objectives.reference_scores import (
    ReferenceScores,
    keep_reference,
    load_reference,
)
from mu_jax.objectives.supervised import supervised

__all__ = [
    "ReferenceScores",
    "attention_layers",
    "attention_map",
    "blindspot",
    "keep_reference",
    "load_reference",
    "supervised",
]
