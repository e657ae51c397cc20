"""What is missing is said in a sentence; what is broken is left out and named."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import vl_convert
from plot_cases import (
    FEW,
    FORGET_SET,
    SHIFTS,
    arrays,
    make_arrays,
    make_records,
    make_sweep,
    records,
    rows_of,
)

from mu_jax import plots
from mu_jax.reporting import Arrays, Cost, Curve, ForgetSet, Histogram, Metric, Record, missing

NO_ORACLE = [
    dataclasses.replace(
        r, metrics={n: dataclasses.replace(m, oracle=None) for n, m in r.metrics.items()}
    )
    for r in records()
    if r.method != "retrain"
]


def without(row):
    kept = {name: part for name, part in arrays().examples.items() if name != row}
    return dataclasses.replace(arrays(), examples=kept)


def broken(row="ssd", models=slice(None), field="losses", value=np.nan):
    """Arrays in which some models of a row have numbers that are not finite."""
    parts = {}
    for name, part in arrays().examples[row].items():
        values = {key: np.array(getattr(part, key)) for key in ("losses", "margins")}
        for each in values.values():
            each[models, 0] = value
        parts[name] = part._replace(**values)
    return dataclasses.replace(arrays(), examples={**arrays().examples, row: parts})


def said(chart):
    title = chart.to_dict(validate=False)["title"]
    return " ".join(title.get("subtitle", []))


ONE = make_arrays(models=1, rows=FEW)
NOTHING = {
    "klom: no oracle": (lambda: plots.klom([], without("retrain")), "there are none"),
    "klom: one seed": (lambda: plots.klom([], ONE), "it needs 20 models of every row"),
    "klom: no margins": (
        lambda: plots.klom([], broken("retrain")),
        "margins that are missing or not finite",
    ),
    "membership: empty": (
        lambda: plots.membership(Arrays({})),
        "no row has losses on forget, test",
    ),
    "membership: NaN": (lambda: plots.membership(broken(), ["ssd"]), "20 of 20 models have NaN"),
    "losses: empty": (lambda: plots.losses(Arrays({})), "no row has losses"),
    "classes: no oracle": (lambda: plots.classes(without("retrain")), "no retrained models"),
    "classes: one row": (lambda: plots.classes(make_arrays(2, ("retrain",))), "no row but"),
    "confusion: no row": (lambda: plots.confusion(arrays(), "dmm"), "no arrays of 'dmm'"),
    "confusion: NaN": (lambda: plots.confusion(broken(), "ssd"), "20 of 20 models"),
    "similarity": (lambda: plots.similarity(arrays(), "dmm"), "none was measured for 'dmm'"),
    "edits": (lambda: plots.edits(arrays(), "dmm"), "which parameters 'dmm' changed"),
    "ratios": (lambda: plots.ratios(arrays(), "dmm"), "none was recorded for 'dmm'"),
    "ratios: empty": (
        lambda: plots.ratios(
            dataclasses.replace(
                arrays(), ratios={"ssd": Histogram(np.arange(3.0), np.zeros(2), 1.0, "r")}
            ),
            "ssd",
        ),
        "no counts",
    ),
    "relearning": (lambda: plots.relearning(Arrays({})), "no curve of it was recorded"),
    "relearning: NaN": (
        lambda: plots.relearning(
            Arrays({}, relearning={"ssd": Curve(np.arange(2), np.full((3, 2), np.nan), "a")})
        ),
        "3 of 3 curves",
    ),
    "run_time": (lambda: plots.run_time([Record("ssd", FORGET_SET, 0)]), "how long it took"),
    "tradeoff: empty": (lambda: plots.tradeoff([]), "no record has a number of"),
    "landscape": (lambda: plots.landscape(records()), "no method has several settings"),
    "landscape: no oracle": (
        lambda: plots.landscape(
            [dataclasses.replace(r, hyperparameters={"alpha": r.seed}) for r in NO_ORACLE]
        ),
        "a value or retrained models are missing",
    ),
    "drift: one request": (lambda: plots.drift(records()), "two requests or more"),
    "drift: no oracle": (
        lambda: plots.drift(
            [
                dataclasses.replace(
                    r, forget_set=ForgetSet("a sequence", 9, request=1 + r.seed), cost=Cost()
                )
                for r in NO_ORACLE
            ]
        ),
        "no metric has the value of retrained",
    ),
    "examples: no oracle": (
        lambda: plots.examples(without("retrain"), "ssd", "do nothing"),
        "no retrained models",
    ),
    "examples: no row": (lambda: plots.examples(arrays(), "ssd", "dmm"), "no row 'dmm'"),
    "examples: NaN": (
        lambda: plots.examples(broken(), "do nothing", "ssd"),
        "ssd has no finite margins",
    ),
    "examples: one oracle": (
        lambda: plots.examples(ONE, "do nothing", "ssd"),
        "needs two retrained models, found 1",
    ),
    "panels": (lambda: plots.panels([]), "at least one curve"),
}


@pytest.mark.parametrize("name", NOTHING)
def test_a_sentence_stands_where_nothing_can_be_drawn(name):
    draw, sentence = NOTHING[name]
    with pytest.raises(plots.NothingToDraw, match=r"\.$") as caught:
        draw()
    assert sentence in str(caught.value)


def test_no_oracle_is_said_and_no_band_is_drawn():
    chart = plots.tradeoff(NO_ORACLE)
    assert "No retrained models" in said(chart)
    assert not any("x0" in row and "row" not in row for row in rows_of(chart.to_dict()))
    for draw in (plots.membership, plots.losses):
        assert "No retrained models" in said(draw(without("retrain")))


def test_one_model_has_no_interval_and_says_so():
    rows = rows_of(plots.tradeoff(make_records(ONE)).to_dict(validate=False))
    assert {r["x_what"] for r in rows if "x_what" in r} == {"one of seeds, no interval"}
    rows = rows_of(plots.classes(ONE).to_dict(validate=False))
    assert all("exact 95 % interval over" in r["what"] for r in rows if "what" in r)


def test_some_models_that_are_not_finite_are_left_out_and_counted():
    chart = plots.membership(broken(models=slice(2)))
    assert "ssd: 2 of 20 models have NaN or infinite losses." in said(chart)
    assert any(row.get("row") == "ssd" for row in rows_of(chart.to_dict(validate=False)))
    chart = plots.klom([], broken(value=np.inf))
    assert "ssd: 20 of 20 models have NaN or infinite margins." in said(chart)
    json.dumps(chart.to_dict(validate=False), allow_nan=False)


def test_collapsed_failed_and_missing_rows_are_named_with_their_reason():
    changed = []
    for record in records():
        if record.method == "ssd":
            record = dataclasses.replace(record, status="collapsed", reason="constant predictions")
        if record.method == "gradient_ascent":
            absent = missing("7 of 20 models have outputs that are NaN", unit="fraction")
            record = dataclasses.replace(
                record, metrics={**record.metrics, "forget accuracy": absent}
            )
        changed.append(record)
    chart = plots.tradeoff(changed)
    assert "Not drawn: ssd (collapsed, constant predictions)." in said(chart)
    assert "gradient_ascent (7 of 20 models have outputs that are NaN)." in said(chart)
    drawn = {row["row"] for row in rows_of(chart.to_dict(validate=False)) if "row" in row}
    assert drawn == {"retrain", "do nothing"}


def test_a_class_without_examples_is_named_and_not_drawn():
    chart = plots.classes(arrays(), set="forget")
    assert "No examples in the forget set, so nothing is drawn: class 0, 1, 2, 4." in said(chart)
    rows = rows_of(chart.to_dict(validate=False))
    assert {row["class"] for row in rows if "class" in row} == {3}


def test_run_times_that_nobody_measured_are_named():
    some = [Record("ssd", FORGET_SET, 0, cost=Cost(wall_s=1.0)), Record("dmm", FORGET_SET, 0)]
    text = said(plots.run_time(some))
    assert "Not measured: dmm." in text and "Nobody measured retraining" in text


def test_a_sweep_says_what_collapsed_and_a_missing_floor():
    sweep = [r for r in make_sweep(arrays(), ("ssd",)) if r.method != "retrain"]
    text = said(plots.landscape(sweep))
    assert "ssd 1 of 12" in text and "The floor is not known" in text


def test_oracles_of_somebody_else_are_compared_with_and_are_no_method():
    theirs = {**arrays().examples, "oracles": arrays().examples["retrain"]}
    chart = plots.klom([], dataclasses.replace(arrays(), examples=theirs))
    assert "20 models of each row against 40 retrained ones" in said(chart)
    assert "oracles" not in {r.get("row") for r in rows_of(chart.to_dict(validate=False))}


@pytest.fixture(scope="module")
def forty():
    names = ["retrain", "do nothing", *(f"method {k}" for k in range(38))]
    shifts = {name: SHIFTS["ssd"] for name in names}
    return make_arrays(models=2, rows=names, shifts=shifts)


def test_forty_methods_are_all_drawn_and_told_apart(forty):
    drawn = {
        "membership": plots.membership(forty),
        "tradeoff": plots.tradeoff(make_records(forty, 2)),
        "run_time": plots.run_time(make_records(forty, 1)),
    }
    for name, chart in drawn.items():
        found = chart.to_dict(validate=False)
        rows = {row["row"] for row in rows_of(found) if "row" in row}
        assert len(rows) >= 39, name
        assert len(json.dumps(found)) < 400_000
    text = vl_convert.vegalite_to_svg(found | {"config": plots.theme()})
    assert all(f">method {k}<" in text for k in range(38))


def test_data_do_not_grow_with_models_and_examples():
    sizes = {"forget": 400, "retain": 900, "test": 500}
    big = make_arrays(models=21, rows=("retrain", "ssd"), sizes=sizes)
    small = make_arrays(models=20, rows=("retrain", "ssd"))
    for draw in (lambda a: plots.klom([], a), plots.membership, plots.losses, plots.classes):
        lengths = [len(json.dumps(draw(a).to_dict(validate=False))) for a in (big, small)]
        assert lengths[0] < 1.5 * lengths[1]


def test_metrics_of_other_tasks_are_drawn_too():
    metrics = {"forget squared error": Metric(3.0), "test squared error": Metric(2.0)}
    chart = plots.tradeoff([Record("blindspot", FORGET_SET, 0, metrics=metrics)])
    assert '"test squared error", "(closer' in json.dumps(chart.to_dict())
