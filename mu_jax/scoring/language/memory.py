"""Tables of what a model still holds: planted secrets, what comes back, concept vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from mu_jax.evaluation import language
from mu_jax.reporting.records import Direction, Metric, missing
from mu_jax.scoring.language.tables import Row, Table, logs_of, mean_metric, table_of

SHARE = "of what was lost"  # no fraction of examples: not averaged with those


class Relearning(NamedTuple):
    """A model after fine-tuning on a part of the secrets, which are not measured again.

    shown: bool[n], the secrets of the fine-tuning. nll: [n], of the model after it. exposure: by
    rank, of that model. steps: of the fine-tuning.
    """

    shown: ArrayLike
    nll: ArrayLike
    exposure: language.Exposure
    steps: int


class SecretLog(NamedTuple):
    """What `secret_table` needs of a model, by secret.

    exact_memorization, extracted, nll: functions of the token statistics, [n]; nll the sum.
    exposure: by rank, `language.exposure`. references: their number. relearning: what fine-tuning
    on some of the secrets brings back of the others; None where nobody tried.
    """

    exact_memorization: ArrayLike
    extracted: ArrayLike
    nll: ArrayLike
    exposure: language.Exposure
    references: int
    relearning: Relearning | None = None


def secret_table(
    models: Mapping[str, SecretLog],
    *,
    retrained: SecretLog | Sequence[SecretLog],
    target: SecretLog | None = None,
) -> Table:
    """Memorization of planted secrets: exact memorization, extraction, exposure, likelihood.

    With `relearning` in the logs also, of the secrets that the fine-tuning did not show: exposure
    before and after it and likelihood after it, and with a target `relearned`, the part of the
    target's exposure that comes back. Read them beside the retrained model's own: it learns from
    the same fine-tuning.

    Args:
        models: logs by name of the row. retrained: of models that never saw these secrets.
        target: of the model before unlearning.

    Returns:
        `{row: {name: Metric}}`, with a row "retrain"; exposure in bits, with its cap in words.

    Raises:
        ValueError: no retrained log.
    """
    return table_of(logs_of(models, retrained), lambda log: _secret_row(log, target))


def _secret_row(log: SecretLog, target: SecretLog | None) -> Row:
    row = {
        "exact memorization": mean_metric(log.exact_memorization, unit="fraction"),
        "extraction": mean_metric(log.extracted, unit="fraction"),
        "exposure": _exposure_metric(log.exposure, log.references),
        "secret NLL": mean_metric(log.nll, unit="nats"),
    }
    return row if log.relearning is None else row | _relearning_row(log, log.relearning, target)


def _exposure_metric(exposure: language.Exposure, references: int, chosen: Any = ...) -> Metric:
    """The mean exposure of the chosen secrets, with how many are at the cap."""
    values, cap = np.asarray(exposure.value)[chosen], exposure.cap
    capped = int((values >= cap - 1e-6).sum())
    note = f"{capped} of {values.size} at the cap of {cap:.2f} bits, where it says at least"
    floor = language.exposure_floor(references)
    return mean_metric(values, unit="bits", null=floor, note=note)


def _relearning_row(log: SecretLog, after: Relearning, target: SecretLog | None) -> Row:
    unseen = ~np.asarray(after.shown, bool)
    if unseen.all() or not unseen.any():
        raise ValueError(
            f"expected some secrets in the fine-tuning and others held out, found "
            f"{int((~unseen).sum())} of {unseen.size} shown: show a part of them"
        )
    found = {
        "unseen exposure": _exposure_metric(log.exposure, log.references, unseen),
        "relearned exposure": _exposure_metric(after.exposure, log.references, unseen),
        "relearned NLL": mean_metric(np.asarray(after.nll)[unseen], unit="nats"),
    }
    if target is not None:
        sides = (after.exposure, log.exposure, target.exposure)
        found["relearned"] = relearned_metric(*(np.asarray(side.value)[unseen] for side in sides))
    return found


def relearned_metric(after: ArrayLike, before: ArrayLike, target: ArrayLike) -> Metric:
    """The column `relearned`: the part of a loss that comes back of what was never shown.

    Args:
        after, before, target: float `[n]`, as of `language.relearned`, of the examples that the
            fine-tuning did not show.

    Returns:
        A `Metric`; missing where nothing was lost, as of the target itself.
    """
    try:
        found = language.relearned(after, before, target)
    except ValueError as error:
        return missing(str(error).partition(": ")[2] or str(error), unit=SHARE)
    return _recovered_metric(found, unit=SHARE)


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
        return {title: _recovered_metric(found, direction=direction, unit="fraction")}

    return table_of(logs, measure)


def _recovered_metric(found: language.Recovered, **fields: Any) -> Metric:
    ends: dict[str, Any] = {"low": found.low, "high": found.high}
    return Metric(found.value, n=found.n, no_interval=found.no_interval, **ends, **fields)


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
