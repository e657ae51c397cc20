"""Planted secrets in a small code model: the task of the first demonstration."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import mu_jax as mu
from experiments.lib.configurations import Fields, check_fields
from experiments.lib.language import corpus
from experiments.lib.language.origins import new
from experiments.lib.language.planting import TOKENIZER, Planted, Sizes, plant, shortest, whole_rows
from experiments.lib.language.task import Rows, Split, Task, check_shown, relearn
from experiments.lib.tasks import lookup
from mu_jax import datasets, reporting
from mu_jax.data.tokens import TokenTargets
from mu_jax.evaluation import language
from mu_jax.reporting import ForgetSet
from mu_jax.scoring.language import Relearning, SecretLog, mean_metric
from mu_jax.scoring.language.tables import logs_of, table_of
from mu_jax.scoring.rows import NOTHING

PyTree = Any
CORPORA = {
    "generated": lambda config: corpus.generated(config.seed),
    "standard library": lambda config: corpus.standard_library(),
}
FIELDS: Fields = {
    **{f"data.{name}": ((int,), 1) for name in Sizes.__dataclass_fields__},
    "data.corpus": ((str,), None),
    "data.seed": ((int,), 0),
    "data.forget": ((int,), 1),
    "unlearning": ((Mapping, ConfigDict), None),
    "unlearning.scored": ((str,), None),
    "unlearning.secret_weight": ((int, float), 0),
    "unlearning.code": ((int, float), 0),
}
HEADLINE = (
    "exact memorization",
    "extraction",
    "exposure",
    "secret NLL",
    "relearned exposure",
    "relearned NLL",
    "retained extraction",
    "held-out bits a byte",
)


class Log(NamedTuple):
    """What is kept of a model.

    memorization, extracted, nll: f32[S], of every secret, teacher-forced. candidates:
    f32[F, references + 1], NLL of the secrets to forget, first, and of random ones in their place.
    bits: f32[n], a byte of every row of code that nobody trained on.
    """

    memorization: jax.Array
    extracted: jax.Array
    nll: jax.Array
    candidates: jax.Array
    bits: jax.Array


def make(config: ConfigDict) -> Task:
    """The task of a configuration."""
    data = config.data
    _check(config)
    files = lookup(CORPORA, data.corpus, "corpus")(data)
    sizes = Sizes(**{name: data[name] for name in Sizes.__dataclass_fields__})
    planted = plant(files, sizes, seed=data.seed, batch_size=config.training.batch_size)
    origin = new(config, TOKENIZER, sizes.context)
    order = np.random.default_rng([data.seed, 1]).permutation(sizes.secrets)
    parts = order[: config.splits * data.forget].reshape(config.splits, -1)
    return Task(
        config,
        origin.decoder,
        origin.model,
        origin.start,
        planted.train,
        [_split(config, planted, number, np.sort(part)) for number, part in enumerate(parts)],
        functools.partial(_read, origin.model),
        HEADLINE,
    )


def _check(config: ConfigDict) -> None:
    """Refuse sizes that do not fit one another."""
    check_fields(config, FIELDS)
    data = config.data
    if data.secrets < config.splits * data.forget:
        raise ValueError(
            f"expected at least {config.splits * data.forget} secrets in data.secrets, "
            f"{data.forget} for each of {config.splits} splits, found {data.secrets}; add some"
        )
    check_shown(config, "secrets", data.forget)
    least = shortest(data.characters)
    for name, size in (("context", data.context), ("measured", data.measured)):
        if not least <= size <= data.context:
            raise ValueError(
                f"expected data.{name} from {least} to data.context, so that a secret has room in "
                f"a row, found {size}; correct it"
            )
    if config.unlearning.scored not in ("secrets", "all"):
        raise ValueError(
            "expected 'secrets' or 'all' as unlearning.scored, found "
            f"{config.unlearning.scored!r}; choose one"
        )


def _split(config: ConfigDict, planted: Planted, number: int, secrets: np.ndarray) -> Split:
    """The split that forgets these secrets."""
    train, owner, unlearning = planted.train, planted.owner, config.unlearning
    mine = np.isin(owner, secrets)
    ids = np.asarray(train.index)
    kept = np.flatnonzero((owner >= 0) & ~mine)
    code = np.flatnonzero(owner < 0)[: round(unlearning.code * kept.size)]
    names = tuple(f"secret:{secret:02d}" for secret in secrets)
    shown, relearning = secrets[: config.relearning.shown], None
    if shown.size:
        relearning = relearn(
            config,
            train.take(np.flatnonzero(np.isin(owner, shown))),
            planted.secrets.take(secrets[shown.size :]),
            _secret_nll,
            "NLL of secrets never shown, nats",
        )
    forget = train.take(np.flatnonzero(mine))
    return Split(
        f"split {number}",
        ForgetSet(f"split {number}: secrets", secrets.size, datasets.digest(ids[mine]), names),
        np.where(mine, 0, 1).astype(np.float32),
        _scored(forget, 0.0 if unlearning.scored == "secrets" else 1.0, 1.0),
        _scored(train.take(np.concatenate([code, kept])), 1.0, unlearning.secret_weight),
        {
            "secrets": planted.secrets,
            "candidates": _candidates(planted, secrets),
            "heldout": planted.heldout,
        },
        relearning,
        functools.partial(_table, secrets, shown.size, config.relearning.steps),
        functools.partial(_losses, secrets),
    )


def _scored(rows: mu.Batches, code: float, secret: float) -> mu.Batches:
    """The rows with these weights of tokens of code and of secrets."""
    targets = rows.targets
    mask = jnp.where(jnp.asarray(targets.secret) > 0, secret, code * jnp.asarray(targets.mask))
    return rows.replace(targets=targets._replace(mask=mask))


def _candidates(planted: Planted, secrets: np.ndarray) -> mu.Batches:
    """Rows with every candidate in place of every secret, one secret a batch."""
    tokens = planted.candidates[secrets]
    flat = tokens.reshape(-1, tokens.shape[-1])
    mask = np.repeat(np.asarray(planted.secrets.targets.mask)[secrets], tokens.shape[1], axis=0)
    targets = TokenTargets(flat, mask)
    return mu.batches(whole_rows(flat), targets, batch_size=tokens.shape[1])


def _secret_nll(logits: jax.Array, targets: TokenTargets) -> jax.Array:
    return language.sequence_nll(language.token_statistics(logits, targets))


def _read(model: mu.Model, variables: PyTree, arrays: Mapping[str, Any]) -> Log:
    """What is kept of one model, in one pass over secrets, candidates and code."""
    found, ranked, unseen = (
        language.statistics_of(model, variables, arrays[name])
        for name in ("secrets", "candidates", "heldout")
    )
    return Log(
        language.exact_memorization(found),
        language.extracted(found),
        language.sequence_nll(found),
        language.sequence_nll(ranked).reshape(-1, arrays["candidates"].batch_size),
        language.mean_nll(unseen) / jnp.log(2.0),
    )


def _losses(secrets: np.ndarray, logs: Log) -> dict[str, np.ndarray]:
    """NLL of the secrets to forget and of the others."""
    kept = np.setdiff1d(np.arange(logs.nll.shape[1]), secrets)
    return {"forget": np.asarray(logs.nll)[:, secrets], "retain": np.asarray(logs.nll)[:, kept]}


def _table(
    secrets: np.ndarray,
    shown: int,
    steps: int,
    logs: Mapping[str, Any],
    retrained: Sequence[Any],
) -> Rows:
    """The rows of one model of each kind; `do nothing` is the target."""

    def secret_log(log: Mapping[str, Log]) -> SecretLog:
        before, relearning = log["before"], None
        if "after" in log:
            after = log["after"]
            seen = np.arange(secrets.size) < shown
            relearning = Relearning(seen, after.nll[secrets], _exposure(after), steps)
        return SecretLog(
            before.memorization[secrets],
            before.extracted[secrets],
            before.nll[secrets],
            _exposure(before),
            before.candidates.shape[1] - 1,
            relearning,
        )

    def others(log: Mapping[str, Log]) -> dict[str, reporting.Metric]:
        before = log["before"]
        kept = np.setdiff1d(np.arange(before.nll.size), secrets)
        fraction: dict[str, Any] = {"unit": "fraction", "direction": "higher is better"}
        return {
            "retained memorization": mean_metric(before.memorization[kept], **fraction),
            "retained extraction": mean_metric(before.extracted[kept], **fraction),
            "held-out bits a byte": mean_metric(before.bits, direction="lower is better"),
        }

    mine = {name: secret_log(log) for name, log in logs.items()}
    rows = language.secret_table(
        mine, retrained=[secret_log(log) for log in retrained], target=mine[NOTHING]
    )
    further = table_of(logs_of(logs, retrained), others)
    return {name: rows[name] | further[name] for name in rows}


def _exposure(log: Log) -> language.Exposure:
    return language.exposure(log.candidates[:, 0], log.candidates[:, 1:])
