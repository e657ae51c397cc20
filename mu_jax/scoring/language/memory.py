"""Tables of what a model still holds: planted secrets, what comes back, concept vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from mu_jax.evaluation import language
from mu_jax.reporting.records import Direction, Metric
from mu_jax.scoring.language.tables import Row, Table, logs_of, mean_metric, table_of


class SecretLog(NamedTuple):
    """What `secret_table` needs of a model, by secret.

    exact_memorization, extracted, nll: functions of the token statistics, [n]; nll the sum.
    exposure: by rank, `language.exposure`. references: their number.
    """

    exact_memorization: ArrayLike
    extracted: ArrayLike
    nll: ArrayLike
    exposure: language.Exposure
    references: int


def secret_table(
    models: Mapping[str, SecretLog], *, retrained: SecretLog | Sequence[SecretLog]
) -> Table:
    """Memorization of planted secrets: exact memorization, extraction, exposure, likelihood.

    Args:
        models: logs by name of the row. retrained: of models that never saw these secrets.

    Returns:
        `{row: {name: Metric}}`, with a row "retrain"; exposure in bits, with its cap in words.

    Raises:
        ValueError: no retrained log.
    """
    return table_of(logs_of(models, retrained), _secret_row)


def _secret_row(log: SecretLog) -> Row:
    exposure, cap = np.asarray(log.exposure.value), log.exposure.cap
    capped = int((exposure >= cap - 1e-6).sum())
    note = f"{capped} of {exposure.size} at the cap of {cap:.2f} bits, where it says at least"
    floor = language.exposure_floor(log.references)
    return {
        "exact memorization": mean_metric(log.exact_memorization, unit="fraction"),
        "extraction": mean_metric(log.extracted, unit="fraction"),
        "exposure": mean_metric(exposure, unit="bits", null=floor, note=note),
        "secret NLL": mean_metric(log.nll, unit="nats"),
    }


def recovery_table(
    models: Mapping[str, language.Recovered],
    *,
    retrained: language.Recovered | Sequence[language.Recovered] | None,
    title: str,
    direction: Direction = "closer to retrain",
) -> Table:
    """What comes back, of `restoration`, `relearned` or `in_context_recovery`.

    Args:
        models: by name of the row. retrained: of retrained models; None for `restoration`, whose
            yardstick is the clean model: there the value to reach is 1.
        title: the column, such as "restoration". direction: "higher is better" for `restoration`.

    Returns:
        `{row: {title: Metric}}`.
    """
    logs = {name: [log] for name, log in models.items()}
    if retrained is not None:
        logs = logs_of(models, retrained)

    def measure(found: language.Recovered) -> Row:
        metric = Metric(
            found.value,
            n=found.n,
            low=found.low,
            high=found.high,
            no_interval=found.no_interval,
            direction=direction,
            unit="fraction",
        )
        return {title: metric}

    return table_of(logs, measure)


def concept_table(
    models: Mapping[str, language.ConceptChanges],
    *,
    retrained: language.ConceptChanges | Sequence[language.ConceptChanges],
) -> Table:
    """What is left of the columns of a projection: means over all columns, and the least cosine."""

    def measure(found: language.ConceptChanges) -> Row:
        why = "the columns are all there are, no sample"
        lowest = float(np.asarray(found.cosine)[np.asarray(found.order)[0]])
        n = int(np.size(found.cosine))
        means = {name: float(np.mean(getattr(found, name))) for name in found._fields[:3]}
        values = {f"mean {name}": value for name, value in means.items()}
        values["least cosine"] = lowest
        return {name: Metric(value, n=n, no_interval=why) for name, value in values.items()}

    return table_of(logs_of(models, retrained), measure)
