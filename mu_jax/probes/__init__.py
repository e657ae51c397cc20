"""Evaluations that train: relearning, and the search for worst-case forget sets."""

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
    "RelearnTime",
    "Relearned",
    "WorstCaseSet",
    "absolute_error",
    "anamnesis_index",
    "correctness",
    "median_relearn_time",
    "project_capped_simplex",
    "relearn",
    "relearn_target",
    "relearn_time",
    "relearning_curve",
    "worst_case_set",
]
