"""Evaluation of unlearning: pure functions of outputs, labels and per-example scores.

`score` takes models, so it is at home above, in `mu_jax.scoring`; it loads when it is touched, and
so does the room of language models, `evaluation.language`.
"""

import importlib
from typing import Any

from mu_jax.evaluation.accuracy import (
    accuracy,
    accuracy_by_class,
    confidence,
    entropy,
    losses,
    mean_squared_error,
    r2,
)
from mu_jax.evaluation.bootstrap import bootstrap_interval, paired_interval
from mu_jax.evaluation.collapse import Collapse, EnsembleCollapse, collapsed, collapsed_models
from mu_jax.evaluation.competition import (
    ForgettingQuality,
    competition_score,
    forgetting_points,
    forgetting_quality,
    forgetting_quality_floor,
)
from mu_jax.evaluation.confidence_scores import (
    MembershipScores,
    membership_scores,
    modified_entropy,
    modified_entropy_as_published,
)
from mu_jax.evaluation.corrective import CorrectiveCurve, corrective_curve
from mu_jax.evaluation.divergence import (
    activation_distance,
    agreement,
    js_divergence,
    kl_divergence,
    pairwise_floor,
    zrf,
    zrf_as_published,
)
from mu_jax.evaluation.forgot import NothingForgotten, nothing_forgotten
from mu_jax.evaluation.gaps import AverageGap, average_gap, tug_of_war
from mu_jax.evaluation.intervals import (
    Interval,
    clopper_pearson,
    quantile_interval,
    t_interval,
    two_level_interval,
    values_needed,
)
from mu_jax.evaluation.klom import klom, klom_floor
from mu_jax.evaluation.klom_check import KlomCheck, klom_check, klom_influence
from mu_jax.evaluation.klom_intervals import klom_difference, klom_interval
from mu_jax.evaluation.lira import lira, lira_offline
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
from mu_jax.evaluation.nomus import Nomus, nomus, nomus_floor, nomus_gap
from mu_jax.evaluation.outliers import ensemble_distance
from mu_jax.evaluation.regression import (
    PairedDistance,
    RegressionErrors,
    RegressionMia,
    constant_predictions,
    errors_by_split,
    example_errors,
    paired_distance,
    regression_errors,
    regression_mia,
    wasserstein,
)
from mu_jax.evaluation.representation import knn_predict, knn_transfer, linear_cka
from mu_jax.evaluation.roc import (
    AttackSummary,
    BestThreshold,
    attack_summary,
    balanced_accuracy_floor,
    best_threshold,
)
from mu_jax.evaluation.svc_attack import SvcMia, svc_mia, svc_training_privacy
from mu_jax.evaluation.threshold_attack import ThresholdMia, threshold_mia
from mu_jax.evaluation.u_lira import ULira, ULiraOptions, ULiraTargets, u_lira, u_lira_floor

__all__ = [
    "AttackSummary",
    "AverageGap",
    "BestThreshold",
    "Collapse",
    "CorrectiveCurve",
    "EnsembleCollapse",
    "EntropyMia",
    "ForgettingQuality",
    "Interval",
    "KlomCheck",
    "LossMia",
    "MembershipScores",
    "Nomus",
    "NothingForgotten",
    "PairedDistance",
    "RegressionErrors",
    "RegressionMia",
    "SvcMia",
    "ThresholdMia",
    "ULira",
    "ULiraOptions",
    "ULiraTargets",
    "accuracy",
    "accuracy_by_class",
    "activation_distance",
    "agreement",
    "attack_summary",
    "auc",
    "auc_null_std",
    "average_gap",
    "balanced_accuracy_floor",
    "best_threshold",
    "bootstrap_interval",
    "clopper_pearson",
    "collapsed",
    "collapsed_models",
    "competition_score",
    "confidence",
    "constant_predictions",
    "corrective_curve",
    "ensemble_distance",
    "entropy",
    "entropy_mia",
    "errors_by_split",
    "example_errors",
    "forgetting_points",
    "forgetting_quality",
    "forgetting_quality_floor",
    "js_divergence",
    "kl_divergence",
    "klom",
    "klom_check",
    "klom_difference",
    "klom_floor",
    "klom_influence",
    "klom_interval",
    "knn_predict",
    "knn_transfer",
    "linear_cka",
    "lira",
    "lira_offline",
    "loss_mia",
    "losses",
    "margins",
    "mean_squared_error",
    "membership_scores",
    "modified_entropy",
    "modified_entropy_as_published",
    "nomus",
    "nomus_floor",
    "nomus_gap",
    "nothing_forgotten",
    "paired_distance",
    "paired_interval",
    "pairwise_floor",
    "quantile_interval",
    "r2",
    "regression_errors",
    "regression_mia",
    "score",
    "svc_mia",
    "svc_training_privacy",
    "t_interval",
    "threshold_mia",
    "tpr_at_fpr",
    "tug_of_war",
    "two_level_interval",
    "u_lira",
    "u_lira_floor",
    "values_needed",
    "wasserstein",
    "zrf",
    "zrf_as_published",
]

_ROOMS = ("language",)
_ABOVE = {"score": "mu_jax.scoring"}  # nothing in this room uses what stands above it


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"mu_jax.evaluation.{name}")
    if name in _ABOVE:
        return getattr(importlib.import_module(_ABOVE[name]), name)
    raise AttributeError(f"module 'mu_jax.evaluation' has no attribute {name!r}")
