"""Evaluations that train, and those along a line: relearning, worst cases, connectivity."""

from mu_jax.probes.connectivity import Connectivity, barrier, linear_mode_connectivity
from mu_jax.probes.relearning import (
    AnamnesisIndex,
    Relearned,
    RelearnTime,
    absolute_error,
    anamnesis_index,
    correctness,
    median_relearn_time,
    relearn,
    relearn_target,
    relearn_time,
    relearning_curve,
)
from mu_jax.probes.worst_case import WorstCaseSet, project_capped_simplex, worst_case_set

__all__ = [
    "AnamnesisIndex",
    "Connectivity",
    "RelearnTime",
    "Relearned",
    "WorstCaseSet",
    "absolute_error",
    "anamnesis_index",
    "barrier",
    "correctness",
    "linear_mode_connectivity",
    "median_relearn_time",
    "project_capped_simplex",
    "relearn",
    "relearn_target",
    "relearn_time",
    "relearning_curve",
    "worst_case_set",
]
