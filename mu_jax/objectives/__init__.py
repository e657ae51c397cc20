"""Training objectives, one family a file."""

from mu_jax.objectives.blindspot import attention_layers, attention_map, blindspot
from mu_jax.objectives.supervised import supervised

__all__ = [
    "attention_layers",
    "attention_map",
    "blindspot",
    "supervised",
]
