"""The page as text: its parts, its numbers, and a sentence wherever something is missing."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from configparser import ConfigParser
from pathlib import Path

import numpy as np
import pytest
from page_cases import (
    CLASS_3,
    arrays_of,
    examples_of,
    not_a_number,
    records_of,
    rows_of,
    small_run,
)
from page_parsing import Page

import mu_jax as mu
from mu_jax import page, reporting
from mu_jax.reporting import Arrays, Cost, ForgetSet, Metric, Record, Run
from mu_jax.scoring.rows import NOTHING, RETRAIN

SMALL = {"forget": 12, "retain": 20, "test": 16}


def parsed(*runs, **options):
    return Page(page.render(runs, **options))


@pytest.fixture(scope="module")
def small():
    return parsed(small_run(), title="Digits")


def test_nothing_of_the_page_lies_elsewhere(small):
    for element in small.elements:
        for name in ("src", "href", "data", "action", "srcset"):
            assert "http" not in element.attributes.get(name, "")
            assert not element.attributes.get(name, "").startswith("//")
    for element in small.all("a"):
        small.by_id(element.attributes["href"].removeprefix("#"))
    assert "@import" not in small.all("style")[0].text


def test_names_of_elements_are_there_once_and_what_refers_to_one_finds_it(small):
    names = [e.attributes["id"] for e in small.elements if "id" in e.attributes]
    assert len(names) == len(set(names))
    referring = ("aria-labelledby", "popovertarget", "data-chart", "data-spec", "data-examples")
    found = [e.attributes[r] for e in small.elements for r in referring if r in e.attributes]
    assert len(found) > 40 and set(found) <= set(names)


def test_every_figure_has_a_label_and_words_and_a_sentence_how_to_read_it(small):
    figures = small.all("figure")
    assert len(figures) >= 8
    for figure in figures:
        assert small.by_id(figure.attributes["aria-labelledby"]).text
        section = figure.parents[-1].attributes["id"]
        assert len(small.inside(section, "p", "read")[0].text) > 40
        (words,) = small.inside(section, "p", "described")
        assert len(words.text) > 20
    for chart in small.all("div", "chart"):
        assert chart.attributes["aria-label"] and chart.attributes["tabindex"] == "0"


def test_every_chart_is_a_specification_without_an_address(small):
    names = [e.attributes.get("id", "") for e in small.all("script")]
    charts = [name for name in names if "-spec" in name]
    assert len(charts) >= 8
    for name in charts:
        spec = small.unpacked(name)
        assert {"$schema", "config"} & set(spec) == set()
        assert {"layer", "hconcat", "vconcat", "concat", "mark", "facet"} & set(spec)
        assert "http" not in small.unpacked_text(name)
    themes = small.unpacked("themes")
    assert themes["light"]["background"] != themes["dark"]["background"]


def test_every_number_of_the_records_is_there_and_all_can_be_saved(small):
    records = small_run().records
    lines = small.unpacked_text("set0-lines").splitlines()
    assert [reporting.from_json(line) for line in lines] == list(records)
    table = small.by_id("set0-records").text
    verdict = small.by_id("set0-verdict").text
    for record in records:
        for name, metric in record.metrics.items():
            assert f"{metric.value:.6g}" in table
            shown = f"{metric.value * 100:.2f}" if metric.unit == "fraction" else None
            assert name in table and (shown is None or shown in verdict)


def rows_of_table(found, name="set0-verdict"):
    """Cells of each row of the verdict by the label of the row."""
    rows = {}
    for row in found.inside(name, "tr")[1:]:
        cells = [e for e in found.elements if e.parents and e.parents[-1] is row]
        label = cells[0].texts[0].strip()
        rows[label] = row, cells
    return rows


def test_retrained_models_stand_first_then_the_untouched_one_and_both_stay(small):
    rows = rows_of_table(small)
    assert list(rows)[:2] == [RETRAIN, NOTHING]
    places = {label: row.attributes.get("data-place", "") for label, (row, _) in rows.items()}
    assert places == {RETRAIN: "first", NOTHING: "first", "ssd": "", "finetune": ""}


def test_a_number_has_its_interval_its_floor_and_its_distance_from_retraining(small):
    heads = [h.text for h in small.inside("set0-verdict", "th") if h.attributes["scope"] == "col"]
    (ssd,) = [r for r in small_run().records if r.method == "ssd"]
    cells = {}
    for head, cell in zip(heads, rows_of_table(small)["ssd"][1]):
        cells[head.split(",")[0].split(" ?")[0]] = cell.text
    accuracy, klom = ssd.metrics["forget accuracy"], ssd.metrics["KLoM forget p95"]
    value, target = accuracy.value * 100, accuracy.oracle.mean * 100
    assert cells["forget accuracy"].startswith(f"{value:.2f} [{value - 1:.2f}, {value + 1:.2f}]")
    assert f"{value - target:+.2f} from retrained {target:.2f}" in cells["forget accuracy"]
    assert re.search(rf"^{klom.value:.2f}.*\[.*\] floor 0\.90", cells["KLoM forget p95"])


def test_columns_near_retraining_sort_by_the_distance_from_it(small):
    values = {r.method: r.metrics["forget accuracy"].value for r in small_run().records}
    for label, (_, cells) in rows_of_table(small).items():
        keys = [cell.attributes.get("data-sort") for cell in cells]
        assert any(key == repr(abs(values[label] - 0.62)) for key in keys)


def test_every_column_says_what_it_is_and_how_to_read_it(small):
    buttons = small.inside("set0-verdict", "button", "what")
    assert len(buttons) == len(small.inside("set0-verdict", "button", "sort")) - 2
    for button in buttons:
        text = small.by_id(button.attributes["popovertarget"]).text
        assert "recorded under the name" not in text and "etter" in text and "Unit:" in text


def test_what_comes_from_data_is_text(tmp_path):
    evil = "<script>alert(1)</script>"
    forget_set = ForgetSet(f"</script>{evil}", 5, ids=("<b>7",))
    reason = "<img src=x onerror=alert(2)>"
    metrics = {f"{evil} accuracy": Metric(0.5, unit="fraction"), "bad": mu.reporting.missing(evil)}
    records = [
        Record(evil, forget_set, 0, metrics, hyperparameters={evil: evil}, selection=evil),
        Record("ssd", forget_set, 0, metrics, status="collapsed", reason=reason),
    ]
    arrays = Arrays({name: examples_of("ssd", 3, SMALL) for name in (RETRAIN, evil)})
    found = parsed(Run(tuple(records), {forget_set.kind: arrays}, evil), title=f"</title>{evil}")
    safe = parsed(small_run())
    assert not found.all("img") and not found.all("b", "x")
    ours = [e.text for e in found.all("script") if "type" not in e.attributes]
    assert ours == [e.text for e in safe.all("script") if "type" not in e.attributes]
    assert evil in rows_of_table(found) and reason in found.visible
    assert found.all("title")[0].text == f"</title>{evil}"
    assert evil in found.unpacked("set0-examples-data")["rows"]


def test_a_metric_that_is_nan_says_so_in_its_place():
    run = small_run()
    records = [
        dataclasses.replace(r, metrics={**r.metrics, "MIA": not_a_number()})
        if r.method == "ssd"
        else r
        for r in run.records
    ]
    found = parsed(Run(tuple(records)))
    cells = [cell.text for cell in rows_of_table(found)["ssd"][1]]
    assert cells.count("missing: the value was nan") == 1
    assert "missing: no gap: a value or retrained models are missing" in cells
    assert all(cells), "a blank cell"
    assert "missing: the value was nan" in found.by_id("set0-records").text


def test_a_collapsed_row_is_grey_last_and_says_why():
    records = records_of(rows_of(3), 4)
    found = parsed(Run(records))
    rows = rows_of_table(found)
    row, cells = rows["constant"]
    assert "grey" in row.kinds and row.attributes["data-place"] == "last"
    assert list(rows)[-1] == "constant"
    assert "Collapsed: constant predictions: class 0" in cells[0].text
    assert not any("★" in cell.text for cell in cells)


def test_a_method_without_a_record_or_a_measurement_has_words_not_blanks():
    records = [Record("ssd", CLASS_3, 0, {"retain accuracy": Metric(0.9, unit="fraction")})]
    records += [Record("iau", CLASS_3, 0, {}, cost=Cost(wall_s=1.0))]
    rows = rows_of_table(parsed(Run(tuple(records))))
    assert rows[RETRAIN][1][2].text == "missing: no record"
    assert rows["iau"][1][2].text == "missing: not recorded"
    assert rows["ssd"][1][-1].text == "missing: not measured"
    assert all(cell.text for _, cells in rows.values() for cell in cells)


def test_seeds_are_counted_and_one_seed_is_named():
    one = Record("ssd", CLASS_3, 0, {"retain loss": Metric(0.25)})
    two = [Record("iau", CLASS_3, seed, {"retain loss": Metric(0.5 + seed)}) for seed in (0, 1)]
    rows = rows_of_table(parsed(Run((one, *two))))
    assert rows["ssd"][1][2].text == "0.250 one seed"
    assert rows["iau"][1][2].text == "1.000 ± 0.707, 2 seeds"


def test_without_retrained_models_sentences_stand_in_the_place_of_what_needs_them():
    rows = [NOTHING, "ssd"]
    records = tuple(
        Record(row, CLASS_3, 0, {"retain accuracy": Metric(0.9, unit="fraction")}) for row in rows
    )
    found = parsed(Run(records, {"class 3": arrays_of(rows, 3, SMALL)}))
    said = [e.text for e in found.all("p", "nothing")]
    assert any("retrained" in text for text in said)
    assert "nobody can tell which examples are forgotten" in found.by_id("set0-examples").text
    assert all(len(text) > 20 for text in said)


def test_without_arrays_the_page_has_its_table_and_says_what_is_not_here():
    found = parsed(Run(records_of([RETRAIN, NOTHING, "ssd"], 4)))
    assert "No arrays are kept beside these records" in found.visible
    assert "single examples cannot be shown" in found.by_id("set0-examples").text
    assert not found.all("div", "explorer") and found.inside("set0-tradeoff", "figure")


def test_forty_methods_all_have_a_row():
    found = parsed(Run(records_of(rows_of(40), 4)))
    assert len(rows_of_table(found)) == 43
    assert "long" in found.inside("set0-verdict", "div", "wide")[0].kinds


def test_a_class_without_examples_has_no_part_in_the_page_and_breaks_nothing():
    rows = [RETRAIN, NOTHING, "ssd"]
    sizes = {"forget": 6, "retain": 20, "test": 0}
    found = parsed(Run(records_of(rows, 4), {"class 3": arrays_of(rows, 4, sizes)}))
    assert list(found.unpacked("set0-examples-data")["sets"]) == ["forget", "retain"]
    (said,) = found.inside("set0-classes_test", "p", "nothing")
    assert len(said.text) > 20


def test_records_of_several_runs_on_one_forget_set_stand_in_one_table():
    first, second = Run(records_of([RETRAIN, "ssd"], 4)), Run(records_of([NOTHING], 4))
    found = parsed(first, second)
    assert list(rows_of_table(found)) == [RETRAIN, NOTHING, "ssd"]
    assert "2 runs have records of this forget set." in found.visible
    assert len(found.all("dl", "facts")) == 2


def test_sequential_requests_have_a_part_each_and_one_over_all():
    sets = [ForgetSet(f"request {k}", 5, f"{k}{k}") for k in range(3)]
    runs = [Run(records_of([RETRAIN, NOTHING, "ssd"], 4, forget_set=one)) for one in sets]
    found = parsed(*runs)
    assert [found.by_id(f"set{k}-title").text[12:21] for k in range(3)] == [s.kind for s in sets]
    assert found.inside("all-drift", "figure")


def test_a_sequence_of_requests_is_one_section_with_its_drift():
    records = [
        record
        for k in (1, 2, 3)
        for record in records_of(
            [RETRAIN, NOTHING, "ssd"],
            4,
            forget_set=ForgetSet("3 requests", 5 * k, f"{k}", request=k),
        )
    ]
    other = ForgetSet("3 requests", 5, "a set by itself of the same name")
    found = parsed(Run(tuple(records)), Run(records_of([RETRAIN, "ssd"], 4, forget_set=other)))
    ids = {element.attributes.get("id") for element in found.elements}
    assert {"set0-title", "set1-title", "set0-drift"} <= ids
    assert not {"set2-title", "set1-drift", "all-drift"} & ids
    assert found.inside("set0-drift", "figure")
    assert "after request 3" in found.visible and "3 requests one after another" in found.visible
    assert "15" in found.by_id("set0-title").text
    assert len(found.unpacked_text("set0-lines").splitlines()) == len(records)
    assert "ssd, request 2" in found.visible


def test_settings_of_a_sweep_are_rows_and_have_their_landscape():
    run = small_run()
    tried = [
        dataclasses.replace(record, hyperparameters={"alpha": alpha})
        for record in run.records
        for alpha in ((1.0, 3.0, 9.0) if record.method == "ssd" else (1.0,))
    ]
    found = parsed(Run(tuple(tried)))
    assert {"ssd (alpha=1.0)", "ssd (alpha=3.0)"} <= set(rows_of_table(found))
    assert found.inside("set0-landscape", "figure")


def test_equal_runs_give_equal_pages():
    run = Run(records_of([RETRAIN, "ssd"], 4))
    assert page.render([run]) == page.render([run])


def test_a_page_without_records_is_refused():
    with pytest.raises(ValueError, match="expected runs with records"):
        page.render([Run(())])


def test_the_files_of_the_page_are_installed():
    root = Path(mu.__file__).parent
    configuration = ConfigParser()
    assert configuration.read(root.parent / "setup.cfg")
    patterns = configuration["options.package_data"]["mu_jax.page"].split(", ")
    files = [
        p for p in (root / "page").rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")
    ]
    names = [str(path.relative_to(root / "page")) for path in files]
    assert len(names) >= 9
    assert all(any(fnmatch.fnmatch(name, p) for p in patterns) for name in names), names


def test_the_provenance_names_configuration_seeds_devices_and_arrays(small):
    text = small.by_id("provenance").text
    for word in ("5f3c0d", "cpu", "class 3", "ssd", mu.__version__):
        assert word in text


def test_one_number_of_all_examples_is_embedded_once(small):
    found = small.unpacked("set0-examples-data")
    assert {name: len(part["ids"]) for name, part in found["sets"].items()} == SMALL
    assert np.shape(found["sets"]["retain"]["rows"]["ssd"]["mean"]) == (20,)
