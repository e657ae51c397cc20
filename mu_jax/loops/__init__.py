"""The one loop over batches, the one optimization loop, and what is built on them."""

from mu_jax.loops.averaging import AverageState, average_weights
from mu_jax.loops.batch_stats import refresh_statistics
from mu_jax.loops.exact_statistics import exact_statistics
from mu_jax.loops.fit import FitInfo, FitState, Objective, fit
from mu_jax.loops.gradients import (
    Gradients,
    StepTerms,
    Term,
    micro_batches,
    per_term,
    plain,
    sam,
    total,
)
from mu_jax.loops.phases import Phase, PhasesInfo, PhasesState, fit_phases
from mu_jax.loops.predict import map_rows, outputs
from mu_jax.loops.progress import progress
from mu_jax.loops.proximal import PullState, pull_back
from mu_jax.loops.recording import record
from mu_jax.loops.restriction import gradient_restriction, restricted_loss
from mu_jax.loops.scan import Observer, fold, observe
from mu_jax.loops.smoothing import random_smoothing
from mu_jax.loops.stopping import Until

__all__ = [
    "AverageState",
    "FitInfo",
    "FitState",
    "Gradients",
    "Objective",
    "Observer",
    "Phase",
    "PhasesInfo",
    "PhasesState",
    "PullState",
    "StepTerms",
    "Term",
    "Until",
    "average_weights",
    "exact_statistics",
    "fit",
    "fit_phases",
    "fold",
    "gradient_restriction",
    "map_rows",
    "micro_batches",
    "observe",
    "outputs",
    "per_term",
    "plain",
    "progress",
    "pull_back",
    "random_smoothing",
    "record",
    "refresh_statistics",
    "restricted_loss",
    "sam",
    "total",
]
