"""The one table of a data set, from the records of a benchmark."""

from __future__ import annotations

import pytest

from experiments.lib.overview import overview
from mu_jax.reporting import Cost, ForgetSet, Metric, Oracle, Record, missing, render

KINDS = ("random", "class")


def made(method, kind, klom, accuracy, wall_s=None, oracle=0.9, **fields):
    metrics = {
        "KLoM forget p95": Metric(
            klom, n=32, low=klom - 0.5, high=klom + 0.5, direction="lower is better", unit="nats"
        ),
        "test accuracy": Metric(accuracy, n=32, unit="fraction", oracle=Oracle(oracle)),
    }
    return Record(method, ForgetSet(kind, 9), 0, metrics, cost=Cost(wall_s=wall_s), **fields)


def study():
    broken = {"status": "collapsed", "reason": "constant predictions"}
    return [
        *(made("retrain", kind, 2.0, 0.9, 4.0, oracle=0.905) for kind in KINDS),
        *(made("do nothing", kind, 9.0, 0.98, 0.0) for kind in KINDS),
        *(made("constant", kind, 9.0, 0.1) for kind in KINDS),
        made("far", "random", 5.0, 0.95, 1.0),
        made("far", "class", 6.0, 0.93, 3.0),
        made("near", "random", 3.0, 0.898, 2.0),
        made("near", "class", 4.0, 0.89, 2.0),
        made("broken", "random", 5.0, 0.1, 2.0, **broken),
        made("broken", "class", 5.0, 0.9, 2.0),
        made("floor", "random", 2.5, 0.901, 2.0),
        made("floor", "class", 2.5, 0.899, 2.0),
        made("elsewhere", "random", 2.5, 0.9),
    ]


def cells(table, label):
    (row,) = (row for row in table.rows if row.label == label)
    return [None if cell.mean is None else round(cell.mean, 4) for cell in row.cells], row


def test_methods_down_and_forget_sets_across_in_the_order_of_the_mean_gap():
    table = overview(study(), "digits")
    assert [column.name for column in table.columns] == [
        *("KLoM, random", "KLoM, class", "gap, random", "gap, class", "run time")
    ]
    labels = [row.label for row in table.rows]
    assert labels[:5] == ["retrain", "do nothing", "floor", "near", "far"]
    assert set(labels[5:]) == {"broken", "elsewhere"}
    assert cells(table, "retrain")[0] == [2.0, 2.0, 0.5, 0.5, 1.0]
    values, row = cells(table, "far")
    assert values == [5.0, 6.0, 5.0, 3.0, 0.5]
    assert (row.cells[0].low, row.cells[0].high) == (4.5, 5.5)
    assert cells(table, "broken")[0][2:] == [None, 0.0, 0.5] and cells(table, "broken")[1].collapsed
    assert cells(table, "elsewhere")[0] == [2.5, None, 0.0, None, None]


def test_the_page_says_how_to_read_it():
    text = render([overview(study(), "digits, 9 examples")], markdown=True)
    assert "**digits, 9 examples**" in text
    assert "| near | 1 | 3.00 [2.50, 3.50] | 4.00 [3.50, 4.50] | 0.20 | 1.00 | 50.0 |" in text
    assert "of 32 models, and so is each of 2 sets of oracles" in text
    assert "- broken on random: collapsed (constant predictions)." in text
    assert "run time (% of retraining, lower is better)" in text and "Run time is" in text


def test_what_has_no_interval_and_no_value_is_said():
    records = study()
    without = Metric(3.0, n=32, direction="lower is better", no_interval="too few models")
    records.append(Record("few", ForgetSet("random", 9), 0, {"KLoM forget p95": without}))
    gone = missing("outputs are NaN", direction="lower is better", unit="nats")
    records.append(Record("gone", ForgetSet("random", 9), 0, {"KLoM forget p95": gone}))
    text = render([overview(records, "digits")], markdown=True)
    assert "| few | 1 | 3.00 [-] | - | - | - | - |" in text
    assert "| gone | 1 | - | - | - | - | - |" in text


def test_without_times_there_is_no_share():
    records = [made(method, kind, 2.0, 0.9) for method in ("retrain", "ssd") for kind in KINDS]
    table = overview(records, "digits")
    assert cells(table, "ssd")[0][-1] is None
    assert not any("Run time" in note for note in table.notes)
    assert cells(table, "ssd")[0][:2] == [pytest.approx(2.0)] * 2
