"""Training objectives, one family a file."""

from mu_jax.objectives.gradient_restriction import gradient_restriction, restricted_loss
from mu_jax.objectives.supervised import supervised

__all__ = ["gradient_restriction", "restricted_loss", "supervised"]
