"""Runs made by hand for the tests of the page: models that are drawn, not trained."""

from __future__ import annotations

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
    Run,
    Shown,
    Similarity,
    missing,
)
from mu_jax.scoring.rows import CONSTANT, NOTHING, RETRAIN

CLASS_3 = ForgetSet("class 3", 125, "ab12cd34ef")
SIZES = {"forget": 125, "retain": 812, "test": 360}  # 1,297 examples
NAMES = (
    *("ssd", "finetune", "scrub", "iau", "dmm", "blindspot", "gradient_ascent", "salun"),
    *("neg_grad_plus", "random_labels", "bad_teacher", "l1_sparse"),
)
LAYERS = ("conv0", "conv1", "dense0", "logits")


def shift_of(row, k):
    """How much less a row knows the forget set than the untouched models do, in margins."""
    return {RETRAIN: -4.0, NOTHING: 0.0}.get(row, -1.0 - 0.45 * k)


def examples_of(row, models, sizes=SIZES, seed=0, classes=10):
    """Examples of one row by set, from Gaussian margins around a margin of each example."""
    random = np.random.default_rng([seed, *row.encode()])
    common = np.random.default_rng(seed)
    start, found = 0, {}
    for name, size in sizes.items():
        ids = np.arange(start, start + size, dtype=np.int32)
        start += size
        targets = np.full(size, 3) if name == "forget" else common.integers(0, classes, size)
        level = common.normal(4.0, 1.0, size)
        if name == "forget":
            level = level + shift_of(row, NAMES.index(row) if row in NAMES else 2)
        margins = (level + random.normal(0, 0.8, (models, size))).astype(np.float32)
        losses = np.log1p(np.exp(-margins)).astype(np.float32)
        wrong = (targets + 1 + random.integers(0, 3, (models, size))) % classes
        predictions = np.where(margins > 0, targets, wrong).astype(np.int32)
        found[name] = Examples(ids, targets.astype(np.int32), losses, margins, predictions)
    return found


def similarity_of(random, models):
    base = np.linspace(0.98, 0.7, len(LAYERS))
    noise = lambda: random.normal(0, 0.01, (models, len(LAYERS)))  # noqa: E731
    return Similarity(LAYERS, base + noise(), base - 0.05 + noise(), base - 0.08, base + 0.01)


def edits_of(random, models):
    shape = models, len(LAYERS)
    return Edits(
        LAYERS,
        np.array([160, 2_304, 4_096, 640]),
        random.uniform(0, 0.3, shape),
        random.uniform(0, 0.2, shape),
        random.uniform(-0.2, 0.7, shape),
    )


def arrays_of(rows, models=64, sizes=SIZES):
    """All arrays of a forget set."""
    random = np.random.default_rng(1)
    methods = [row for row in rows if row not in (RETRAIN, NOTHING, CONSTANT)]
    steps = np.arange(0, 60, 5)
    curve = lambda speed: 1 - np.exp(-steps * speed) + random.normal(0, 0.01, (8, 12))  # noqa: E731
    edges = np.linspace(-6, 6, 41)
    counts = np.floor(1e4 * np.exp(-(edges[1:] ** 2)))
    ids = np.arange(min(500, sum(sizes.values())), dtype=np.int32)
    images = random.integers(0, 255, (len(ids), 8, 8, 1)).astype(np.uint8)
    return Arrays(
        {row: examples_of(row, models * (2 if row == RETRAIN else 1), sizes) for row in rows},
        similarity={
            row: {one: similarity_of(random, models) for one in ("forget", "retain")}
            for row in methods
        },
        edits={row: edits_of(random, models) for row in methods},
        ratios={"ssd": Histogram(edges, counts, 2.0, "log10 of the ratio")},
        relearning={
            row: Curve(steps, curve(0.02 + 0.01 * k), "forget accuracy")
            for k, row in enumerate(rows[:6])
        },
        shown=Shown(ids, "image", images),
    )


def metrics_of(random, forget, models=64):
    """Metrics of one record as an evaluation of ensembles writes them."""
    oracle = Oracle(0.62, 0.55, 0.68)
    fraction = lambda value, oracle: Metric(  # noqa: E731
        value, n=models, low=value - 0.01, high=value + 0.01, oracle=oracle, unit="fraction"
    )
    klom = lambda value: Metric(  # noqa: E731
        value,
        n=models,
        null=0.9,
        low=value - 0.2,
        high=value + 0.3,
        direction="lower is better",
        unit="nats",
    )
    return {
        "KLoM forget p95": klom(3 + random.uniform(0, 4)),
        "KLoM retain p95": klom(1 + random.uniform(0, 2)),
        "KLoM test p95": klom(1 + random.uniform(0, 2)),
        "forget accuracy": fraction(forget, oracle),
        "retain accuracy": fraction(0.97 + random.uniform(-0.02, 0.02), Oracle(0.98, 0.97, 0.99)),
        "test accuracy": fraction(0.93 + random.uniform(-0.02, 0.02), Oracle(0.94, 0.92, 0.95)),
        "MIA": fraction(0.5 + random.uniform(0, 0.2), Oracle(0.51, 0.48, 0.55)),
    }


def records_of(rows, models=64, seeds=1, forget_set=CLASS_3):
    """A record for each row and seed; the constant row has collapsed."""
    random = np.random.default_rng(2)
    found = []
    for k, row in enumerate(rows):
        for seed in range(seeds):
            fields = {}
            if row == CONSTANT:
                fields = {"status": "collapsed", "reason": "constant predictions: class 0"}
            forget = 0.62 if row == RETRAIN else 0.99 - 0.05 * k
            found.append(
                Record(
                    row,
                    forget_set,
                    seed,
                    metrics_of(random, max(forget, 0.0), models),
                    hyperparameters={"alpha": 2.0, "epochs": 5} if row in NAMES else {},
                    selection="fixed default" if row in NAMES else "",
                    cost=Cost(
                        wall_s=10.0 if row == RETRAIN else 0.3 + 0.1 * k,
                        precompute_s=0.5,
                        device="cpu",
                    ),
                    config_hash="5f3c0d",
                    **fields,
                )
            )
    return tuple(found)


def rows_of(methods=12):
    """Names of the rows: retrained, untouched, constant, and so many methods."""
    names = [*NAMES, *(f"method {k}" for k in range(len(NAMES), methods))][:methods]
    return [RETRAIN, NOTHING, CONSTANT, *names]


def large_run(methods=12, models=64, sizes=SIZES):
    """The report that is promised to open fast: 12 methods, 64 models, 1,297 examples."""
    rows = rows_of(methods)
    arrays = arrays_of(rows, models, sizes)
    return Run(records_of(rows, models), {CLASS_3.kind: arrays}, "5f3c0d")


def small_run(**fields):
    """Two methods and few models: everything that a page has, drawn fast."""
    rows = [RETRAIN, NOTHING, "ssd", "finetune"]
    sizes = {"forget": 12, "retain": 20, "test": 16}
    values = {"records": records_of(rows, 4), "arrays": {"class 3": arrays_of(rows, 4, sizes)}}
    return Run(**{**values, "digest": "5f3c0d", **fields})


def not_a_number():
    return missing("the value was nan", unit="fraction")
