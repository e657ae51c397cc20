"""Evaluations that train: relearning, and the search for worst-case forget sets."""

from mu_jax.probes.relearning import (
    AnamnesisIndex,
    RelearnTime,
    absolute_error,
    anamnesis_index,
    correctness,
    median_relearn_time,
    relearn_target,
    relearn_time,
    relearning_curve,
)
from mu_jax.probes.worst_case import WorstCaseSet, project_capped_simplex, worst_case_set

__all__ = [
    "AnamnesisIndex",
    "RelearnTime",
    "WorstCaseSet",
    "absolute_error",
    "anamnesis_index",
    "correctness",
    "median_relearn_time",
    "project_capped_simplex",
    "relearn_target",
    "relearn_time",
    "relearning_curve",
    "worst_case_set",
]
