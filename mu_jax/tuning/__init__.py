"""Choosing hyper-parameters: spaces, and one call that says what choosing was worth."""

from mu_jax.tuning import spaces
from mu_jax.tuning.calibration import calibrate_multiplier
from mu_jax.tuning.drawing import Log, Uniform
from mu_jax.tuning.result import Trial, Tuned
from mu_jax.tuning.tune import tune
from mu_jax.tuning.widths import across_widths, is_matrix, parameter_groups

__all__ = [
    "Log",
    "Trial",
    "Tuned",
    "Uniform",
    "across_widths",
    "calibrate_multiplier",
    "is_matrix",
    "parameter_groups",
    "spaces",
    "tune",
]
