"""Tasks of passages to forget and to retain, measured by greedy texts, attacks and letters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

import mu_jax as mu
from experiments.lib.language.origins import Origin
from experiments.lib.language.reading import Arrays, Log, Reader, left_padded
from experiments.lib.language.task import Rows, Split, Task, check_shown, relearn
from mu_jax import datasets, reporting
from mu_jax.datasets import language as texts
from mu_jax.evaluation import language
from mu_jax.reporting import ForgetSet
from mu_jax.scoring.language import mean_metric, relearned_metric
from mu_jax.scoring.language.tables import logs_of, table_of
from mu_jax.scoring.rows import NOTHING

Table = Callable[[Mapping[str, Log], Sequence[Log]], Rows]


class Benchmark(NamedTuple):
    """A benchmark of passages.

    title: in words. forget, retain: passages. arrays: what models are read on. max_new: tokens to
    write, by the name of the prompts. stop: tokens that end a greedy text. table: `(logs by row,
    logs of retrained models) -> Rows`. headline: metrics of the table over runs.
    """

    title: str
    forget: Sequence[str]
    retain: Sequence[str]
    arrays: Arrays
    max_new: Mapping[str, int]
    stop: tuple[int, ...]
    table: Table
    headline: tuple[str, ...]


def make(config: ConfigDict, origin: Origin, benchmark: Benchmark) -> Task:
    """The task of a benchmark, with one split.

    Passages are cut to pieces of `data.context` tokens. The first `relearning.shown` passages are
    shown again in relearning; 0: there is none.
    """
    records = [{"text": text} for text in (*benchmark.forget, *benchmark.retain)]
    rows = texts.documents(
        records, origin.tokenizer, ids=datasets.by_position, end=origin.tokenizer.end is not None
    )
    pieces = texts.cut(rows, config.data.context)
    names = pieces.ids.names(pieces.index)
    passage = np.array([int(str(name).partition("#")[0]) for name in names])
    train = texts.padded(pieces, batch_size=config.training.batch_size)
    split = _split(config, benchmark, train, passage)
    return Task(
        config,
        origin.decoder,
        origin.model,
        origin.start,
        train,
        [split],
        Reader(origin.model, origin.decoder, benchmark.max_new, benchmark.stop),
        (*benchmark.headline, "unseen NLL", "relearned NLL", "relearned"),
        origin.retrained,
    )


def _split(
    config: ConfigDict, benchmark: Benchmark, train: mu.Batches, passage: np.ndarray
) -> Split:
    mine = passage < len(benchmark.forget)
    forget = train.take(np.flatnonzero(mine))
    number = len(benchmark.forget)
    check_shown(config, "passages", number)
    shown = passage[mine] < config.relearning.shown
    relearning = None
    if config.relearning.shown:
        relearning = relearn(
            config,
            forget.take(np.flatnonzero(shown)),
            forget.take(np.flatnonzero(~shown)),
            _mean_nll,
            "NLL a token of passages never shown, nats",
        )
    nll = {"forget": forget, **benchmark.arrays.nll}

    def table(logs: Mapping[str, Any], retrained: Sequence[Any]) -> Rows:
        before = {name: log["before"] for name, log in logs.items()}
        rows = benchmark.table(before, [log["before"] for log in retrained])
        if relearning is None:
            return rows
        further = table_of(
            logs_of(logs, retrained), lambda log: _relearning_row(log, logs[NOTHING], ~shown)
        )
        return {name: rows[name] | further[name] for name in rows}

    return Split(
        benchmark.title,
        ForgetSet(benchmark.title, number, datasets.digest(np.flatnonzero(mine))),
        np.where(mine, 0, 1).astype(np.float32),
        forget,
        train.take(np.flatnonzero(~mine)),
        benchmark.arrays._replace(nll=nll),
        relearning,
        table,
    )


def _mean_nll(logits: jax.Array, targets: Any) -> jax.Array:
    return language.mean_nll(language.token_statistics(logits, targets))


def _relearning_row(
    log: Mapping[str, Log], target: Mapping[str, Log], unseen: np.ndarray
) -> dict[str, reporting.Metric]:
    sides = (log["after"], log["before"], target["before"])
    after, before, whole = (side.nll["forget"][unseen] for side in sides)
    return {
        "unseen NLL": mean_metric(before, unit="nats"),
        "relearned NLL": mean_metric(after, unit="nats"),
        "relearned": relearned_metric(after, before, whole),
    }


def prompts(origin: Origin, given: Sequence[str], *, batch_size: int, targets: Any = ()) -> Any:
    """Texts behind which a model writes, with the begin token if the tokenizer has one."""
    begin = [] if origin.tokenizer.begin is None else [origin.tokenizer.begin]
    rows = [np.array([*begin, *origin.tokenizer.encode(text).tokens], np.int32) for text in given]
    return left_padded(rows, origin.tokenizer.pad, batch_size=batch_size, targets=targets)


def scored(origin: Origin, given: Sequence[str], *, length: int, batch_size: int) -> mu.Batches:
    """Texts of which all tokens but the first are scored, the first `length` of each."""
    rows = texts.documents(
        [{"text": text} for text in given], origin.tokenizer, ids=datasets.by_position, end=False
    )
    found = texts.cut(rows, length)
    whole = [k for k, name in enumerate(found.ids.names(found.index)) if str(name).endswith("#0")]
    return texts.padded(found.take(whole), batch_size=min(batch_size, len(whole)))
