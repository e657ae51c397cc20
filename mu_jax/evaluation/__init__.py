"""Evaluation of unlearning: pure functions of outputs, labels and per-example scores."""

from mu_jax.evaluation.accuracy import (
    accuracy,
    accuracy_by_class,
    confidence,
    entropy,
    losses,
    mean_squared_error,
    r2,
)
from mu_jax.evaluation.collapse import Collapse, collapsed
from mu_jax.evaluation.gaps import AverageGap, average_gap, tug_of_war
from mu_jax.evaluation.klom import klom, klom_floor
from mu_jax.evaluation.margins import margins
from mu_jax.evaluation.membership import (
    EntropyMia,
    LossMia,
    auc,
    auc_null_std,
    entropy_mia,
    loss_mia,
    tpr_at_fpr,
)

__all__ = [
    "AverageGap",
    "Collapse",
    "EntropyMia",
    "LossMia",
    "accuracy",
    "accuracy_by_class",
    "auc",
    "auc_null_std",
    "average_gap",
    "collapsed",
    "confidence",
    "entropy",
    "entropy_mia",
    "klom",
    "klom_floor",
    "loss_mia",
    "losses",
    "margins",
    "mean_squared_error",
    "r2",
    "tpr_at_fpr",
    "tug_of_war",
]
