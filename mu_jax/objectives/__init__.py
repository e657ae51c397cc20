"""Training objectives, one family a file.

Those of language models are functions of logits or hidden states: `preference`, `weighted`,
`distillation`, `steering`, `segments` and `token_terms`.
"""

from mu_jax.objectives import (
    distillation,
    preference,
    segments,
    steering,
    token_terms,
    weighted,
)
from mu_jax.objectives.blindspot import attention_layers, attention_map, blindspot
from mu_jax.objectives.label_choices import nearest_class_label, runner_up_label
from mu_jax.objectives.reference_scores import (
    ReferenceScores,
    keep_reference,
    load_reference,
)
from mu_jax.objectives.references import reference_nll
from mu_jax.objectives.relabel import (
    fixed_label,
    relabeled,
    uniform_label,
    uniform_other_label,
)
from mu_jax.objectives.supervised import supervised

__all__ = [
    "ReferenceScores",
    "attention_layers",
    "attention_map",
    "blindspot",
    "distillation",
    "fixed_label",
    "keep_reference",
    "load_reference",
    "nearest_class_label",
    "preference",
    "reference_nll",
    "relabeled",
    "runner_up_label",
    "segments",
    "steering",
    "supervised",
    "token_terms",
    "uniform_label",
    "uniform_other_label",
    "weighted",
]
