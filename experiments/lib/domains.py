"""The forget domain of a regression, and its results beside those that are expected."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import mu_jax as mu
from experiments.lib import tasks
from experiments.lib.tasks import Task, read_ids
from mu_jax.reporting import Record


class Sets(NamedTuple):
    """The training examples to forget and to retain, and the test examples of both domains."""

    forget: mu.Batches
    retain: mu.Batches
    test_forget: mu.Batches
    test_retain: mu.Batches


def split(task: Task, domain: str) -> Sets:
    """The sets of a domain, which is a request that also says which test examples it means.

    It is a bound of the targets in original units, `below:3` or `above:60`, or values of an
    attribute, `client:200-209`.
    """
    kind, attributes = domain.partition(":")[0], task.sources["train"].attributes
    if kind not in ("below", "above", *attributes):
        forms = ", ".join(["below:3.5", "above:60", *(f"{name}:..." for name in attributes)])
        raise ValueError(
            f"expected a domain such as {forms}, which says of test examples too whether they "
            f"belong to it, found {domain!r}; use one of these forms"
        )
    forget, retain = tasks.split(task, read_ids(task, domain))
    try:
        ids = read_ids(task, domain, split="test")
    except ValueError as error:
        raise ValueError(
            f"expected test examples of {task.config.dataset} inside the domain {domain!r} and "
            "outside, found them on one side only; choose another domain"
        ) from error
    return Sets(forget, retain, *mu.split(task.test, ids))


def compare(records: list[Record], expected: Any) -> str:
    """Means over seeds beside the expected ones, and whether each is within two deviations."""
    names = ("retain test MAE", "forget test MAE", "W1 to retrained")
    lines = ["Found (expected ± its deviation), ! where they differ by more than two deviations:"]
    for method, (means, deviations) in expected.items():
        cells = []
        for name, mean, deviation in zip(names, means, deviations):
            values = [r.metrics[name].value for r in records if r.method == method]
            found = float(np.mean(values))
            sign = " " if abs(found - mean) <= 2 * deviation + 1e-6 else "!"
            cells.append(f"{found:5.2f} ({mean:.2f} ± {deviation:.2f}){sign}")
        lines.append(f"  {method:40s} " + "   ".join(cells))
    return "\n".join(lines)
