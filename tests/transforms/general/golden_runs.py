"""The runs of the golden files of classification methods: batches as recorded, and optimizers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np
import optax

import mu_jax as mu


class Recorded:
    """Batches that come in another order in every epoch, as they did in a recorded run.

    Every walk through them is the next epoch.
    """

    def __init__(self, epochs: Sequence[Sequence[mu.Batch]]):
        self._epochs, self._walks = epochs, itertools.count()

    def __len__(self) -> int:
        return len(self._epochs[0])

    def __iter__(self) -> Iterator[mu.Batch]:
        return iter(self._epochs[next(self._walks)])


def batch(golden, rows, labels=None, weight=1.0):
    """The examples of one recorded step, whose list of rows is filled up with -1."""
    valid = rows >= 0
    rows = rows[valid]
    targets = golden["y"][rows] if labels is None else labels[valid]
    weight = np.full(rows.size, weight)
    return mu.Batch(golden["x"][rows], jnp.asarray(targets, jnp.int32), weight, rows)


def epochs_of(golden, case, chosen, count):
    """The recorded steps for which `chosen` is true, in `count` epochs of equal length."""
    steps = np.flatnonzero(chosen)
    labels = golden.get(f"{case}/labels")
    found = [
        batch(golden, golden[f"{case}/rows"][s], None if labels is None else labels[s])
        for s in steps
    ]
    return [found[i * len(found) // count : (i + 1) * len(found) // count] for i in range(count)]


def optimizer_of(golden, case, rate):
    """The optimizer of a recorded run: weight decay is added to the gradient."""
    hyper = {k.rpartition("/")[2]: v for k, v in golden.items() if k.startswith(f"{case}/hp/")}
    kind = str(hyper["optimizer"])
    step = optax.scale_by_adam() if kind == "adam" else optax.trace(float(hyper["momentum"]))
    decay = optax.add_decayed_weights(float(hyper.get("weight_decay", 0.0)))
    return optax.chain(decay, step, optax.scale_by_learning_rate(rate))
