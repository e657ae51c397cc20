"""The first screen of the page: who came closest to retraining, and rows of several runs."""

from __future__ import annotations

import dataclasses

import pytest
from page_cases import CLASS_3, arrays_of, not_a_number, records_of, rows_of, small_run
from page_parsing import Page

from mu_jax import page, plots
from mu_jax.page.gathering import gather, joined
from mu_jax.reporting import Cost, Metric, Oracle, Record, Run
from mu_jax.scoring.rows import NOTHING, RETRAIN


def record(method, seed=0, value=0.9, oracle=0.9, **fields):
    metric = Metric(value, unit="fraction", oracle=Oracle(oracle, oracle, oracle))
    return Record(method, CLASS_3, seed, {"retain accuracy": metric}, **fields)


def klom(method, value, **fields):
    metric = Metric(
        value, n=32, low=value - 1, high=value + 1, null=1.0, direction="lower is better"
    )
    return Record(method, CLASS_3, 0, {"KLoM forget p95": metric}, **fields)


def short(*runs):
    found = Page(page.render([Run(tuple(run)) for run in runs]))
    return [each.text for each in found.inside("short", "p")]


SEEDS = [record(RETRAIN, seed, value=0.90 + 0.01 * seed) for seed in range(3)]
OTHERS = [
    record(name, seed, value)
    for name, value in ((NOTHING, 0.5), ("ssd", 0.7), ("iau", 0.6))
    for seed in range(3)
]


def test_the_page_begins_with_who_is_closest_and_what_the_others_have():
    first = short([*SEEDS, *OTHERS])[0]
    # Retrained models: 0.90, 0.91, 0.92, each against the other two: 1.5, 1 and 1.5 points.
    assert first == (
        "Closest to retraining: ssd, with an average gap of 21.00 points; retrained models among "
        "themselves have 1.33; doing nothing has 41.00."
    )


def test_rows_below_the_floor_are_named_together():
    equal = [record(name, seed, 0.905) for name in ("dmm", "scrub") for seed in range(3)]
    first = short([*SEEDS, *OTHERS, *equal])[0]
    assert first.startswith("dmm, scrub are as close to retraining as retrained models are")
    assert "1.33 between retrained models; doing nothing has 41.00" in first


def test_where_nobody_can_be_best_a_sentence_says_why():
    alone = [record("ssd", oracle=None)]
    assert short(alone)[0].endswith("there are no retrained models to compare with.")
    assert short(SEEDS)[0].endswith("there is no row of a method.")
    fallen = [record("ssd", status="collapsed", reason="constant predictions: class 0")]
    found = short([*SEEDS, *fallen])
    assert found[0].endswith("every method has collapsed.") and "Collapsed: ssd." in found
    broken = Record("ssd", CLASS_3, 0, {"retain accuracy": not_a_number()})
    assert "lacks a value" in short([*SEEDS, broken])[0]


def test_one_seed_is_said():
    found = short([record(RETRAIN), record(NOTHING, value=0.5), record("ssd", value=0.7)])
    assert "what retrained models have among themselves is not known" in found[0]
    assert found[1] == "One record a row: another seed may order the methods otherwise."


def test_the_least_klom_is_named_beside_the_floor():
    rows = [klom(RETRAIN, 1.2), klom(NOTHING, 9.3), klom("ssd", 5.9), klom("dmm", 3.8)]
    collapsed = klom("iau", 1.1, status="collapsed", reason="constant predictions: class 0")
    found = short([*SEEDS, *OTHERS], [*rows, collapsed])
    assert (
        "Lowest KLoM on the forget set: dmm, 3.8 nats; retrained models have 1.2; doing nothing "
        "has 9.3." in found
    )


def test_it_stands_before_the_tables_and_where_numbers_come_from_after_them():
    found = Page(page.render([small_run()]))
    names = [e.attributes.get("id") for e in found.elements if e.tag == "section"]
    assert names[:2] == ["short", "set0"] and names[-1] == "provenance"
    heads = [h.text for h in found.inside("set0-verdict", "th") if h.attributes["scope"] == "col"]
    assert heads[2].startswith("average gap")


@pytest.mark.slow
def test_forty_methods_on_many_forget_sets_leave_the_first_screen_short():
    sets = [dataclasses.replace(CLASS_3, kind=f"class {k}") for k in range(11)]
    records = [r for one in sets for r in records_of(rows_of(40), 4, forget_set=one)]
    found = Page(page.render([Run(tuple(records))]))
    assert len(found.inside("short", "h3")) == 8
    assert "3 more forget sets" in found.by_id("short").text


def test_another_run_of_the_same_methods_adds_to_their_rows():
    seeds = [*SEEDS, *OTHERS]
    tuned = [dataclasses.replace(r, selection="tuned") if r.method == "ssd" else r for r in seeds]
    ensembles = [klom(RETRAIN, 1.2), klom("ssd", 5.9), klom("dmm", 3.8)]
    rows, beside = joined([tuned, ensembles])
    assert beside == ("KLoM forget p95",)
    assert len(rows) == len(seeds) + 1  # "dmm" is in no row of the first run
    (first, *later) = [r for r in rows if r.method == "ssd"]
    assert set(first.metrics) == {"retain accuracy", "KLoM forget p95"}
    assert [set(r.metrics) for r in later] == [{"retain accuracy"}] * 2
    found = Page(page.render([Run(tuple(tuned)), Run(tuple(ensembles))]))
    labels = [e for e in found.inside("set0-verdict", "th") if e.attributes["scope"] == "row"]
    assert len(labels) == 5
    (row,) = [e.parents[-1] for e in labels if e.texts[0].strip() == "ssd"]
    cells = [e.text for e in found.all("td") if e.parents[-1] is row]
    assert cells[0] == "3" and "5.900 [4.900, 6.900] floor 1.000" in cells
    assert not any("seeds" in cell for cell in cells if cell.startswith("5.9"))
    assert len(found.unpacked_text("set0-lines").splitlines()) == len(seeds) + len(ensembles)


def test_a_run_that_measured_the_same_again_counts_in_place_of_the_first():
    again = [record("ssd", 1, 0.8)]
    rows, beside = joined([[*SEEDS, *OTHERS], again])
    assert beside == () and rows == (*SEEDS, *OTHERS, *again)
    other = [record("ssd", hyperparameters={"alpha": 2.0})]
    assert joined([OTHERS, other]) == ((*OTHERS, *other), ())
    tuned = [klom("ssd", 2.0, selection="a"), record("ssd", selection="b")]
    assert joined([tuned[:1], tuned[1:]]) == (tuple(tuned), ())


def test_a_row_that_has_collapsed_in_one_of_its_runs_has_collapsed():
    fallen = klom("ssd", 5.0, status="collapsed", reason="20 of 32 models")
    rows, _ = joined([[*SEEDS, *OTHERS], [fallen]])
    (first, *_) = [r for r in rows if r.method == "ssd"]
    assert (first.status, first.reason) == ("collapsed", "20 of 32 models")


def test_figures_have_the_rows_that_were_put_together():
    arrays = {CLASS_3.kind: arrays_of([RETRAIN, NOTHING, "ssd"], 4, {"forget": 6, "test": 8})}
    timed = [dataclasses.replace(r, cost=Cost(wall_s=1.0)) for r in [*SEEDS, *OTHERS]]
    runs = [Run(tuple(timed)), Run((klom(RETRAIN, 1.0), klom("ssd", 5.0)), arrays)]
    (part,) = gather(runs)
    chart = plots.run_time(part.rows).to_dict()
    assert "Not measured" not in str(chart["title"])
    assert len(part.records) == len(timed) + 2 and len(part.rows) == len(timed)


def test_the_longest_settings_are_a_click_away():
    many = {f"parameter_{k}": k for k in range(20)}
    found = Page(page.render([Run((*SEEDS, record("ssd", hyperparameters=many)))]))
    (details,) = found.inside("set0-verdict", "details", "settings")
    assert "parameter_19 = 19" in details.text
