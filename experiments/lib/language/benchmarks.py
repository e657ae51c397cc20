"""MUSE, WMDP and RWKU in the layouts in which they are spread, on disk."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from experiments.lib.configurations import Fields, check_fields
from experiments.lib.language import disk
from experiments.lib.language.origins import Origin, read
from experiments.lib.language.passages import Benchmark, make, prompts, scored
from experiments.lib.language.reading import Arrays, Log, texts_of
from experiments.lib.language.task import Rows, Task
from mu_jax import reporting
from mu_jax.evaluation import language
from mu_jax.reporting.records import Direction
from mu_jax.scoring.language import mean_metric
from mu_jax.scoring.language.tables import logs_of, table_of

DISK: Fields = {"data_dir": ((str, type(None)), None), "data.context": ((int,), 2)}
LETTERS = "ABCD"
VERBATIM, KNOWLEDGE, RWKU_ANSWER = 128, 32, 30  # tokens to write, as published
RWKU = {
    "forget_level1": "fill in the blank",
    "forget_level2": "questions",
    "forget_level3": "adversarial",
    "neighbor_level1": "neighbor fill in the blank",
    "neighbor_level2": "neighbor questions",
}


def make_muse(config: ConfigDict) -> Task:
    """MUSE: `data_dir/news/{raw,verbmem,knowmem,privleak}`."""
    check_fields(config, {**DISK, "data.corpus": ((str,), None)})
    data, origin = config.data, read(config)
    where = disk.folder(config.data_dir, data.corpus)
    verbatim = disk.records(where / "verbmem" / "forget.json", "prompt", "gt")
    tokenizer, size = origin.tokenizer, {"batch_size": config.training.batch_size}
    attacked = {}
    for side in ("forget", "holdout"):
        given = disk.texts(where / "privleak" / f"{side}.json")
        attacked[side] = scored(origin, given, length=data.context, **size)
    written = {"verbatim": prompts(origin, [each["prompt"] for each in verbatim], **size)}
    answers = {}
    for side in ("forget", "retain"):
        given, answers[side] = _knowledge(where / "knowmem", side)
        written[f"knowledge {side}"] = prompts(origin, given, **size)

    def log_of(log: Log) -> language.MuseLog:
        wrote = {name: texts_of(found, tokenizer) for name, found in log.written.items()}
        return language.MuseLog(
            language.verbatim_memorization(
                wrote["verbatim"],
                [each["gt"] for each in verbatim],
                encode=lambda text: tokenizer.encode(text).tokens,
                decode=tokenizer.decode,
            ),
            language.knowledge_memorization(wrote["knowledge forget"], answers["forget"]),
            language.knowledge_memorization(wrote["knowledge retain"], answers["retain"]),
            log.attacked["forget"],
            log.attacked["holdout"],
        )

    def table(logs: Mapping[str, Log], retrained: Sequence[Log]) -> Rows:
        rows = {name: log_of(log) for name, log in logs.items()}
        return language.muse_table(rows, retrained=[log_of(log) for log in retrained])

    benchmark = Benchmark(
        f"MUSE {data.corpus}",
        disk.texts(where / "raw" / "forget.txt"),
        disk.texts(where / "raw" / "retain1.txt"),
        Arrays(prompts=written, attacked=attacked),
        {"verbatim": VERBATIM, "knowledge forget": KNOWLEDGE, "knowledge retain": KNOWLEDGE},
        _stop(origin),
        table,
        ("VerbMem", "KnowMem forget", "KnowMem retain", "AUC", "PrivLeak"),
    )
    return make(config, origin, benchmark)


def _knowledge(where: pathlib.Path, side: str) -> tuple[list[str], list[str]]:
    """Few-shot prompts of questions, and the true answers."""
    asked, few = (
        disk.records(where / f"{side}_{name}.json", "question", "answer")
        for name in ("qa", "qa_icl")
    )
    shots = "".join(f"Question: {r['question']}\nAnswer: {r['answer']}\n\n" for r in few)
    given = [f"{shots}Question: {each['question']}\nAnswer: " for each in asked]
    return given, [each["answer"] for each in asked]


def make_wmdp(config: ConfigDict) -> Task:
    """WMDP: `bio-forget-corpus.jsonl` and others, `bio_questions.json` with choices, by domain."""
    names = {"data.domains": ((tuple, list), None), "data.passages": ((int,), 1)}
    check_fields(config, {**DISK, **names})
    data, origin = config.data, read(config)
    where = disk.folder(config.data_dir)
    forget, retain, asked = [], [], {}
    for domain in data.domains:
        names = f"{domain}-forget-corpus.jsonl", f"{domain}_remove_dataset.jsonl"
        forget += disk.texts(disk.first_of(where, *names))[: data.passages]
        names = f"{domain}-retain-corpus.jsonl", f"{domain}_retain_dataset.jsonl"
        retain += disk.texts(disk.first_of(where, *names))[: data.passages]
        names = f"{domain}_questions.json", f"wmdp-mcqs/{domain}_questions.json"
        path = disk.first_of(where, *names)
        asked[domain] = disk.records(path, "question", "choices", "answer")
    if kept := disk.records(where / "utility_questions.json", "question", "choices", "answer",
                            optional=True):  # fmt: skip
        asked["utility"] = kept
    letters = np.array([origin.tokenizer.encode(f" {x}").tokens[-1] for x in LETTERS], np.int32)
    choices, answers = {}, {}
    for domain, questions in asked.items():
        answers[domain] = np.array([_answer(each, domain) for each in questions])
        ids = np.broadcast_to(letters, (len(questions), len(LETTERS)))
        given = [_choices(each) for each in questions]
        choices[domain] = prompts(origin, given, batch_size=config.training.batch_size, targets=ids)

    def row(log: Log) -> dict[str, reporting.Metric]:
        return {
            f"{domain} accuracy": mean_metric(
                np.asarray(log.chosen[domain]) == right,
                unit="fraction",
                direction=_direction(domain == "utility"),
                note="guessing gives 25 %",
            )
            for domain, right in answers.items()
        }

    benchmark = Benchmark(
        f"WMDP {' and '.join(data.domains)}",
        forget,
        retain,
        Arrays(choices=choices),
        {},
        (),
        lambda logs, retrained: table_of(logs_of(logs, retrained), row),
        tuple(f"{domain} accuracy" for domain in asked),
    )
    return make(config, origin, benchmark)


def _answer(record: Mapping[str, Any], domain: str) -> int:
    number = record["answer"]
    if number not in range(len(LETTERS)) or len(record["choices"]) != len(LETTERS):
        raise ValueError(
            f"expected four choices and an answer from 0 to 3 in the questions of {domain}, found "
            f"{len(record['choices'])} and {number!r}; mend the file"
        )
    return int(number)


def _choices(record: Mapping[str, Any]) -> str:
    lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, record["choices"])]
    return "\n".join([str(record["question"]).strip(), *lines, "Answer:"])


def make_rwku(config: ConfigDict) -> Task:
    """RWKU: a folder for each target, `data_dir/1_Stephen_King/{passage,forget_level1,...}.json`.

    The passages of other targets are retained.
    """
    check_fields(config, {**DISK, "data.target": ((str,), None), "data.others": ((int,), 1)})
    data, origin = config.data, read(config)
    where = disk.folder(config.data_dir, data.target)
    others = [
        path
        for path in sorted(disk.folder(config.data_dir).iterdir())
        if path.name != data.target and (path / "passage.json").is_file()
    ]
    if not others:
        raise ValueError(
            f"expected passages of other targets beside {data.target!r} in {config.data_dir}, "
            "found none; copy further targets, whose passages are retained"
        )
    retain = [text for path in others[: data.others] for text in disk.texts(path / "passage.json")]
    asked = {name: disk.records(where / f"{name}.json", "query", "answer") for name in RWKU}
    size = {"batch_size": config.training.batch_size}
    written = {
        name: prompts(origin, [_query(name, each) for each in questions], **size)
        for name, questions in asked.items()
    }

    def row(log: Log) -> dict[str, reporting.Metric]:
        found = {}
        for name, title in RWKU.items():
            wrote = texts_of(log.written[name], origin.tokenizer)
            truth = [str(each["answer"]) for each in asked[name]]
            recall = language.rouge_l(wrote, truth, stem=False).recall
            direction = _direction(name.startswith("neighbor"))
            found[f"{title} ROUGE-L"] = mean_metric(recall, unit="fraction", direction=direction)
        return found

    line = origin.tokenizer.encode("\n").tokens[-1:]
    benchmark = Benchmark(
        f"RWKU {data.target}",
        disk.texts(where / "passage.json"),
        retain,
        Arrays(prompts=written),
        dict.fromkeys(RWKU, RWKU_ANSWER),
        (*_stop(origin), *(int(token) for token in line)),
        lambda logs, retrained: table_of(logs_of(logs, retrained), row),
        tuple(f"{title} ROUGE-L" for title in RWKU.values()),
    )
    return make(config, origin, benchmark)


def _query(name: str, record: Mapping[str, Any]) -> str:
    if record.get("type") == "incontext learning":
        return f"Please briefly answer the following question.\n{record['query']}\nAnswer:"
    task = "complete the blank in" if name.endswith("level1") else "briefly answer"
    return f"Please {task} the following question.\nQuestion: {record['query']}\nAnswer:"


def _direction(kept: bool) -> Direction:
    return "higher is better" if kept else "closer to retrain"


def _stop(origin: Origin) -> tuple[int, ...]:
    return () if origin.tokenizer.end is None else (origin.tokenizer.end,)
