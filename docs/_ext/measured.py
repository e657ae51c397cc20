"""Measured rows of a method, from the records and the tables that the repository holds."""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from method_facts import ROOT, table
from tuned import configuration, settings

from experiments.lib.overview import overview
from mu_jax import reporting
from mu_jax.reporting import Record
from mu_jax.scoring.rows import NOTHING, RETRAIN

RECORDS = ROOT / "experiments" / "sweep_files"
# Beside every method: what it is to be compared with.
FIXED = (RETRAIN, NOTHING)
HOW = "../classification.md#how-to-read-a-table"
FLOOR_UNKNOWN = (
    "In these records retrained models stand beside themselves, so that the floor is not known."
)
INDEPENDENT = (
    "What five runs of an independent program gave on digits as a regression, mean and standard "
    "deviation; `python -m experiments.regression` prints them beside its own."
)


class Page(NamedTuple):
    """The first table below a heading of a page.

    config: its rows are the settings of this configuration. rows: or, for each method that it is
    about, how those of its rows begin that are the method's; "" for all.
    """

    title: str
    path: str
    heading: str
    config: str = ""
    rows: Mapping[str, str] = MappingProxyType({})


PAGES = (
    Page(
        "Secrets in a model of source code",
        "docs/language-demonstrations.md",
        "## One: secrets in a model of source code",
        "language_stdlib",
    ),
    Page(
        "Made-up authors, with the metrics of TOFU",
        "docs/language-demonstrations.md",
        "## Two: made-up authors with the metrics of TOFU",
        "language_authors",
    ),
    Page(
        "Passages in a pretrained model",
        "docs/language-passage.md",
        "## What came of it",
        rows={"undial": ""},
    ),
    Page(
        "A convex problem, by the number k of removed examples",
        "docs/influence.md",
        "## What it is worth: slopes",
        rows={"influence": ""},
    ),
    Page(
        "Importance per example against a gradient of the same rows, in milliseconds",
        "benchmarks/README.md",
        "## What was found",
        rows={"ssd": ""},
    ),
    Page(
        "A compiled step against one of fine-tuning on the same rows",
        "benchmarks/README.md",
        "### Steps of language models (`mu_jax/projected.py`, `mu_jax/models/decoder/blocks.py`)",
        rows={"npo": "NPO", "dpo": "DPO", "rmu": "RMU"},
    ),
)


def markdown(method: str) -> str:
    """Everything measured of a method in this repository, as Markdown."""
    parts = [
        part for source in (_of_records, _of_regressions, _of_pages) for part in source(method)
    ]
    return "\n\n".join(parts) or (
        f"The repository has no record of `mu.{method}` on data beside others: nothing that was "
        "measured can be shown."
    )


def sources() -> list[Path]:
    """The files that `markdown` reads: a page is built anew when one changes."""
    return [
        *sorted(RECORDS.glob("*.jsonl")),
        *sorted((ROOT / "experiments/configs").glob("*.py")),
        *(ROOT / page.path for page in PAGES),
    ]


def rows_of(records: Collection[Record], method: str) -> list[Record]:
    """The records of a method, whatever its settings are called."""
    return [r for r in records if r.hyperparameters.get("method", r.method) == method]


def _of_records(method: str) -> Iterator[str]:
    """Of each data set its table; of a method that is not in it, what the search reported."""
    for kind in ("classification", "reporting"):
        for path in sorted(RECORDS.glob(f"*.{kind}.jsonl")):
            data_set = path.name.partition(".")[0]
            found = rows_of(records := reporting.read(path), method)
            if kind == "reporting" and _in_table(data_set, method):
                continue
            if found or method in FIXED:
                yield _records_table(data_set, kind, [*_fixed(records, kind), *found])


def _in_table(data_set: str, method: str) -> bool:
    """Whether the table of a data set has the method, which a search for classes may have found."""
    path = RECORDS / f"{data_set.removesuffix('_classes')}.classification.jsonl"
    return path.exists() and bool(method in FIXED or rows_of(reporting.read(path), method))


def _fixed(records: Collection[Record], kind: str) -> list[Record]:
    """The rows to compare with; the floor only where retrained models stand beside others."""
    chosen = FIXED if kind == "classification" else (NOTHING,)
    return [record for record in records if record.method in chosen]


def _records_table(data_set: str, kind: str, records: list[Record]) -> str:
    unique = list({(r.method, r.forget_set.kind): r for r in records}.values())
    found = overview(unique, data_set)
    grid = transposed(reporting.render([found], markdown=True))
    notes = found.notes
    if kind == "reporting":
        notes = (f"{notes[0].partition(';')[0]}.", FLOOR_UNKNOWN)
    where = f"`experiments/sweep_files/{data_set}.{kind}.jsonl`; [how to read it]({HOW})"
    lines = "\n".join(f"* {note}" for note in notes)
    return f"**{data_set.replace('_', ' ')}** ({where})\n\n{grid}\n\n{lines}"


def transposed(text: str) -> str:
    """The Markdown table in a text, with its columns as lines."""
    lines = [cells(line) for line in text.splitlines() if line.startswith("|")]
    head, *body = zip(*(line for i, line in enumerate(lines) if i != 1))
    kept = [list(row) for row in body if row[0] != "seeds" and set(row[1:]) != {"-"}]
    return table(["measure", *head[1:]], kept)


def cells(line: str) -> list[str]:
    """The cells of a line of a Markdown table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _of_regressions(method: str) -> Iterator[str]:
    yield from _diabetes(method)
    config = configuration("digits_regression")
    found = [*FIXED, *settings(config, method)]
    if method in FIXED or len(found) > len(FIXED):
        head = ["model", "retain test MAE", "forget test MAE", "W1 to retrained"]
        rows = [
            [name, *_spread(config.expected[name])] for name in found if name in config.expected
        ]
        yield f"{INDEPENDENT}\n\n{table(head, rows)}"


def _spread(expected: tuple) -> list[str]:
    return [f"{mean:.2f} ± {std:.2f}" for mean, std in zip(*expected)]


def _diabetes(method: str) -> Iterator[str]:
    module = importlib.import_module("experiments.configs.diabetes")
    names = [*FIXED, *settings(module.get_config(), method)]
    if method in FIXED or len(names) > len(FIXED):
        head, *rows = tables(module.__doc__ or "")[0]
        kept = [row for row in rows if row[0] in names]
        yield (
            "Diabetes progression, patients below 75 forgotten (`experiments/configs/diabetes.py`; "
            f"five seeds, mean and standard deviation)\n\n{table(['model', *head[1:]], kept)}"
        )


def tables(text: str) -> list[list[list[str]]]:
    """The Markdown tables of a text, each a head and its rows."""
    blocks = re.findall(r"(?:^\|.*\n)+", text + "\n", re.MULTILINE)
    found = [[cells(line) for line in block.splitlines()] for block in blocks]
    return [[head, *rows] for head, _, *rows in found]


def _of_pages(method: str) -> Iterator[str]:
    for page in PAGES:
        names = set(settings(configuration(page.config), method)) if page.config else set()
        if not names and method not in page.rows:
            continue
        found = tables((ROOT / page.path).read_text().partition(f"\n{page.heading}\n")[2])
        if not found:
            raise ValueError(
                f"expected a table below {page.heading!r} in {page.path}, found none: correct "
                "PAGES in docs/_ext/measured.py"
            )
        head, *rows = found[0]
        if page.config:
            rows = [row for row in rows if row[0].partition(",")[0] in {*names, *FIXED}]
        else:
            rows = [row for row in rows if row[0].startswith(page.rows[method])]
        name = page.path.removesuffix("/README.md").removeprefix("docs/").removesuffix(".md")
        link = f"[{name.replace('-', ' ')}](../{name}.md)"
        yield f"**{page.title}**, from {link}, which says how to read it\n\n{table(head, rows)}"
