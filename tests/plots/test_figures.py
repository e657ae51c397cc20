"""What holds of every figure: it is drawn, says what it shows, and carries no more than it must."""

from __future__ import annotations

import json
import math

import pytest
import vl_convert
from plot_cases import FIGURES, nested, rows_of, spec

from mu_jax import plots

pytestmark = pytest.mark.parametrize("name", FIGURES)

# Axis types and titles, the number of panels, and words that stand somewhere.
LOOKS = {
    "tradeoff": (set(), 0, ["test accuracy, %", "closer to the band of retrained models"]),
    "klom": ({"log"}, 3, ["KLoM, nats (as low as the floor is best)", "forget set (60 examples)"]),
    "membership": ({"log"}, 2, ["false positive rate, % of test examples"]),
    "losses": ({"log", "symlog"}, 4, ["loss", "forget examples"]),
    "classes": (set(), 3, ["points against retrained", "class"]),
    "confusion": (set(), 2, ["predicted class"]),
    "similarity": (set(), 2, ["layer, from input to output", "linear CKA"]),
    "edits": (set(), 3, ["entries that changed, %", "move / norm before, %"]),
    "ratios": ({"log"}, 0, ["importance ratio, forget / all", "entries (logarithmic)"]),
    "relearning": (set(), 0, ["steps of training", "accuracy on the forget set"]),
    "run_time": (set(), 0, ["% of the run time of retraining", "(less is better)"]),
    "landscape": ({"log", "symlog"}, 2, ["average gap to retraining, points", "alpha", "norm"]),
    "drift": (
        {"log", "symlog"},
        4,
        ["number of the request", "minus retrained", "% of retraining", "the band is the goal"],
    ),
    "examples": (set(), 2, ["margin of ssd", "examples chosen"]),
}


def test_axes_panels_and_words(name):
    found = spec(name)
    kinds, panels, words = LOOKS[name]
    scales = {scale["type"] for scale in nested(found, "scale") if scale and "type" in scale}
    assert scales - {"sqrt"} == kinds
    whole = next((found[key] for key in ("hconcat", "vconcat", "concat") if key in found), [])
    if name == "landscape":
        whole = whole[1]["concat"]
    assert len(whole) == panels
    text = json.dumps(found, ensure_ascii=False)
    assert all(word in text for word in words)


def test_it_says_what_it_shows(name):
    found = spec(name)
    assert found["title"]["text"] and len(found["description"].split()) > 8
    for word in ("nan", "None", "inf,"):
        assert word not in found["description"].split()
    for channel in ("x", "y"):
        for encoded in nested(found, channel):
            if isinstance(encoded, dict) and encoded.get("title"):
                title = encoded["title"]
                assert "_" not in title if isinstance(title, str) else all(title)


def test_no_number_is_missing_or_longer_than_an_eye_can_see(name):
    found = spec(name)
    json.dumps(found, allow_nan=False)
    numbers = [v for row in rows_of(found) for v in row.values() if isinstance(v, float)]
    assert numbers and all(math.isfinite(number) for number in numbers)
    assert all(number == float(f"{number:.5g}") for number in numbers)
    optional = {"low", "high"} if name in ("klom", "landscape") else set()
    absent = {k for row in rows_of(found) for k, v in row.items() if v is None}
    assert absent <= optional
    assert len(json.dumps(found)) < 60_000


def test_vega_draws_it_with_its_labels_and_no_warning(name, capfd):
    for dark in (False, True) if name in ("tradeoff", "losses", "run_time") else (False,):
        text = vl_convert.vegalite_to_svg(spec(name) | {"config": plots.theme(dark)})
        assert text.count("<path") > 5
        assert "NaN" not in text and "undefined" not in text
        assert spec(name)["title"]["text"] in text
        ground = "#15181c" if dark else "#ffffff"
        assert ground in text and 'aria-roledescription="title"' in text
    assert "WARN" not in capfd.readouterr().err


def test_it_is_a_pure_function(name):
    assert FIGURES[name]().to_dict(validate=False) == spec(name)
