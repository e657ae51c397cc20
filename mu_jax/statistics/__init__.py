"""Streamed statistics: sums over examples that can be saved, merged and continued."""

from mu_jax.statistics import curvature
from mu_jax.statistics.accumulator import Accumulator, Statistic, fingerprint
from mu_jax.statistics.collecting import collect
from mu_jax.statistics.gradients import mean_gradient
from mu_jax.statistics.importance import importance, importance_routes

__all__ = [
    "Accumulator",
    "Statistic",
    "collect",
    "curvature",
    "fingerprint",
    "importance",
    "importance_routes",
    "mean_gradient",
]
