"""One table a data set: every method against every forget set."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from mu_jax.reporting import Cell, Column, Record, Row, Table, at_floor, gap_to_oracles
from mu_jax.scoring.rows import CONSTANT, NOTHING, RETRAIN

KLOM = "KLoM forget p95"
_FIRST = (RETRAIN, NOTHING)
ByKind = Mapping[str, Record]


def overview(records: Iterable[Record], title: str) -> Table:
    """The methods of a benchmark down, its forget sets across: KLoM, average gap and run time.

    KLoM is the 95th percentile over the forget set with its interval; the gap is the mean distance
    to retrained models of retain, forget and test accuracy and of the membership attack. The row
    of retrained models is the floor of both. Methods stand in the order of their mean gap, where
    those below the floor are equal; those that have collapsed or lack a gap on any forget set come
    last. The constant predictor is left out: it forgets all and is no method.

    Args:
      records: of `experiments.benchmark`, one for each method and forget set.
      title: of the table.
    """
    by_method: dict[str, dict[str, Record]] = {}
    for record in records:
        if record.method != CONSTANT:
            by_method.setdefault(record.method, {})[record.forget_set.kind] = record
    kinds = list(dict.fromkeys(kind for found in by_method.values() for kind in found))
    floors = {kind: _gap(by_method.get(RETRAIN, {}).get(kind)) for kind in kinds}
    methods = sorted(by_method, key=lambda name: _rank(name, by_method[name], kinds, floors))
    columns = [Column(_klom_title(kind), "nats, lower is better", decimals=2) for kind in kinds]
    columns += [Column(f"gap, {kind}", "points, lower is better", decimals=2) for kind in kinds]
    columns += [Column("run time", "% of retraining, lower is better", 1e2, 1)]
    retrained = by_method.get(RETRAIN, {})
    rows = [_row(name, by_method[name], kinds, retrained) for name in methods]
    return Table(title, tuple(columns), tuple(rows), tuple(_notes(by_method, kinds)))


def _klom_title(kind: str) -> str:
    return f"KLoM, {kind}"


def _gap(record: Record | None) -> float | None:
    return None if record is None else gap_to_oracles(record)


def _rank(
    name: str, found: ByKind, kinds: Sequence[str], floors: Mapping[str, float | None]
) -> tuple[int, float]:
    if name in _FIRST:
        return _FIRST.index(name), 0.0
    gaps = [_gap(found.get(kind)) for kind in kinds]
    known = [at_floor(gap, floors[kind]) for kind, gap in zip(kinds, gaps) if gap is not None]
    if len(known) < len(kinds):
        return len(_FIRST) + 1, 0.0
    return len(_FIRST), statistics.fmean(known)


def _row(name: str, found: ByKind, kinds: Sequence[str], retrained: ByKind) -> Row:
    chosen = [found.get(kind) for kind in kinds]
    shares = [_share(found.get(kind), retrained.get(kind)) for kind in kinds]
    known = [share for share in shares if share is not None]
    return Row(
        name,
        1,
        (
            *map(_klom, chosen),
            *(_number(_gap(record)) for record in chosen),
            _number(statistics.fmean(known) if known else None),
        ),
        collapsed=any(record is not None and record.status != "ok" for record in chosen),
        best=False,
        refused=tuple(
            _klom_title(kind)
            for kind, record in zip(kinds, chosen)
            if record is not None and KLOM in record.metrics and record.metrics[KLOM].no_interval
        ),
    )


def _share(record: Record | None, retrained: Record | None) -> float | None:
    """The run time of a method as a share of that of retraining without the same forget set."""
    if record is None or retrained is None:
        return None
    own, whole = record.cost.wall_s, retrained.cost.wall_s
    return None if own is None or not whole else own / whole


def _klom(record: Record | None) -> Cell:
    metric = None if record is None else record.metrics.get(KLOM)
    if metric is None or metric.value is None:
        return Cell()
    return Cell(metric.value, n=1, low=metric.low, high=metric.high)


def _number(value: float | None) -> Cell:
    return Cell() if value is None else Cell(value, n=1)


def _notes(by_method: Mapping[str, ByKind], kinds: Sequence[str]) -> Iterable[str]:
    models = {
        record.metrics[KLOM].n
        for found in by_method.values()
        for record in found.values()
        if KLOM in record.metrics and record.metrics[KLOM].n
    }
    yield (
        f"Each row is of {' or '.join(map(str, sorted(filter(None, models))))} models, and so is "
        f"each of {len(kinds)} sets of oracles; in brackets 95 % intervals of KLoM over models and "
        "examples, [-] where none would cover."
    )
    yield (
        "The row of retrained models is the floor: others than the oracles, against the same "
        "oracles. What lies below it does so by chance."
    )
    if RETRAIN in by_method and any(r.cost.wall_s for r in by_method[RETRAIN].values()):
        yield (
            "Run time is that of one model among those of its program, without compilation, "
            "precomputation and evaluation; the mean over the forget sets."
        )
    for name, found in by_method.items():
        for kind, record in found.items():
            if record.status != "ok":
                yield f"{name} on {kind}: {record.status} ({record.reason})."
