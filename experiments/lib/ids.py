"""The ids that people have, in records and in the lineages of a store."""

from __future__ import annotations

import numpy as np

from experiments.lib.tasks import Task
from mu_jax import datasets
from mu_jax.data.id_table import require_same
from mu_jax.reporting import ForgetSet
from mu_jax.reporting.records import NAMED
from mu_jax.store import Store


def named_set(task: Task, kind: str, ids: np.ndarray, *, split: str = "train") -> ForgetSet:
    """What was to be forgotten, for records: in words, and by the ids that people have."""
    source = task.sources.get(split)
    table = None if source is None else source.ids
    names = () if table is None else tuple(table.names(ids[:NAMED]).tolist())
    return ForgetSet(kind, len(ids), datasets.digest(ids), names)


def check_ids(task: Task, store: Store, version: int | None) -> None:
    """Refuse data whose ids are not those with which the lineage of a version began."""
    if version is None:
        return
    kept, table = store.ids(version), task.sources["train"].ids
    if kept is not None and table is not None:
        require_same(kept, table, store.forgotten(version))
    elif (kept is None) != (table is None):
        state = ["without a table of ids", "with a table of ids"]
        raise ValueError(
            f"expected {task.config.dataset} {state[kept is not None]}, as when the lineage of "
            f"version {version} began, found it {state[table is not None]}; prepare it as it was"
        )
