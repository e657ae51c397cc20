"""Six ways in which results are lacking, and what each figure says of each: words, never a zero."""

from __future__ import annotations

import json
import math

import pytest
import vl_convert
from edge_cases import BROKEN, CASES, DRAWN, EMPTY, MANY, case
from plot_cases import rows_of

from mu_jax import plots
from mu_jax.plots.tradeoff import retrained_band
from mu_jax.reporting import ForgetSet, Metric, Oracle, Record

ONE = "One model of each row: nothing says how far another one would lie."
FALLEN = f"{BROKEN}: 20 of 20 models have collapsed to one class on all retained examples."
LOST = f"{BROKEN}: 20 of 20 models have NaN or infinite"
# What is said where a case concerns a figure; a figure with "" is drawn as without the case.
SAYS = {
    "one seed": {
        "tradeoff": "One seed of each row: nothing says how far another one would lie.",
        "klom": "it needs 20 models of every row and twice as many retrained ones, found 1 and 1",
        "membership": "exact 95 % intervals",  # over examples: they need one model alone
        "losses": ONE,
        "classes": "the only retrained model: its range is not known",
        "confusion": ONE,
        "similarity": ONE,
        "edits": ONE,
        "ratios": "",
        "relearning": "One run of each row",
        "run_time": "One run of each row",
        "landscape": "Dashed: the floor",  # over the retrained models that its metrics name
        "examples": "a spread needs two retrained models, found 1",
    },
    "no oracle": {
        "tradeoff": "No retrained models: nothing says where a point should lie.",
        "klom": "compares with retrained models, and there are none",
        "membership": "No retrained models: nothing says what to reach.",
        "losses": "No retrained models: nothing says where the bars should be.",
        "classes": "there are no retrained models to compare with",
        "confusion": "No retrained models to compare with.",
        "similarity": "No band: fewer than two retrained models",
        "edits": "No retrained model to say whether the way is the right one.",
        "ratios": "",
        "relearning": "No curve of retrained models: nothing says what is fast.",
        "run_time": "Nobody measured retraining: the axis has seconds.",
        "landscape": "a value or retrained models are missing",
        "drift": "no metric has the value of retrained models",
        "examples": "there are no retrained models",
    },
    "NaN": {
        "tradeoff": f"Not drawn: {BROKEN} (the value was nan).",
        "klom": LOST,
        "membership": LOST,
        "losses": LOST,
        "classes": LOST,
        "confusion": LOST,
        "similarity": f"No similarity of layers of '{BROKEN}': no value is finite.",
        "edits": f"No edits of '{BROKEN}': no number is finite.",
        "ratios": "no counts, or numbers that are not finite",
        "relearning": f"{BROKEN}: 20 of 20 curves have NaN or infinity.",
        "run_time": "",
        "landscape": "a value or retrained models are missing",
        "drift": f"Left out, failed or without a value: 6 of {BROKEN}.",
        "examples": f"{BROKEN} has no finite margins on the forget set",
    },
    "collapsed": {
        "tradeoff": f"Not drawn: {BROKEN} (collapsed, constant predictions: class 0).",
        **dict.fromkeys(("klom", "membership", "losses", "classes", "confusion"), FALLEN),
        **dict.fromkeys(("similarity", "edits", "ratios", "relearning", "examples"), FALLEN),
        "run_time": f"Collapsed, so that their time bought nothing: {BROKEN}.",
        "landscape": "no setting has an average gap: collapsed: constant predictions",
        "drift": f"Crosses, collapsed: {BROKEN} at 2 of 2 requests, first at 1.",
    },
    "40 methods": {},
    "empty class": {"classes": f"No examples in the test set, so nothing is drawn: class {EMPTY}."},
}
OF_ALL = ("tradeoff", "klom", "membership", "losses", "classes", "relearning", "run_time", "drift")


def drawn(name, which):
    """The specification of a figure, or the sentence in its place."""
    try:
        return DRAWN[name](case(which)).to_dict(validate=False), ""
    except plots.NothingToDraw as error:
        return None, str(error)


@pytest.mark.quick(*(f"*-{which}" for which in CASES if which != "40 methods"), "run_time-*")
@pytest.mark.parametrize("which", CASES)
@pytest.mark.parametrize("name", DRAWN)
def test_a_sentence_stands_in_the_place_of_what_is_lacking(name, which):
    spec, sentence = drawn(name, which)
    if spec is not None:
        sentence = " ".join(spec["title"].get("subtitle", []))
        assert sentence in spec["description"] or not sentence
        json.dumps(spec, allow_nan=False)
        numbers = [v for row in rows_of(spec) for v in row.values() if isinstance(v, float)]
        assert numbers and all(map(math.isfinite, numbers))
    else:
        assert sentence.endswith(".")
    wanted = SAYS[which].get(name, "")
    assert wanted in sentence
    if not wanted:
        assert spec is not None, sentence


@pytest.mark.parametrize("name", DRAWN)
def test_a_row_without_numbers_has_no_mark(name):
    spec, _ = drawn(name, "NaN")
    if spec is None or name in ("run_time", "landscape"):
        return
    own = [row for row in rows_of(spec) if row.get("row") == BROKEN]
    assert all(row["what"] == "mean of the models" for row in own)  # run times of drift


@pytest.mark.quick("run_time", "tradeoff")
@pytest.mark.parametrize("name", OF_ALL)
def test_forty_methods_are_all_there(name):
    spec, _ = drawn(name, "40 methods")
    names = {row.get("row") for row in rows_of(spec)} | {
        panel.get("title", {}).get("text", "") if isinstance(panel.get("title"), dict) else ""
        for panel in spec.get("concat", [])
    }
    assert set(MANY) <= names
    text = vl_convert.vegalite_to_svg(spec | {"config": plots.theme()})
    assert all(method in text for method in MANY)


def test_no_class_without_examples_has_a_bar():
    spec, _ = drawn("classes", "empty class")
    assert {row["class"] for row in rows_of(spec) if "class" in row} == {0, 1, 2, 3}


def test_the_band_of_paired_seeds_spans_the_oracles_of_all_of_them():
    def record(method, seed, value, oracle):
        metric = Metric(value, unit="fraction", oracle=Oracle(oracle, oracle, oracle))
        return Record(method, ForgetSet("class 3", 5), seed, {"test accuracy": metric})

    oracles = (0.90, 0.92, 0.97)
    records = [record(m, k, 0.5, o) for m in ("ssd", "iau") for k, o in enumerate(oracles)]
    assert retrained_band(records, "test accuracy") == pytest.approx((0.93, 0.90, 0.97))
    others = [record("retrain", 0, 0.1, 0.2)]  # of the retrained row only where no other has any
    assert retrained_band([*others, *records], "test accuracy")[0] == pytest.approx(0.93)
    assert retrained_band(others, "test accuracy") == pytest.approx((0.2, 0.2, 0.2))


def test_every_public_figure_has_its_row_in_the_table():
    figures = {
        name
        for name in plots.__all__
        if name.islower() and "ChartType" in str(getattr(plots, name).__annotations__.get("return"))
    }
    assert figures - {"panels"} == set(DRAWN)  # of curves that are given, complete or refused
    for which in ("one seed", "no oracle", "NaN", "collapsed"):
        assert set(SAYS[which]) | {"drift"} == set(DRAWN)
