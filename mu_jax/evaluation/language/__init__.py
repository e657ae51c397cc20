"""Evaluation of language models that have unlearned: pure functions of token statistics and texts.

One forward pass gives `TokenStatistics`, a few numbers of each token; every teacher-forced metric
is a function of them. `statistics_of` takes a model and data, and `tofu_table`, `muse_table` and
others make the metrics of a report; they are at home above, in `mu_jax.scoring`, and load when
they are touched.
"""

import importlib
from typing import Any

from mu_jax.evaluation.language.attacks import (
    gradient_norm,
    min_k,
    min_k_plus_plus,
    reference_difference,
    zlib_ratio,
)
from mu_jax.evaluation.language.exposure import (
    Exposure,
    exposure,
    exposure_extrapolated,
    exposure_floor,
    extraction_likelihood,
)
from mu_jax.evaluation.language.hidden_states import ConceptChanges, ches, concept_changes
from mu_jax.evaluation.language.muse import (
    PrivLeak,
    cut_answer,
    knowledge_memorization,
    privleak,
    privleak_floor,
    verbatim_memorization,
)
from mu_jax.evaluation.language.recovery import (
    Recovered,
    by_modality,
    in_context_recovery,
    recovered,
    relearned,
    restoration,
    split_by_id,
)
from mu_jax.evaluation.language.sequences import (
    exact_memorization,
    extracted,
    extraction_strength,
    mean_nll,
    probability,
    sequence_nll,
    token_counts,
)
from mu_jax.evaluation.language.text import Rouge, rouge_1, rouge_l, words
from mu_jax.evaluation.language.tofu import (
    ForgetQuality,
    TofuSet,
    forget_quality,
    harmonic_mean,
    model_utility,
    model_utility_interval,
    utility_numbers,
)
from mu_jax.evaluation.language.token_stats import (
    TokenStatistics,
    per_document,
    restricted,
    token_statistics,
    token_statistics_from_hidden,
)
from mu_jax.evaluation.language.truth_ratio import (
    closeness_to_one,
    preference_for_truth,
    probability_with_options,
    share_of_truth,
    truth_ratio,
)

__all__ = [
    "ConceptChanges",
    "Exposure",
    "ForgetQuality",
    "MuseLog",
    "PrivLeak",
    "Recovered",
    "Relearning",
    "Rouge",
    "SecretLog",
    "TofuSet",
    "TokenStatistics",
    "attack_row",
    "by_modality",
    "ches",
    "closeness_to_one",
    "concept_changes",
    "concept_table",
    "cut_answer",
    "exact_memorization",
    "exposure",
    "exposure_extrapolated",
    "exposure_floor",
    "extracted",
    "extraction_likelihood",
    "extraction_strength",
    "forget_quality",
    "gradient_norm",
    "harmonic_mean",
    "in_context_recovery",
    "knowledge_memorization",
    "mean_nll",
    "min_k",
    "min_k_plus_plus",
    "model_utility",
    "model_utility_interval",
    "muse_changes",
    "muse_table",
    "per_document",
    "preference_for_truth",
    "privleak",
    "privleak_floor",
    "probability",
    "probability_with_options",
    "recovered",
    "recovery_table",
    "reference_difference",
    "relearned",
    "relearned_metric",
    "restoration",
    "restricted",
    "rouge_1",
    "rouge_l",
    "secret_table",
    "sequence_nll",
    "share_of_truth",
    "split_by_id",
    "statistics_of",
    "tofu_table",
    "token_counts",
    "token_statistics",
    "token_statistics_from_hidden",
    "truth_ratio",
    "utility_numbers",
    "verbatim_memorization",
    "words",
    "zlib_ratio",
]

_ABOVE = {
    "MuseLog",
    "Relearning",
    "SecretLog",
    "attack_row",
    "concept_table",
    "muse_changes",
    "muse_table",
    "recovery_table",
    "relearned_metric",
    "secret_table",
    "statistics_of",
    "tofu_table",
}  # they take models or make records: at home in `mu_jax.scoring.language`


def __getattr__(name: str) -> Any:
    if name in _ABOVE:
        return getattr(importlib.import_module("mu_jax.scoring.language"), name)
    raise AttributeError(f"module 'mu_jax.evaluation.language' has no attribute {name!r}")
