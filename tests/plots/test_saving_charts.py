"""Charts as files, and panels of curves: whole or not at all, equal bytes, no network."""

from __future__ import annotations

import json
import struct
import subprocess
import sys

import numpy as np
import pytest
from plot_cases import rows_of

from mu_jax import evaluation, plots
from mu_jax.plots._data import spread


def chart():
    values = np.random.default_rng(0).normal(size=(9, 100))
    first = plots.Panel("NLL", "steps", "nats", {"retrain": values, "npo": values + 1})
    ticks = plots.Panel("Exposure", "", "bits", {"npo": [[0, 4], [2, 8]]}, ("before", "after"))
    return plots.panels([first, ticks])


def test_panels_have_means_and_intervals_of_no_more_points_than_are_seen():
    rows = rows_of(chart().to_dict())
    values = np.random.default_rng(0).normal(size=(9, 100))
    curve = [r for r in rows if r["row"] == "retrain (n=9)"]
    assert len(curve) == 64 and [curve[0]["x"], curve[-1]["x"]] == [0, 99]
    wanted = evaluation.t_interval(values[:, 99])
    assert curve[-1]["low"] == pytest.approx(wanted.low, rel=1e-4)
    ends = {r["x"]: (r["y"], r["low"], r["high"]) for r in rows if r["row"] == "npo (n=2)"}
    assert ends == {"before": (1, 0, 2), "after": (6, 4, 8)}


def test_a_spread_is_an_interval_and_for_few_models_a_range():
    values = np.random.default_rng(0).exponential(size=9)
    found = evaluation.t_interval(values)
    assert spread(values)[:3] == (found.estimate, found.low, found.high)
    assert spread(values[:3])[1:3] == (values[:3].min(), values[:3].max())
    assert spread(np.full(9, 2.0))[:3] == (2.0, 2.0, 2.0)
    assert spread(np.append(np.ones(9), 0.5), fraction=True).high <= 1


@pytest.mark.parametrize("ending", ["svg", "png", "json"])
def test_equal_charts_give_equal_bytes_of_the_kind_that_the_ending_names(tmp_path, ending):
    for name in ("a", "b"):
        plots.save(chart(), tmp_path / f"{name}.{ending}", scale=1.0)
    data = (tmp_path / f"a.{ending}").read_bytes()
    starts = {"svg": b"<svg", "png": b"\x89PNG", "json": b"{"}
    assert data.lstrip().startswith(starts[ending])
    assert data == (tmp_path / f"b.{ending}").read_bytes()
    if ending == "json":
        assert json.loads(data)["config"] == plots.theme()


def test_an_html_file_asks_nobody_for_a_script(tmp_path):
    plots.save(chart(), tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    assert text.lstrip().startswith("<!DOCTYPE html>")
    assert 'src="http' not in text and 'href="http' not in text


def test_a_png_has_the_size_asked_for_and_the_ground_of_the_theme(tmp_path):
    sizes = []
    for dark, scale in ((False, 1.0), (True, 2.0)):
        plots.save(chart(), tmp_path / "a.png", dark=dark, scale=scale)
        sizes.append(np.array(struct.unpack(">II", (tmp_path / "a.png").read_bytes()[16:24])))
    assert (abs(sizes[1] - 2 * sizes[0]) <= 2).all()
    plots.save(chart(), tmp_path / "a.svg", dark=True)
    assert 'fill="#15181c"' in (tmp_path / "a.svg").read_text()


@pytest.mark.parametrize("name", ["a.gif", "a"])
def test_another_ending_is_one_sentence_and_leaves_no_file(tmp_path, name):
    with pytest.raises(ValueError, match=r"^expected a path that ends in \.png") as caught:
        plots.save(chart(), tmp_path / name)
    assert name in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "values, said", [(np.ones(3), "of 'npo', found shape"), ([[np.nan, 1.0]], "NaN or infinite")]
)
def test_curves_of_another_shape_or_not_finite_are_refused(values, said):
    with pytest.raises(ValueError, match=said):
        plots.panels([plots.Panel("t", "x", "y", {"npo": values})])


def test_a_missing_package_is_named_with_its_extra():
    code = "import sys; sys.modules['altair'] = None\nimport mu_jax as mu\nmu.plots"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "pip install 'mu_jax[charts]'" in done.stderr


def test_a_specification_is_the_chart_with_the_theme():
    found = plots.specification(chart(), dark=True)
    assert found["config"] == plots.theme(dark=True)
    assert found["hconcat"] == chart().to_dict()["hconcat"]
