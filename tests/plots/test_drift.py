"""The drift over sequential requests: numbers, intervals, what collapsed, KLoM and cost."""

from __future__ import annotations

import dataclasses

import pytest
from plot_cases import arrays, make_requests, rows_of

from mu_jax import plots
from mu_jax.reporting import Cost, ForgetSet, Metric, Oracle, Record


def said(chart):
    return " ".join(chart.to_dict(validate=False)["title"]["subtitle"])


def in_sequence(records):
    """The same records with the numbers 10, 20, ... of their requests."""
    return [
        dataclasses.replace(
            r, forget_set=dataclasses.replace(r.forget_set, request=r.forget_set.size)
        )
        for r in records
    ]


def test_numbers_of_requests_are_those_of_the_forget_sets():
    changed = in_sequence(make_requests(arrays(), 2))
    rows = rows_of(plots.drift(changed).to_dict(validate=False))
    assert {row["request"] for row in rows if "request" in row} == {10, 20}


def test_drift_marks_what_collapsed_and_counts_what_has_no_value():
    broken = {"status": "collapsed", "reason": "constant predictions"}
    changed = [
        dataclasses.replace(r, **broken) if r.method == "ssd" and r.forget_set.size > 20 else r
        for r in make_requests(arrays(), 4)
    ]
    failed = dataclasses.replace(changed[0], method="scrub", status="failed", reason="no memory")
    chart = plots.drift([*changed, failed])
    rows = [r for r in rows_of(chart.to_dict(validate=False)) if r.get("row") == "ssd"]
    states = {(row["request"], row["state"]) for row in rows if row["y"] < 0}
    assert states == {(1, "ok"), (2, "ok"), (3, "collapsed"), (4, "collapsed")}
    assert "collapsed: ssd at 2 of 4 requests, first at 3" in said(chart)
    assert "Left out, failed or without a value: 1 of scrub." in said(chart)


def test_intervals_of_many_requests_are_bands_and_those_of_the_records():
    metric = Metric(
        0.9, n=32, low=0.85, high=0.92, unit="fraction", oracle=Oracle(0.95, 0.94, 0.97)
    )
    sequence = [
        Record("scrub", ForgetSet("a sequence", k, request=k), 0, {"test accuracy": metric})
        for k in range(1, 15)
    ]
    found = plots.drift(sequence).to_dict(validate=False)
    row = next(r for r in rows_of(found) if r.get("row") == "scrub")
    assert (row["y"], row["low"], row["high"]) == pytest.approx((-5, -10, -3))
    assert row["what"] == "95 % interval over 32 models"
    marks = [one["mark"]["type"] for one in found["concat"][0]["layer"]]
    assert marks.count("area") == 2 and "rule" in marks
    few = plots.drift(sequence[:3]).to_dict(validate=False)
    assert [one["mark"]["type"] for one in few["concat"][0]["layer"]].count("area") == 1


def test_klom_drifts_from_its_floor_and_a_cost_from_that_of_retraining():
    klom = {"unit": "nats", "direction": "lower is better"}
    sequence = [
        Record(
            method,
            ForgetSet("a sequence", k, request=k),
            0,
            {"KLoM forget p95": Metric(value, n=32, null=2.0 + k, **klom)},
            cost=Cost(wall_s=seconds),
        )
        for k in (1, 2)
        for method, value, seconds in (("retrain", 2.0 + k, 4.0), ("scrub", 7.5, 1.0))
    ]
    rows = rows_of(plots.drift(sequence).to_dict(validate=False))
    own = [(r["request"], r["y"]) for r in rows if r.get("row") == "scrub"]
    assert own == [(1, 4.5), (2, 3.5), (1, 25.0), (2, 25.0)]
