"""The table of TOFU: twelve means, model utility, forget quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mu_jax.evaluation import language
from mu_jax.evaluation.language.tofu import FORGET, ratio_of
from mu_jax.reporting.records import Direction, Metric, missing
from mu_jax.scoring.language.tables import (
    RETRAIN,
    Row,
    Table,
    ends_of,
    logs_of,
    mean_metric,
    table_of,
)

TofuLog = Mapping[str, language.TofuSet]  # by the name of the set
COINCIDENCE = float(np.log10(0.5))  # median of log10 p where nothing differs


def tofu_table(models: Mapping[str, TofuLog], *, retrained: TofuLog | Sequence[TofuLog]) -> Table:
    """TOFU of several models: twelve means, model utility and forget quality.

    Means of probability, ROUGE-L recall and truth ratio score over every set; the utility of nine
    of them; and `log10 p` of the test against the first retrained model, whose own row has that of
    the second against it. Directions: closer to retrain on the forget set, higher elsewhere.

    Args:
        models: logs by name of the row, such as "target" and the methods.
        retrained: the log of a model that never saw the forget set, or of several.

    Returns:
        `{row: {name: Metric}}`, with a row "retrain"; a number that cannot be had is missing, with
        the reason.

    Raises:
        ValueError: no retrained log, one of other questions, or a set that is not there.
    """
    logs = logs_of(models, retrained)
    for row, log in (*models.items(), *((RETRAIN, other) for other in logs[RETRAIN])):
        for name, part in logs[RETRAIN][0].items():
            if name not in log:
                raise ValueError(f"expected {name!r} in the log of {row!r}, found none: score it")
            _check_same_questions(part, log[name], row, name)
    yardstick = logs[RETRAIN][0]

    def measure(log: TofuLog) -> Row:
        others = [other for other in logs[RETRAIN] if other is not log]
        against = others[0] if log is yardstick and others else yardstick
        return _tofu_row(log, None if against is log else against)

    return table_of(logs, measure)


def _tofu_row(log: TofuLog, retrained: TofuLog | None) -> Row:
    row: Row = {}
    for name, part in log.items():
        forget = name == FORGET
        direction: Direction = "closer to retrain" if forget else "higher is better"
        for title, values in language.utility_numbers(part, name).items():
            row[f"{name} {title}"] = mean_metric(values, direction=direction, unit="fraction")
    row["model utility"] = _utility(log)
    row["forget quality"] = _quality(log, retrained)
    return row


def _utility(log: TofuLog) -> Metric:
    fields: dict[str, Any] = {"direction": "higher is better", "unit": "fraction"}
    try:
        value = language.model_utility(log)
    except ValueError as error:
        return missing(str(error), **fields)
    fields["n"] = sum(np.size(log[name].rouge) for name in log if name != FORGET)
    return Metric(value, **fields, **ends_of(lambda: language.model_utility_interval(log)))


def _quality(log: TofuLog, retrained: TofuLog | None) -> Metric:
    fields: dict[str, Any] = {"direction": "higher is better", "unit": "log10 p"}
    if retrained is None:
        return missing("a second retrained model would give the value of chance", **fields)
    ratios = (ratio_of(side[FORGET], FORGET) for side in (log, retrained))
    found = language.forget_quality(*ratios)
    why = "a p-value has no interval: read it beside that of two retrained models"
    return Metric(
        found.log10_p, n=found.n, null=COINCIDENCE, no_interval=why, note=_distance(found), **fields
    )


def _distance(found: language.ForgetQuality) -> str:
    return f"D = {found.statistic:.3f} of {found.n} and {found.n_retrained} questions"


def _check_same_questions(
    first: language.TofuSet, second: language.TofuSet, row: str, name: str
) -> None:
    ids = [np.asarray(part.ids) for part in (first, second)]
    named = all(each.size for each in ids)
    if np.size(first.answer_nll) != np.size(second.answer_nll) or (
        named and not np.array_equal(ids[0], ids[1])
    ):
        raise ValueError(
            f"expected the questions of the retrained model's log in {name!r} of {row!r}, found "
            f"others ({np.size(second.answer_nll)} against {np.size(first.answer_nll)}): score all "
            "models on one set, in one order"
        )
