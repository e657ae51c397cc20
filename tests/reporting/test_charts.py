"""Pictures: the mean and its band are drawn, files are whole and alike, bad input is named."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mu_jax import evaluation
from mu_jax.reporting import charts

pytest.importorskip("matplotlib")


def panel(values, **fields):
    return charts.Panel("title", "steps", "nats", {"npo": values}, **fields)


def test_equal_input_gives_equal_bytes_with_names_and_numbers_of_runs(tmp_path):
    values = np.random.default_rng(0).normal(size=(9, 4))
    for name in ("a.svg", "b.svg"):
        charts.draw_panels(tmp_path / name, [panel(values)])
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    for word in ("title", "steps", "nats", "npo (n=9)"):
        assert word in text


def test_the_band_is_the_interval_and_for_few_runs_the_range():
    values = np.random.default_rng(0).exponential(size=9)
    found = evaluation.t_interval(values)
    assert charts._band(values) == (found.estimate, found.low, found.high)
    assert charts._band(values[:3]) == (values[:3].mean(), values[:3].min(), values[:3].max())
    assert charts._band(np.full(9, 2.0)) == (2.0, 2.0, 2.0)


def test_a_name_has_one_color_in_all_panels(tmp_path):
    ones, twos = np.ones((2, 3)), np.full((2, 3), 2.0)
    first = charts.Panel("first", "x", "y", {"retrain": ones, "npo": twos})
    second = charts.Panel("second", "x", "y", {"npo": twos, "retrain": ones})
    charts.draw_panels(tmp_path / "a.svg", [first, second])
    lines = re.findall(r"#1f77b4|#ff7f0e", (tmp_path / "a.svg").read_text())
    assert lines.count("#1f77b4") == lines.count("#ff7f0e") > 2
    blue = [k for k, color in enumerate(lines) if color == "#1f77b4"]
    assert blue[0] == 0 and blue[-1] == len(lines) - 1, "the order of the second is another"


def test_what_is_drawn_lies_where_it_should():
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    found = panel([[0.0, 4.0], [2.0, 8.0]], ticks=("before", "after"))
    charts._draw(axes, found, {"npo": "C3"}, legend=True)
    assert axes.lines[0].get_color() == "C3"
    assert axes.lines[0].get_ydata().tolist() == [1.0, 6.0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["before", "after"]
    assert re.search("npo", axes.get_legend().get_texts()[0].get_text())


@pytest.mark.parametrize(
    "name, panels, said",
    [
        ("a.png", [panel(np.ones((2, 2)))], "ends in .svg"),
        ("a.svg", [], "at least one curve"),
        ("a.svg", [charts.Panel("t", "x", "y", {})], "at least one curve"),
        ("a.svg", [panel(np.ones(3))], "of 'npo', found shape"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_no_file(tmp_path, name, panels, said):
    with pytest.raises(ValueError, match=r"^expected ") as caught:
        charts.draw_panels(tmp_path / name, panels)
    assert said in str(caught.value) and not list(tmp_path.iterdir())
