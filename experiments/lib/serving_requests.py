"""Requests on the command line and in files, as a ledger accepts them: all of them, or none."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

import mu_jax as mu
from experiments.lib.tasks import Task, read_ids
from mu_jax.service import Ledger, Request


class Asked(NamedTuple):
    """words: the request as `--request` of unlearn has it. key: of whoever asks, or None."""

    words: str
    key: str | None = None


def table_of(task: Task) -> mu.IdTable:
    """The ids that people have for the training examples; their numbers where they have none."""
    index = np.asarray(task.train.index)
    own = task.sources["train"].ids
    return mu.id_table([str(one) for one in index], index=index) if own is None else own


def read_asked(path: str | os.PathLike[str]) -> list[Asked]:
    """The requests of a file, one a line: words alone, or `{"request": ..., "key": ...}`.

    Raises:
      FileNotFoundError: there is no file.
      ValueError: it holds none, or a line that is neither.
    """
    text = Path(path).read_text("utf-8")
    lines = [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise ValueError(f"expected requests in {path}, found an empty file; write one a line")
    return [_asked(line, f"line {number} of {path}") for number, line in lines]


def named(task: Task, asked: Iterable[Asked]) -> list[tuple[Asked, list[str]]]:
    """Which examples requests name, by the ids that people have.

    Raises:
      ValueError, OSError: a request that names no training example.
    """
    table = table_of(task)
    return [(one, _names(task, table, one.words)) for one in asked]


def accept(ledger: Ledger, task: Task, found: Iterable[tuple[Asked, list[str]]]) -> list[Request]:
    """Make the training examples known, and write down requests of `named`, in their order."""
    ledger.enroll(table_of(task))
    return [ledger.accept(names, key=one.key, asked=one.words) for one, names in found]


def _names(task: Task, table: mu.IdTable, words: str) -> list[str]:
    kind = words.partition(":")[0]
    own = task.sources["train"].ids is not None and kind in ("id", *table.subjects)
    return table.names(table.find(words) if own else read_ids(task, words)).tolist()


def _asked(line: str, where: str) -> Asked:
    if not line.startswith("{"):
        return Asked(line)
    try:
        found = json.loads(line)
        words, key = found.pop("request"), found.pop("key", None)
        fits = not found and isinstance(words, str) and isinstance(key, str | None)
    except (ValueError, KeyError, AttributeError):
        fits = False
    if not fits:
        raise ValueError(
            f'expected {{"request": "user:u_1", "key": "ticket 71"}} in {where}, found '
            f"{line[:60]!r}; correct it"
        )
    return Asked(words, key)
