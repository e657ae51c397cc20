"""Training objectives, one family a file."""

from mu_jax.objectives.blindspot import attention_layers, attention_map, blindspot
from mu_jax.objectives.gradient_restriction import gradient_restriction, restricted_loss
from mu_jax.objectives.supervised import supervised

__all__ = [
    "attention_layers",
    "attention_map",
    "blindspot",
    "gradient_restriction",
    "restricted_loss",
    "supervised",
]
