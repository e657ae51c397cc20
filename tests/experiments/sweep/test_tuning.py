"""Choosing settings: by the gap that the tables print, never a collapsed or incomplete one."""

from __future__ import annotations

import pytest

from experiments.sweep import tuning
from mu_jax import reporting
from mu_jax.reporting import ForgetSet, Metric, Oracle, Record, missing

SETS = (ForgetSet("class:3", 9), ForgetSet("random:5", 5))


def record(alpha, accuracy, forget_set=SETS[0], *, seed=0, mia=0.5, method="ssd", **fields):
    metrics = {
        "KLoM forget p95": Metric(3.0, direction="lower is better", unit="nats"),
        "TPR": Metric(0.2, direction="lower is better", unit="fraction"),
        "test accuracy": Metric(accuracy, unit="fraction", oracle=Oracle(0.9)),
        "MIA": mia if isinstance(mia, Metric) else Metric(mia, unit="fraction", oracle=Oracle(0.5)),
    }
    return Record(
        method, forget_set, seed, metrics=metrics, hyperparameters={"alpha": alpha}, **fields
    )


def test_the_gap_is_the_one_of_the_table():
    values = {"test accuracy": Metric(0.9, unit="fraction"), "MIA": Metric(0.5, unit="fraction")}
    retrain = Record("retrain", SETS[0], 0, metrics=values)
    found = record(1, 0.84, mia=0.53)
    assert reporting.gap_to_oracles(found) == pytest.approx(4.5)
    (table,) = reporting.summarize([retrain, found])
    column = [column.name for column in table.columns].index("average gap")
    row = next(row for row in table.rows if row.label == "ssd")
    assert row.cells[column].mean == pytest.approx(reporting.gap_to_oracles(found))


def test_without_a_value_or_an_oracle_there_is_no_gap():
    assert reporting.gap_to_oracles(record(1, 0.9, mia=missing("too few", unit="fraction"))) is None
    assert reporting.gap_to_oracles(record(1, 0.9, mia=Metric(0.5, unit="fraction"))) is None
    assert reporting.gap_to_oracles(record(1, 0.9, status="failed", reason="no memory")) is None


def test_a_gap_over_squared_errors_is_relative_to_the_retrained_models():
    def run(method, value, **oracle):
        metrics = {"forget squared error": Metric(value, **oracle)}
        return Record(method, ForgetSet("class 3", 9), 0, metrics)

    own = run("ssd", 30.0, oracle=Oracle(40.0))
    names = ["forget squared error"]
    assert reporting.gap_to_oracles(own, names) == pytest.approx(25.0)
    (table,) = reporting.summarize([own, run("retrain", 40.0)], gap_metrics=names)
    cells = {row.label: row.cells for row in table.rows}
    column = [column.name for column in table.columns].index("average gap")
    assert cells["ssd"][column].mean == pytest.approx(25.0)


def test_the_smallest_mean_gap_over_forget_sets_and_seeds_comes_first():
    records = [
        record(alpha, 0.9 - gap, forget_set, seed=seed)
        for alpha, gaps in ((1, (0.1, 0.1)), (2, (0.0, 0.16)), (3, (0.3, 0.0)))
        for forget_set, gap in zip(SETS, gaps)
        for seed in (0, 1)
    ]
    ranked = tuning.rank(records)["ssd"]
    assert [setting.hyperparameters["alpha"] for setting in ranked] == [2, 1, 3]
    assert ranked[0].gaps == {"class:3": 0.0, "random:5": pytest.approx(8.0)}
    assert ranked[0].gap == pytest.approx(4.0)


def test_a_collapsed_or_incomplete_setting_never_wins():
    broken = {"status": "collapsed", "reason": "constant predictions"}
    records = [
        *(record(1, 0.8, forget_set) for forget_set in SETS),
        record(2, 0.9, SETS[0]),
        record(2, 0.9, SETS[1], **broken),
        record(3, 0.9, SETS[0]),
        *(record(4, 0.9, forget_set, mia=missing("few", unit="fraction")) for forget_set in SETS),
        *(record(5, 0.9, forget_set, method="iau", **broken) for forget_set in SETS),
        *(record(6, 0.9, forget_set, method="retrain") for forget_set in SETS),
    ]
    ranked = tuning.rank(records)
    assert [setting.hyperparameters["alpha"] for setting in ranked["ssd"]] == [1]
    assert ranked["iau"] == [] and "retrain" not in ranked
    text = tuning.describe(ranked)
    assert "iau: none, every setting collapsed or lacks a value" in text


def test_the_description_has_the_best_of_every_forget_set_and_the_chosen():
    records = [
        record(alpha, 0.9 - gap, forget_set)
        for alpha, gaps in ((1, (0.02, 0.02)), (2, (0.0, 0.1)))
        for forget_set, gap in zip(SETS, gaps)
    ]
    lines = tuning.describe(tuning.rank(records)).splitlines()
    assert lines[1:] == [
        "  ssd on class:3: 0.00 with alpha=2",
        "  ssd on random:5: 1.00 with alpha=1",
        "  ssd, chosen: 1.00 with alpha=1",
    ]


def tried_and_floors(floors):
    """Settings tried on two forget sets, and retrained models beside others, by their gaps."""
    gaps = ((1, (0.02, 0.02)), (2, (0.01, 0.0)), (3, (0.0, 0.02)), (4, (0.03, 0.1)))
    records = [
        record(alpha, 0.9 - gap, forget_set)
        for alpha, by_set in gaps
        for forget_set, gap in zip(SETS, by_set)
    ]
    return records + [
        record(0, 0.9 - floor, forget_set, method="retrain")
        for forget_set, floor in zip(SETS, floors)
    ]


def test_settings_below_the_floor_are_equal_and_stand_as_they_were_tried():
    # Mean gaps in points are 1, 0.25, 0.5 and 3.25; without a floor the second comes first.
    order = [s.hyperparameters["alpha"] for s in tuning.rank(tried_and_floors((0, 0)))["ssd"]]
    assert order == [2, 3, 1, 4]
    ranked = tuning.rank(tried_and_floors((0.02, 0.03)))  # floors of 1 and 1.5, mean 1.25
    assert [setting.hyperparameters["alpha"] for setting in ranked["ssd"]] == [1, 2, 3, 4]
    assert ranked["ssd"][0].floor == pytest.approx(1.25)
    found = "1.00 with alpha=1, the first tried of 3 below the floor, which are equal"
    assert tuning.describe(ranked).splitlines() == [
        "Best settings by average gap to retrained models, in points (lower is better)",
        "  floor, the gap between retrained models: class:3 1.00, random:5 1.50",
        f"  ssd on class:3: {found}",
        f"  ssd on random:5: {found}",
        f"  ssd, chosen: {found}",
    ]


def test_a_floor_that_is_not_known_is_said_and_a_single_setting_below_one_is_named():
    known = [r for r in tried_and_floors((0.02, 0.001)) if r.method == "ssd" or r.seed == 0]
    half = [r for r in known if r.method == "ssd" or r.forget_set == SETS[0]]
    lines = tuning.describe(tuning.rank(half)).splitlines()
    assert lines[0].endswith("the gap between retrained models is not known everywhere")
    lines = tuning.describe(tuning.rank(known)).splitlines()
    assert lines[3] == "  ssd on random:5: 0.00 with alpha=2, below the floor"
