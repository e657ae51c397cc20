"""The forget domain of a regression task, and its results beside those that are expected."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import mu_jax as mu
from experiments.tasks import Task
from mu_jax.reporting import Record


class Sets(NamedTuple):
    """The training examples to forget and to retain, and the test examples of both domains."""

    forget: mu.Batches
    retain: mu.Batches
    test_forget: mu.Batches
    test_retain: mu.Batches


def split(task: Task, below: float) -> Sets:
    """The sets of a forget domain given by the target."""
    parts = []
    for examples in (task.train, task.test):
        low = np.asarray(examples.targets) < below
        parts += [examples.take(np.flatnonzero(low)), examples.take(np.flatnonzero(~low))]
    return Sets(*parts)


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
