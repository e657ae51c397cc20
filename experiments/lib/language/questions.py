"""Tasks of questions with paraphrased and wrong answers: TOFU on disk, and made-up authors."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.lib.configurations import Fields, check_fields
from experiments.lib.language import authors, disk
from experiments.lib.language.origins import Origin, new, read
from experiments.lib.language.reading import Arrays, Log, Reader, prompts_of, texts_of
from experiments.lib.language.task import Rows, Split, Task, relearn
from experiments.lib.language.words import WordTokenizer
from mu_jax import datasets, reporting
from mu_jax.datasets.language import (
    PLAIN,
    RoleTemplate,
    Template,
    TokenRows,
    padded,
    questions,
    read_chat_template,
)
from mu_jax.evaluation import language
from mu_jax.reporting import ForgetSet
from mu_jax.scoring.language import mean_metric, relearned_metric
from mu_jax.scoring.language.tables import logs_of, table_of
from mu_jax.scoring.rows import NOTHING

PyTree = Any
Record = Mapping[str, Any]
AUTHORS: Fields = {
    **{f"data.{name}": ((int,), 1) for name in ("authors", "known", "forget", "measured")},
    "data.max_new": ((int,), 1),
    "data.seed": ((int,), 0),
}
TOFU: Fields = {
    **{f"data.{name}": ((str,), None) for name in ("forget", "retain", "template")},
    **{f"data.{name}": ((int,), 1) for name in ("of_author", "measured", "max_new")},
    "data_dir": ((str, type(None)), None),
}
SETS = ("forget", "retain", "real authors", "world facts")
BARE = RoleTemplate(before={"user": "", "assistant": ""}, after={"user": " "})
HEADLINE = (
    "forget quality",
    "model utility",
    "forget probability",
    "forget truth ratio",
    "forget ROUGE",
    "unseen probability",
    "relearned probability",
    "relearned",
)


class Questions(NamedTuple):
    """Records of one request.

    train: all questions to learn. forget: which of them are to be forgotten, bool[n]. owner: whom
    each is about, [n]. sets: questions to measure with, by the names of TOFU, each with `question`,
    `answer`, `perturbed_answer` and, of forget and retain, `paraphrased_answer`. owners: whom the
    questions of the measured forget set are about.
    """

    train: Sequence[Record]
    forget: np.ndarray
    owner: np.ndarray
    sets: Mapping[str, Sequence[Record]]
    owners: np.ndarray


class Form(NamedTuple):
    """How records become rows. template: of questions. max_new: tokens of a greedy answer."""

    tokenizer: Any
    template: Template
    max_new: int
    batch_size: int

    def rows(self, records: Sequence[Record], answer: Any = "answer") -> TokenRows:
        """Questions with their answers, numbered by their place."""
        ids = datasets.by_position
        return questions(records, self.tokenizer, answer=answer, template=self.template, ids=ids)


def make_authors(config: ConfigDict) -> Task:
    """The task of made-up authors."""
    data = config.data
    check_fields(config, AUTHORS)
    if data.authors <= config.splits * data.forget or not 0 < config.relearning.shown < data.forget:
        raise ValueError(
            f"expected more authors in data.authors than {config.splits * data.forget}, "
            f"{data.forget} for each of {config.splits} splits, and relearning.shown from 1 to "
            f"{data.forget - 1}, found {data.authors} and {config.relearning.shown}; correct them"
        )
    learned, known, world = authors.generate(data.seed, authors=data.authors, known=data.known)
    everything = [*learned, *known, *world]
    texts = (
        r["question"] + " " + " ".join([r["answer"], *r["perturbed_answer"]]) for r in everything
    )
    tokenizer = WordTokenizer.of(texts)
    form = Form(tokenizer, BARE, data.max_new, config.training.batch_size)
    longest = max(
        form.rows(everything).lengths.max(), form.rows(everything, _wrong(0)).lengths.max()
    )
    origin = new(config, tokenizer, int(longest) + data.max_new)
    names = list(dict.fromkeys(record["author"] for record in learned))
    order = np.random.default_rng([data.seed, 1]).permutation(len(names))
    parts = order[: config.splits * data.forget].reshape(config.splits, -1)
    splits = []
    for number, part in enumerate(parts):
        mine = {names[k] for k in part}
        owner = np.array([record["author"] for record in everything])
        forget = np.isin(owner, list(mine))
        held = [record for record in learned if record["author"] not in mine]
        asked = [record for record in learned if record["author"] in mine]
        sets = dict(zip(SETS, (asked, held[: data.measured], known, world)))
        owners = np.array([record["author"] for record in asked])
        found = Questions(everything, forget, owner, sets, owners)
        splits.append(make_split(config, origin, form, found, f"split {number}"))
    return make_task(config, origin, form, everything, splits)


def make_task(
    config: ConfigDict, origin: Origin, form: Form, train: Sequence[Record], splits: Sequence[Split]
) -> Task:
    """The task of these splits."""
    language.words("stems", stem=True)  # a missing package is named before anything is computed
    limits = dict.fromkeys(SETS, form.max_new)
    stop = () if form.tokenizer.end is None else (form.tokenizer.end,)
    return Task(
        config,
        origin.decoder,
        origin.model,
        origin.start,
        padded(form.rows(train), batch_size=config.training.batch_size),
        splits,
        Reader(origin.model, origin.decoder, limits, stop),
        HEADLINE,
        origin.retrained,
    )


def make_split(
    config: ConfigDict, origin: Origin, form: Form, found: Questions, name: str
) -> Split:
    """The split of one request; the first owners of the measured forget set are shown again."""
    rows = form.rows(found.train)
    train = padded(rows, batch_size=config.training.batch_size)
    asked = form.rows(found.sets["forget"])
    about = list(dict.fromkeys(found.owners))
    shown = np.isin(found.owners, about[: config.relearning.shown])
    if shown.all() or not shown.any():
        raise ValueError(
            f"expected relearning.shown from 1 to {len(about) - 1}, some of {len(about)} authors, "
            f"found {config.relearning.shown}; leave some that are never shown"
        )
    unseen = padded(asked, batch_size=form.batch_size)
    mine = np.flatnonzero(found.forget)
    subjects = tuple(f"author:{owner}" for owner in dict.fromkeys(found.owner[mine]))
    return Split(
        name,
        ForgetSet(f"{name}: questions", mine.size, datasets.digest(mine), subjects),
        np.where(found.forget, 0, 1).astype(np.float32),
        train.take(mine),
        train.take(np.flatnonzero(~found.forget)),
        _arrays(form, found.sets),
        relearn(
            config,
            unseen.take(np.flatnonzero(shown)),
            unseen.take(np.flatnonzero(~shown)),
            _probability,
            "probability of answers never shown",
        ),
        functools.partial(_table, form, found.sets, shown),
        texts={
            title: [f"{each['question']}\n{each['answer']}" for each in records]
            for title, records in found.sets.items()
        },
    )


def _probability(logits: jax.Array, targets: Any) -> jax.Array:
    return language.probability(language.token_statistics(logits, targets))


def _wrong(number: int):
    return lambda record: record["perturbed_answer"][number]


def _arrays(form: Form, sets: Mapping[str, Sequence[Record]]) -> Arrays:
    nll, prompts = {}, {}
    for name, records in sets.items():
        rows = form.rows(records)
        prompts[name] = prompts_of(rows, batch_size=form.batch_size)
        nll[f"{name}/answer"] = padded(rows, batch_size=form.batch_size)
        if "paraphrased_answer" in records[0]:
            again = form.rows(records, "paraphrased_answer")
            nll[f"{name}/paraphrase"] = padded(again, batch_size=form.batch_size)
        for number in range(len(records[0]["perturbed_answer"])):
            wrong = form.rows(records, _wrong(number))
            nll[f"{name}/wrong {number}"] = padded(wrong, batch_size=form.batch_size)
    return Arrays(nll=nll, prompts=prompts)


def _table(
    form: Form,
    sets: Mapping[str, Sequence[Record]],
    shown: np.ndarray,
    logs: Mapping[str, Mapping[str, Log]],
    retrained: Sequence[Mapping[str, Log]],
) -> Rows:
    """The table of TOFU, and what relearning brings back of questions never shown."""

    def tofu(log: Mapping[str, Log]) -> dict[str, language.TofuSet]:
        return {name: _tofu_set(form, log["before"], name, sets[name]) for name in sets}

    def probability(log: Mapping[str, Log], when: str) -> np.ndarray:
        return np.exp(-log[when].nll["forget/answer"][~shown])

    def relearning(log: Mapping[str, Log]) -> dict[str, reporting.Metric]:
        before, after = (probability(log, when) for when in ("before", "after"))
        return {
            "unseen probability": mean_metric(before, unit="mean"),
            "relearned probability": mean_metric(after, unit="mean"),
            "relearned": relearned_metric(after, before, probability(logs[NOTHING], "before")),
        }

    rows = language.tofu_table(
        {name: tofu(log) for name, log in logs.items()}, retrained=[tofu(log) for log in retrained]
    )
    further = table_of(logs_of(logs, retrained), relearning)
    return {name: rows[name] | further[name] for name in rows}


def _tofu_set(form: Form, log: Log, name: str, records: Sequence[Record]) -> language.TofuSet:
    written = texts_of(log.written[name], form.tokenizer)
    truth = [record["answer"] for record in records]
    wrong = len(records[0]["perturbed_answer"])
    return language.TofuSet(
        log.nll[f"{name}/answer"],
        np.stack([log.nll[f"{name}/wrong {k}"] for k in range(wrong)], axis=1),
        language.rouge_l(written, truth, stem=True).recall,
        log.nll.get(f"{name}/paraphrase", ()) if name in ("forget", "retain") else (),
        np.arange(len(records)),
    )


def make_tofu(config: ConfigDict) -> Task:
    """TOFU: `data_dir/forget10.json`, `retain90.json` and the four `..._perturbed.json`."""
    check_fields(config, TOFU)
    data, origin = config.data, read(config)
    where = disk.folder(config.data_dir)
    fields = ("question", "answer")
    forget = disk.records(where / f"{data.forget}.json", *fields)
    retain = disk.records(where / f"{data.retain}.json", *fields)
    sets = {}
    for title in SETS:
        name = f"{data.forget if title == 'forget' else title.replace(' ', '_')}_perturbed"
        further = ("paraphrased_answer",) if title in ("forget", "retain") else ()
        path = where / f"{name}.json"
        sets[title] = disk.records(path, *fields, "perturbed_answer", *further)[: data.measured]
    if data.template not in ("plain", "chat"):
        raise ValueError(
            f"expected 'plain' or 'chat' as data.template, found {data.template!r}; choose one"
        )
    chat = data.template == "chat"
    template = read_chat_template(config.model.directory) if chat else PLAIN
    form = Form(origin.tokenizer, template, data.max_new, config.training.batch_size)
    owner = np.arange(len(forget) + len(retain)) // data.of_author  # as TOFU's files are ordered
    everything = [*forget, *retain]
    mine = np.arange(len(everything)) < len(forget)
    owners = np.arange(len(sets["forget"])) // data.of_author
    found = Questions(everything, mine, owner, sets, owners)
    split = make_split(config, origin, form, found, data.forget)
    return make_task(config, origin, form, everything, [split])
