"""Language models against retrained ones: token statistics of a model, tables of benchmarks.

A table is a row for every model, a row a `Metric` for every number: what `reporting.Record` holds.
Each takes a *log* of every model, arrays by example that are cheap to keep, and requires those of
retrained models; of several, the first is the yardstick and the row "retrain", and their range is
the band beside every number.
"""

from mu_jax.scoring.language.memory import (
    Relearning,
    SecretLog,
    concept_table,
    recovery_table,
    relearned_metric,
    secret_table,
)
from mu_jax.scoring.language.muse import MuseLog, attack_row, muse_changes, muse_table
from mu_jax.scoring.language.tables import mean_metric
from mu_jax.scoring.language.tofu import tofu_table
from mu_jax.scoring.language.tokens import statistics_of

__all__ = [
    "MuseLog",
    "Relearning",
    "SecretLog",
    "attack_row",
    "concept_table",
    "mean_metric",
    "muse_changes",
    "muse_table",
    "recovery_table",
    "relearned_metric",
    "secret_table",
    "statistics_of",
    "tofu_table",
]
