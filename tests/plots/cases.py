"""Records and arrays of a small run: digits with a forgotten class, and methods of every kind."""

from __future__ import annotations

import dataclasses

import numpy as np

from mu_jax.reporting import (
    Arrays,
    Cost,
    Curve,
    Edits,
    Examples,
    ForgetSet,
    Histogram,
    Metric,
    Oracle,
    Record,
    Similarity,
)

FORGET_SET = ForgetSet("class 3", 60)
SIZES = {"forget": 60, "retain": 90, "test": 100}
CLASSES = 5
# How far the margins of forget, retain and test examples are from those of retrained models.
SHIFTS = {
    "retrain": (0.0, 0.0, 0.0),
    "do nothing": (6.0, 0.5, 0.2),
    "ssd": (1.0, -0.3, -0.2),
    "finetune": (4.0, 0.4, 0.1),
    "scrub": (-0.2, 0.1, 0.0),
    "gradient_ascent": (-5.0, -1.5, -1.2),
}
LAYERS = ("conv1", "conv2", "dense1", "logits")


def targets(name, sizes=SIZES, classes=CLASSES):
    if name == "forget":
        return np.full(sizes[name], 3 % classes)
    return np.arange(sizes[name]) % classes


def examples(row, name, models, *, sizes=SIZES, classes=CLASSES, shifts=SHIFTS):
    """Margins around 3 (forget: around 0), with losses and predictions that follow from them."""
    seed = sum(map(ord, f"{row} {name}"))
    rng = np.random.default_rng(seed)
    own = np.random.default_rng(len(name)).normal(size=sizes[name])
    shift = shifts[row][["forget", "retain", "test"].index(name)]
    center = (0.0 if name == "forget" else 3.0) + shift + own
    margins = (center + rng.normal(size=(models, sizes[name]))).astype(np.float32)
    labels = targets(name, sizes, classes)
    wrong = (labels + 1 + rng.integers(classes - 1, size=margins.shape)) % classes
    ids = np.arange(sizes[name]) + 1_000 * len(name)
    predictions = np.where(margins > 0, labels, wrong)
    return Examples(ids, labels, np.log1p(np.exp(-margins)), margins, predictions)


def make_arrays(models=20, rows=tuple(SHIFTS), **options):
    numbers = {row: 2 * models if row == "retrain" and models > 1 else models for row in rows}
    found = {
        row: {name: examples(row, name, numbers[row], **options) for name in SIZES} for row in rows
    }
    rng = np.random.default_rng(0)
    places, leaves = len(LAYERS), [f"{layer}/{leaf}" for layer in LAYERS for leaf in ("w", "b")]
    similarity, edits, curves = {}, {}, {}
    steps = np.arange(0, 200, 2.0)
    for row in rows:
        rise = 1 - np.exp(-steps / (10 if row == "do nothing" else 60))
        noise = 0.02 * rng.normal(size=(models, len(steps)))
        curves[row] = Curve(steps, np.clip(rise + noise, 0, 1), "accuracy on the forget set")
        if row in ("retrain", "constant"):
            continue
        similarity[row] = {
            name: Similarity(
                LAYERS,
                0.9 - 0.1 * rng.random((models, places)),
                0.8 - 0.2 * rng.random((models, places)),
                np.full(places, 0.75),
                np.full(places, 0.85),
            )
            for name in ("forget", "retain")
        }
        edits[row] = Edits(
            tuple(leaves),
            np.arange(1, len(leaves) + 1) * 100,
            rng.random((models, len(leaves))),
            0.1 * rng.random((models, len(leaves))),
            rng.uniform(-0.2, 0.9, (models, len(leaves))),
        )
    edges = np.geomspace(1e-3, 1e3, 41)
    counts = np.round(1e4 * np.exp(-0.5 * ((np.log(edges[1:]) + 1) / 1.5) ** 2))
    ratios = {"ssd": Histogram(edges, counts, 2.0, "importance ratio, forget / all")}
    return Arrays(found, similarity, edits, ratios, curves)


def metrics(row, arrays, seed=None, oracle=True):
    """Accuracies of one model, or the means over all, in percent of the retrained models."""
    found = {}
    for name in SIZES:
        right = {
            r: (arrays.examples[r][name].predictions == arrays.examples[r][name].targets).mean(1)
            for r in (row, "retrain")
            if r in arrays.examples
        }
        value = right[row].mean() if seed is None else right[row][seed]
        beside = right.get("retrain")
        found[f"{name} accuracy"] = Metric(
            value,
            n=SIZES[name],
            unit="fraction",
            oracle=Oracle(beside.mean(), beside.min(), beside.max())
            if oracle and beside is not None
            else None,
        )
    return found


def cost(k):
    return Cost(wall_s=8.0 / (1 + k), precompute_s=1.5 * (k % 3 == 2) or None, device="a CPU")


def make_records(arrays, seeds=3, *, oracle=True, forget_set=FORGET_SET):
    """A record for each of the first models of every row."""
    return [
        Record(
            row,
            forget_set,
            seed,
            metrics=metrics(row, arrays, seed, oracle),
            cost=cost(k) if row != "do nothing" else Cost(wall_s=0.0),
        )
        for k, row in enumerate(arrays.examples)
        for seed in range(min(seeds, len(arrays.examples[row]["forget"].losses)))
    ]


def ensemble_records(arrays):
    """One record for each row, over all its models, with the interval of KLoM."""
    found = []
    for row in arrays.examples:
        own = metrics(row, arrays)
        own["KLoM forget p95"] = Metric(2.0, low=1.5, high=2.5, unit="nats")
        found.append(Record(row, FORGET_SET, 0, metrics=own))
    return found


def make_sweep(arrays, methods=("ssd", "scrub"), points=12):
    """Settings of two hyper-parameters, of which the first decides; the last of each collapsed."""
    records = [
        Record("retrain", FORGET_SET, seed, metrics=metrics("retrain", arrays, seed))
        for seed in (0, 1)
    ]
    rng = np.random.default_rng(1)
    for method in methods:
        for k in range(points):
            alpha, norm = float(10 ** rng.uniform(-2, 2)), "l1" if k % 2 else "l2"
            far = 0.3 * abs(np.log10(alpha)) / 2
            own = {
                name: dataclasses.replace(metric, value=float(np.clip(metric.value - far, 0, 1)))
                for name, metric in metrics(method, arrays).items()
            }
            broken = {"status": "collapsed", "reason": "constant predictions"}
            records.append(
                Record(
                    method,
                    FORGET_SET,
                    0,
                    metrics=own,
                    hyperparameters={"alpha": alpha, "norm": norm},
                    **(broken if k == points - 1 else {}),
                )
            )
    return records


def make_requests(arrays, requests=4):
    """Records of requests that come one after another."""
    return [
        dataclasses.replace(record, forget_set=ForgetSet(f"request {k}", 10 * k))
        for k in range(1, requests + 1)
        for record in make_records(arrays)
    ]


def nested(spec, key):
    """Every value under a key, anywhere in a specification."""
    if isinstance(spec, dict):
        for name, value in spec.items():
            if name == key:
                yield value
            yield from nested(value, key)
    elif isinstance(spec, list):
        for value in spec:
            yield from nested(value, key)


def rows_of(spec):
    """All rows of data in a specification, those of hidden layers too."""
    return [row for values in spec.get("datasets", {}).values() for row in values]
