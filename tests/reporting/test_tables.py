from __future__ import annotations

import dataclasses
import io
import re

import numpy as np
import pytest
from rich.console import Console

from mu_jax import reporting
from mu_jax.reporting import Cost, ForgetSet, Metric, Oracle, Record
from mu_jax.reporting.grouping import by_setting

CLASS_3 = ForgetSet("class 3", 125, "ab12cd34ef")


def record(method, seed, retain, forget, *, forget_set=CLASS_3, klom=None, **fields):
    metrics = {
        "retain accuracy": Metric(retain, unit="fraction"),
        "forget accuracy": Metric(forget, unit="fraction"),
    }
    if klom is not None:
        metrics["klom"] = Metric(klom, n=100, null=0.35, direction="lower is better")
    return Record(method, forget_set, seed, metrics, **fields)


def study():
    """Three methods, two seeds, one of them collapsed; retrain and the untouched model."""
    collapsed = {"status": "collapsed", "reason": "constant predictions: class 0"}
    return [
        record("blindspot", 0, 0.90, 0.10, klom=3.0),
        record("blindspot", 1, 0.92, 0.10, klom=5.0),
        record("ssd", 0, 0.94, 0.04, cost=Cost(wall_s=1.5)),
        record("ssd", 1, 0.96, 0.04),
        record("ascent", 0, 0.96, 0.02),
        record("ascent", 1, 0.10, 0.10, **collapsed),
        record("retrain", 0, 0.96, 0.02),
        record("retrain", 1, 0.98, 0.02),
        record("do nothing", 0, 0.98, 0.99),
    ]


def rows_of(text):
    """Cells of the table by method, over all blocks: what stands between a rule and a gap."""
    found, inside = {}, False
    for line in text.splitlines():
        if re.fullmatch(r"[\s─-]*[─-]{5,}[\s─-]*", line):
            inside = True
        elif inside and line.strip():
            method, *cells = re.split(r"\s{2,}", line.strip())
            found.setdefault(method, []).extend(cells)
        else:
            inside = False
    return found


def test_rows_are_reference_baseline_then_by_gap_then_collapsed():
    (table,) = reporting.summarize(study())
    assert [row.label for row in table.rows] == [
        *("retrain", "do nothing", "ssd", "blindspot", "ascent")
    ]
    assert [row.best for row in table.rows] == [False, False, True, False, False]
    assert [row.collapsed for row in table.rows] == [False, False, False, False, True]
    assert [row.seeds for row in table.rows] == [2, 1, 2, 2, 2]


def test_cells_are_mean_and_sample_standard_deviation_over_seeds():
    (table,) = reporting.summarize(study())
    columns = [column.name for column in table.columns]
    blindspot = dict(zip(columns, table.rows[3].cells))
    values = [3.0, 5.0]
    assert blindspot["klom"] == (4.0, pytest.approx(np.std(values, ddof=1)), 2, None, None)
    assert blindspot["retain accuracy"].mean == pytest.approx(0.91)
    assert table.rows[1].cells[0] == (0.98, None, 1, None, None)
    assert "91.00 ± 1.41" in reporting.render(study(), width=200)


def test_a_single_run_shows_its_interval():
    metrics = {"klom": Metric(2.0, n=64, low=1.5, high=2.25)}
    one = Record("ssd", ForgetSet("class 3", 5), 0, metrics)
    text = reporting.render([one], width=200)
    assert "2.000 [1.500, 2.250]" in text and "in brackets a 95 % interval" in text
    two = Record("ssd", ForgetSet("class 3", 5), 1, metrics)
    assert "[" not in reporting.render([one, two]).split("Cells")[0]


def test_gap_is_paired_by_seed_and_the_floor_is_between_retrained_seeds():
    (table,) = reporting.summarize(study())
    gaps = {
        row.label: row.cells[[column.name for column in table.columns].index("average gap")]
        for row in table.rows
    }
    # ssd: both seeds are 2 points off in each accuracy; against the mean they would not agree.
    assert gaps["ssd"].mean == pytest.approx(2.0, abs=1e-4)
    assert gaps["ssd"].std == pytest.approx(0.0, abs=1e-4)
    assert gaps["retrain"].mean == pytest.approx(1.0, abs=1e-4)  # (2 + 0) / 2 between its seeds
    assert gaps["do nothing"].mean == pytest.approx((2 + 97) / 2, abs=1e-3)


def test_a_seed_that_retrain_lacks_is_compared_with_all_of_them():
    records = [r for r in study() if r.method == "retrain"] + [record("ssd", 7, 0.90, 0.02)]
    (table,) = reporting.summarize(records)
    gap = table.rows[-1].cells[-1]
    assert gap.mean == pytest.approx(((6 + 0) / 2 + (8 + 0) / 2) / 2, abs=1e-4)


def test_rows_below_the_floor_are_equal_and_not_ranked_among_themselves():
    # Between its own seeds retrain has 1 point; two methods are closer, one is not.
    others = [r for r in study() if r.method in ("retrain", "do nothing")]
    near = [record("near", seed, accuracy, 0.02) for seed, accuracy in ((0, 0.950), (1, 0.970))]
    nearer = [record("nearer", seed, accuracy, 0.02) for seed, accuracy in ((0, 0.96), (1, 0.98))]
    far = [record("far", seed, 0.96, 0.06) for seed in (0, 1)]
    (table,) = reporting.summarize([*others, *far, *near, *nearer])
    assert [row.label for row in table.rows[2:]] == ["near", "nearer", "far"]
    assert [row.best for row in table.rows[2:]] == [True, True, False]
    assert table.notes[-2] == (
        "* average gap not above that of retrain (1.00), the floor: near, nearer are equal and not "
        "ranked among themselves."
    )
    (table,) = reporting.summarize([*others, *far, *near])
    assert table.notes[-2].endswith("ranked methods, below the gap of retrain (1.00).")


def test_one_retrained_run_has_its_floor_from_the_oracles_beside_it():
    def beside(method, value, oracle):
        metric = Metric(value, unit="fraction", oracle=Oracle(oracle))
        return Record(method, CLASS_3, 0, {"retain accuracy": metric})

    rest = [beside("a", 0.958, 0.96), beside("b", 0.96, 0.96), beside("c", 0.95, 0.96)]
    (table,) = reporting.summarize([beside("retrain", 0.96, 0.955), *rest])
    assert table.rows[0].cells[-1].mean == pytest.approx(0.5, abs=1e-4)
    assert [(row.label, row.best) for row in table.rows[2:]] == [
        *(("a", True), ("b", True), ("c", False))
    ]
    assert "The gap of retrain is to other retrained models: the level of noise." in table.notes
    # Beside itself it has none, and all are ranked.
    (table,) = reporting.summarize([beside("retrain", 0.96, 0.96), *rest])
    assert table.rows[0].cells[-1].mean is None
    assert [row.label for row in table.rows[2:]] == ["b", "a", "c"]


def test_collapsed_rows_are_flagged_explained_and_never_best():
    text = reporting.render(study(), width=200)
    rows = rows_of(text)
    assert "ascent [collapsed]" in rows
    assert "ascent collapsed (1 of 2 seeds, not ranked): constant predictions: class 0." in text
    stars = [label for label, cells in rows.items() if any("*" in cell for cell in cells)]
    assert stars == ["ssd"]
    # Were it not collapsed it would win.
    honest = [r for r in study() if r.method != "ascent"] + [record("ascent", 0, 0.96, 0.02)]
    (table,) = reporting.summarize(honest)
    assert [row.label for row in table.rows if row.best] == ["ascent"]


def test_titles_say_unit_and_direction():
    text = reporting.render(study(), markdown=True)
    assert "retain accuracy (%, closer to retrain)" in text
    assert "klom (lower is better)" in text
    assert "average gap (points, lower is better)" in text
    assert "run time (ms, lower is better)" in text
    assert "klom: a perfect unlearner scores 0.35 (N = 100)." in text
    assert "over retain accuracy, forget accuracy, in percentage points" in text


def test_missing_is_a_dash_with_a_sentence():
    # In the seed where nothing is missing iau would have the smallest gap.
    records = [*study(), record("iau", 0, 0.96, 0.02), record("iau", 1, 0.96, float("nan"))]
    text = reporting.render(records, width=200)
    assert "klom is missing (-): not recorded (retrain, do nothing, ssd, iau, ascent)." in text
    assert "*" in "".join(rows_of(text)["ssd"])
    assert "forget accuracy is missing (-): the value was nan (iau)." in text
    assert "wall_s is missing (-): not measured" in text
    assert "A run that lacks one of these has no average gap, and its row is not ranked." in text
    iau = rows_of(text)["iau"]
    assert iau[2] == "2.00 (n=1)" and "-" in iau
    assert "nan" not in "".join(iau)


def test_absent_reference_and_baseline_have_empty_rows_and_sentences():
    text = reporting.render([r for r in study() if r.method in ("ssd", "blindspot")], width=200)
    rows = rows_of(text)
    assert set(rows["retrain"]) == set(rows["do nothing"]) == {"0", "-"}
    assert "retrain: no record, so the row is empty." in text
    assert "No average gap: it is measured against retrain." in text
    assert "average gap  " not in text and "*" not in text


def test_one_retrained_seed_has_no_noise_level():
    text = reporting.render([r for r in study() if r.seed == 0], width=200)
    assert "retrain has one seed, so the level of noise of the gap is not known." in text
    assert "±" not in text.split("\n\n")[1]


def test_other_names_of_the_special_rows():
    records = [record("oracle", 0, 0.9, 0.1), record("original", 0, 0.9, 0.9)]
    (table,) = reporting.summarize(records, reference="oracle", baseline="original")
    assert [row.label for row in table.rows] == ["oracle", "original"]
    assert "between its own seeds" not in " ".join(table.notes)
    assert "smallest" not in " ".join(table.notes)  # there is nothing to rank


def test_settings_of_one_method_are_separate_rows():
    records = [
        record("ssd", 0, 0.9, 0.1, hyperparameters={"alpha": alpha, "dampening": 1.0})
        for alpha in (2, 10)
    ] + [record("ssd", 1, 0.8, 0.1, hyperparameters={"dampening": 1.0, "alpha": 2})]
    (table,) = reporting.summarize(records)
    seeds = {row.label: row.seeds for row in table.rows}
    assert seeds == {"retrain": 0, "do nothing": 0, "ssd (alpha=2)": 2, "ssd (alpha=10)": 1}


def test_selection_is_stated_and_tells_settings_apart():
    records = [
        record("dmm", 0, 0.9, 0.1, selection="tuned with the oracle"),
        record("dmm", 0, 0.8, 0.1, selection="fixed default"),
    ]
    text = reporting.render(records, width=200)
    assert "dmm (tuned with the oracle)" in rows_of(text)
    assert "Hyper-parameters: tuned with the oracle (dmm (tuned with the oracle));" in text


def test_a_repeated_seed_counts_once_and_is_said():
    text = reporting.render([*study(), record("ssd", 0, 0.90, 0.04)], width=200)
    assert rows_of(text)["ssd"][:2] == ["2", "93.00 ± 4.24"]
    assert "ssd: 1 earlier record(s) of the same seeds do not count." in text


def test_failed_runs_are_counted_and_explained():
    failed = Record("ssd", CLASS_3, 2, status="failed", reason="out of memory")
    text = reporting.render([*study(), failed], width=200)
    assert "ssd failed (1 of 3 seeds): out of memory." in text
    assert rows_of(text)["ssd"][0] == "2"


def test_every_forget_set_has_its_own_table():
    other = ForgetSet("random 10 %", 120)
    records = [*study(), record("ssd", 0, 0.5, 0.5, forget_set=other)]
    tables = reporting.summarize(records)
    assert [table.title for table in tables] == [
        "Forget set: class 3, 125 examples (ab12cd34)",
        "Forget set: random 10 %, 120 examples",
    ]
    assert reporting.render(tables) == reporting.render(records)
    first, second = reporting.summarize(records, metrics=["klom"], costs=["wall_s"])
    assert second.rows[-1].cells[0].mean is None  # no record of this forget set has it
    assert "klom is missing (-): not recorded (ssd)." in second.notes
    assert [column.name for column in first.columns] == ["klom", "run time"]
    assert [column.name for column in second.columns] == ["klom"]


@pytest.mark.parametrize("width", [60, 80, 140])
def test_plain_and_rich_fit_the_terminal_and_lose_nothing(width):
    label = {"hyperparameters": {"a_long_name_of_a_parameter": 1.5, "layers": "all but first"}}
    records = [*study(), record("ssd", 0, 0.5, 0.5, **label)]
    expected = rows_of(reporting.render(records, width=1000))
    console = Console(file=io.StringIO(), width=width)
    console.print(reporting.to_rich(records, width=width))
    for text in (reporting.render(records, width=width), console.file.getvalue()):
        assert max(map(len, text.splitlines())) <= width
        rows = rows_of(text)
        assert rows["blindspot"] == expected["blindspot"]
        assert rows["retrain"] == expected["retrain"]
    narrow = reporting.render(records, width=width)
    assert (narrow.count("\nmethod ") > 1) == (width < 140)


def test_rich_shows_brackets_and_styles():
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system="truecolor")
    console.print(reporting.to_rich(study(), width=200))
    text = console.file.getvalue()
    assert "ascent [collapsed]" in text
    (line,) = [line for line in text.splitlines() if "ascent [collapsed]" in line]
    assert "\x1b[2m" in line  # dim
    (line,) = [line for line in text.splitlines() if re.search(r"ssd\b", line) and "*" in line]
    assert "\x1b[1m" in line  # bold


def test_markdown_is_one_table_with_pipes_escaped():
    records = [record("a|b", 0, 0.9, 0.1), *study()]
    lines = reporting.render(records, markdown=True).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {8}
    assert any("a\\|b" in line for line in table)


def test_columns_and_gap_can_be_chosen_and_a_metric_may_be_called_average_gap():
    own = {"average gap": Metric(0.5, unit="fraction"), "x": Metric(12.0)}
    records = [*study(), Record("iau", CLASS_3, 0, own)]
    (table,) = reporting.summarize(
        records, metrics=["x", "average gap"], gap_metrics=["retain accuracy"], costs=[]
    )
    assert [column.name for column in table.columns] == ["x", "average gap", "average gap"]
    cells = {row.label: row.cells for row in table.rows}
    assert [cell.mean for cell in cells["iau"]] == [12.0, 0.5, None]
    assert cells["ssd"][2].mean == pytest.approx(2.0, abs=1e-4)


def test_decimals_suit_the_size_of_a_column():
    def text(*values):
        records = [
            Record(name, CLASS_3, 0, {"m": Metric(value)}) for name, value in zip("abc", values)
        ]
        rows = rows_of(reporting.render(records))
        return [rows[name][1] for name, _ in zip("abc", values)]

    assert text(11.0, 0.36) == ["11.00", "0.36"]
    assert text(0.0123, 0.5) == ["0.5000", "0.0123"][::-1]
    assert text(123456.0) == ["123456"]
    assert text(1.5e9, 3e-7) == ["1.5e+09", "3e-07"]
    assert text(0.0) == ["0.00"]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: reporting.render([]), "at least one record"),
        (lambda: reporting.render(study(), metrics=["auc"]), "found auc"),
        (lambda: reporting.render(study(), gap_metrics=["auc"]), "found auc"),
        (lambda: reporting.render(study(), costs=["hours"]), "found hours"),
        (lambda: reporting.render(study(), width=30), "at least 40"),
        (lambda: reporting.render([*study(), *reporting.summarize(study())]), "alone"),
        (
            lambda: reporting.render(
                [record(name, 0, 1, 1, klom=0.5) for name in ("retrain", "ssd")],
                gap_metrics=["klom"],
            ),
            "found 'klom', of which lower is better",
        ),
        (
            lambda: reporting.render([*study(), record("retrain", 0, 1, 1, selection="other")]),
            "one setting of 'retrain'",
        ),
        (
            lambda: reporting.render(
                [*study(), Record("iau", CLASS_3, 0, {"retain accuracy": Metric(95.0)})]
            ),
            "one direction and unit of 'retain accuracy'",
        ),
    ],
)
def test_what_cannot_be_tabulated_is_refused(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_a_value_better_than_a_perfect_unlearners_is_flagged_and_never_best():
    records = study()
    (table,) = reporting.summarize(records)
    assert [row.label for row in table.rows if row.best] == ["ssd"]
    # With KLoM below its floor of 0.35 the row that would be the best is not ranked.
    records = [r for r in records if r.method != "ssd"]
    records += [record("ssd", 0, 0.96, 0.02, klom=0.34), record("ssd", 1, 0.98, 0.02, klom=0.5)]
    (table,) = reporting.summarize(records)
    assert [row.label for row in table.rows] == [
        *("retrain", "do nothing", "blindspot", "ssd", "ascent")
    ]
    assert [row.best for row in table.rows] == [False, False, True, False, False]
    assert [row.doubtful for row in table.rows] == [False, False, False, True, False]
    text = reporting.render(records, width=200)
    assert "ssd [better than perfect]" in rows_of(text)
    assert "ssd is better than a perfect unlearner in klom" in text


@pytest.mark.parametrize(
    "value, direction, flag",
    [
        (0.3, "lower is better", True),
        (0.4, "lower is better", False),
        (0.35, "lower is better", False),
        (0.4, "higher is better", True),
        (0.3, "higher is better", False),
        (0.3, "closer to retrain", False),
        (None, "lower is better", False),
    ],
)
def test_better_than_perfect_follows_the_direction(value, direction, flag):
    reason = "" if value is not None else "none"
    metric = Metric(value, null=0.35, direction=direction, reason=reason)
    assert metric.better_than_perfect == flag
    assert not Metric(0.1, direction="lower is better").better_than_perfect


def test_an_interval_that_would_not_cover_is_a_dash_in_brackets_with_its_reason():
    why = "expected at least 72 values, found 50"
    metrics = {
        "klom": Metric(2.0, n=64, no_interval=why),
        "x": Metric(1.0, note="models 3 and 9 widen the bins"),
    }
    one = Record("ssd", CLASS_3, 0, metrics)
    text = reporting.render([one], width=200)
    assert rows_of(text)["ssd"][1] == "2.000 [-]" and rows_of(text)["ssd"][2] == "1.000"
    assert f"klom has no interval [-]: {why} (ssd)." in text
    assert "x: models 3 and 9 widen the bins (ssd)." in text
    assert "[-] where an interval would not cover" in text
    assert reporting.from_json(reporting.to_json(one)) == one
    with pytest.raises(ValueError, match="leave out either"):
        Metric(2.0, low=1.0, high=3.0, no_interval=why)


def test_run_time_is_shown_as_a_share_of_that_of_the_retrained_models():
    timed = [
        record("retrain", 0, 0.96, 0.02, cost=Cost(wall_s=4.0)),
        record("retrain", 1, 0.96, 0.02, cost=Cost(wall_s=6.0)),
        record("do nothing", 0, 0.98, 0.99, cost=Cost(wall_s=0.0)),
        record("ssd", 0, 0.94, 0.04, cost=Cost(wall_s=0.5)),
        record("blindspot", 0, 0.94, 0.04),
    ]
    (table,) = reporting.summarize(timed)
    assert [column.name for column in table.columns][-2:] == ["run time", "of retraining"]
    shares = {row.label: row.cells[-1].mean for row in table.rows}
    assert shares == {"retrain": 1.0, "do nothing": 0.0, "ssd": 0.1, "blindspot": None}
    assert rows_of(reporting.render(timed))["ssd"][-1] == "10.0"
    untimed = [each for each in study() if each.method != "retrain"]
    names = [column.name for column in reporting.summarize(untimed)[0].columns]
    assert "run time" in names and "of retraining" not in names


def test_records_of_one_seed_with_different_metrics_are_one_row():
    klom = Metric(3.0, n=32, direction="lower is better", unit="nats")
    of_ensembles = Record("ssd", CLASS_3, 0, {"KLoM": klom})
    (setting,) = by_setting([record("ssd", 0, 0.9, 0.1), of_ensembles])
    (run,) = setting.runs
    assert setting.replaced == 0
    assert run.metrics["retain accuracy"].value == 0.9 and run.metrics["KLoM"] == klom
    broken = dataclasses.replace(of_ensembles, status="collapsed", reason="constant")
    (setting,) = by_setting([record("ssd", 0, 0.9, 0.1), broken])
    assert [run.reason for run in setting.collapsed] == ["constant"]
    failed = dataclasses.replace(of_ensembles, metrics={}, status="failed", reason="no memory")
    (setting,) = by_setting([record("ssd", 0, 0.9, 0.1), failed])
    assert (setting.runs, setting.replaced) == ((), 1)
