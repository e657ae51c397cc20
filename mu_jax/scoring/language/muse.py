"""The table of MUSE: four numbers of a request, and how they change over sizes and requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jax.typing import ArrayLike

from mu_jax.evaluation import language
from mu_jax.reporting.records import Metric, Oracle, missing
from mu_jax.scoring.language.tables import RETRAIN, Row, Table, logs_of, mean_metric, table_of


class MuseLog(NamedTuple):
    """What `muse_table` needs of a model, by example.

    verbatim: `verbatim_memorization`. knowledge_forget, knowledge_retain: `knowledge_memorization`.
    forget_scores, holdout_scores: of an attack, `min_k` in MUSE. Each a float `[n]`.
    """

    verbatim: ArrayLike
    knowledge_forget: ArrayLike
    knowledge_retain: ArrayLike
    forget_scores: ArrayLike
    holdout_scores: ArrayLike


def muse_table(models: Mapping[str, MuseLog], *, retrained: MuseLog | Sequence[MuseLog]) -> Table:
    """MUSE's four numbers of one request: VerbMem, KnowMem on forget and retain, PrivLeak.

    The AUC behind PrivLeak stands beside it, since the ratio is unstable. The other two of the six,
    scalability and sustainability, are these numbers over sizes and over requests: `muse_changes`.

    Args:
        models: logs by name of the row. retrained: of one or several retrained models.

    Returns:
        `{row: {name: Metric}}`, with a row "retrain"; fractions, PrivLeak in percent.

    Raises:
        ValueError: no retrained log.
    """
    logs = logs_of(models, retrained)
    yardstick = logs[RETRAIN][0]

    def measure(log: MuseLog) -> Row:
        means = {
            "VerbMem": mean_metric(log.verbatim, unit="fraction"),
            "KnowMem forget": mean_metric(log.knowledge_forget, unit="fraction"),
            "KnowMem retain": mean_metric(
                log.knowledge_retain, direction="higher is better", unit="fraction"
            ),
        }
        own = (log.forget_scores, log.holdout_scores)
        return means | attack_row(own, (yardstick.forget_scores, yardstick.holdout_scores))

    return table_of(logs, measure)


def attack_row(scores: tuple[ArrayLike, ArrayLike], retrained: tuple[ArrayLike, ArrayLike]) -> Row:
    """The AUC and PrivLeak of an attack: scores of forgotten and of unseen texts, low for members.

    Args:
        scores: of the model. retrained: of the retrained model.
    """
    try:
        found = language.privleak(*scores, *retrained)
    except ValueError as error:
        return {name: missing(str(error)) for name in ("AUC", "PrivLeak")}
    n = found.n_forget + found.n_holdout
    band = language.privleak_floor(found.n_forget, found.n_holdout)
    alike = f"0.5 with standard deviation {found.null_std:.3f} if both sides were alike"
    why = "there is none that holds for AUCs near 0 and 1, where memorized texts lie"
    return {
        "AUC": Metric(found.auc, n=n, no_interval=why, note=alike),
        "PrivLeak": Metric(
            found.value,
            n=n,
            unit="percent",
            no_interval=why,
            note=f"retrained models differ by up to {band:.1f} by chance",
        ),
    }


def muse_changes(tables: Sequence[Table], title: str) -> Table:
    """How the numbers of `muse_table` change over sizes, or over requests in sequence.

    The last table's value minus the first's: 0 is flat, which MUSE asks for. Where the retrained
    models change as well, that change is the oracle.

    Args:
        tables: in order, at least two, of the same rows.
        title: "scalability" over forget sets of growing size, "sustainability" over requests.

    Raises:
        ValueError: fewer than two tables, or other rows.
    """
    if len(tables) < 2 or any(set(table) != set(tables[0]) for table in tables):
        raise ValueError(
            f"expected at least two tables of the same rows, found {len(tables)}: run all methods "
            "at every size, or after every request"
        )
    return {row: _changes(tables[0], tables[-1], row, title, len(tables)) for row in tables[0]}


def _changes(first: Table, last: Table, row: str, title: str, n: int) -> Row:
    found = {}
    for name, metric in first[row].items():
        change, own = (_difference(first, last, each, name) for each in (row, RETRAIN))
        fields: dict[str, Any] = {"n": n, "unit": metric.unit}
        if change is None:
            found[f"{title} {name}"] = missing(f"{name} is missing at one end", **fields)
            continue
        why = "one run of each size or request has no spread to take an interval from"
        beside = None if own is None else Oracle(own)
        found[f"{title} {name}"] = Metric(change, oracle=beside, no_interval=why, **fields)
    return found


def _difference(first: Table, last: Table, row: str, name: str) -> float | None:
    start, end = first[row][name].value, last[row][name].value
    return None if start is None or end is None else end - start
