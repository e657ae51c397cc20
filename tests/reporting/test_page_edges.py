"""Six ways in which results are lacking, in every section of the page: a chart or a sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from page_parsing import Page

sys.path.append(str(Path(__file__).parents[1] / "plots"))  # the same cases as of the figures
from edge_cases import BROKEN, CASES, MANY, case

from mu_jax import page
from mu_jax.reporting import Run

FIGURES = (
    *("tradeoff", "klom", "membership", "losses", "classes_test", "classes_train", "relearning"),
    *("confusion", "similarity", "edits", "ratios", "run_time", "landscape"),
)
# What the page says in place of a chart, by section; the others are drawn.
NOTHING = {
    "one seed": {"klom": "it needs 20 models of every row"},
    "no oracle": {
        "klom": "compares with retrained models, and there are none",
        "classes_test": "there are no retrained models to compare with",
        "classes_train": "there are no retrained models to compare with",
    },
    "NaN": {"ratios": "no counts, or numbers that are not finite"},
}
ALWAYS = {"landscape": "no method has several settings"}  # the settings of a sweep are elsewhere
SHORT = {
    "one seed": "another seed may order the methods otherwise",
    "no oracle": "there are no retrained models to compare with",
    "NaN": "Closest to retraining",
    "collapsed": f"Collapsed: {BROKEN}.",
    "40 methods": "Closest to retraining",
    "empty class": "Closest to retraining",
}


MANY_AND_LONG = pytest.param("40 methods", marks=pytest.mark.slow)
EACH = [MANY_AND_LONG if name == "40 methods" else name for name in CASES]


@pytest.fixture(scope="module", params=EACH)
def found(request):
    lacking = case(request.param)
    run = Run(tuple(lacking.records), {lacking.records[0].forget_set.kind: lacking.arrays})
    return request.param, Page(page.render([run]))


def test_every_section_has_a_chart_or_a_sentence(found):
    name, seen = found
    sections = [e.attributes["id"] for e in seen.all("section", "block")]
    figures = [one.removeprefix("set0-") for one in sections]
    assert set(FIGURES) | {"verdict", "examples", "records"} == set(figures)
    for figure in FIGURES:
        said = [e.text for e in seen.inside(f"set0-{figure}", "p", "nothing")]
        charts = seen.inside(f"set0-{figure}", "figure")
        assert bool(said) != bool(charts), figure
        wanted = {**ALWAYS, **NOTHING.get(name, {})}.get(figure)
        assert bool(wanted) == bool(said), (figure, said)
        assert all(wanted in text and text.endswith(".") for text in said[:1])


@pytest.mark.parametrize("found", ["NaN"], indirect=True)
def test_a_model_without_a_chart_among_others_is_named(found):
    _, seen = found
    for figure in ("confusion", "similarity", "edits"):
        (said,) = seen.inside(f"set0-{figure}", "p", "left-out")
        assert BROKEN in said.text and any(word in said.text for word in ("finite", "infinite"))
        options = [e.text for e in seen.inside(f"set0-{figure}", "option")]
        assert options and BROKEN not in options


def test_no_cell_is_blank_and_what_is_missing_says_why(found):
    name, seen = found
    cells = seen.inside("set0-verdict", "td") + seen.inside("set0-records", "td")
    assert cells and all(cell.text for cell in cells)
    assert not any(word in cell.text for cell in cells for word in ("None", "inf", "NaN"))
    for cell in seen.inside("set0-verdict", "span", "missing"):
        assert len(cell.text) > len("missing: ")
    if name == "NaN":
        assert [c.text for c in cells].count("missing: the value was nan") >= 3


def test_the_first_screen_has_a_sentence(found):
    name, seen = found
    sentences = [each.text for each in seen.inside("short", "p")]
    assert any(SHORT[name] in each for each in sentences)
    assert all(each.endswith(".") for each in sentences)


def test_single_examples_are_there_or_a_sentence(found):
    name, seen = found
    data = seen.unpacked("set0-examples-data")
    rows = data["sets"]["forget"]["rows"]
    text = seen.by_id("set0-examples").text
    if name in ("one seed", "no oracle"):
        assert "nobody can tell which examples are forgotten" in text
        assert not any("stands" in row for row in rows.values())
    elif name == "NaN":
        assert set(rows[BROKEN]["mean"]) == {None} and rows[BROKEN]["readable"] == 0
    else:
        assert all(set(row["stands"]) <= {-1, 0, 1} for row in rows.values())
    assert name != "40 methods" or set(MANY) <= set(rows)


@pytest.mark.parametrize("name", EACH)
def test_drift_over_two_requests_is_drawn_or_a_sentence(name):
    records = case(name).requests
    runs = [
        Run(tuple(record for record in records if record.forget_set.request == number))
        for number in (1, 2)
    ]
    seen = Page(page.render(runs))
    said = [e.text for e in seen.inside("set0-drift", "p", "nothing")]
    assert bool(said) != bool(seen.inside("set0-drift", "figure"))
    assert bool(said) == (name == "no oracle")
    for cell in seen.all("td"):
        assert cell.text
